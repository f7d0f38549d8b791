"""Checkpoints: bit-exact resume, any framework, another block size, a kill while writing."""

from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from matroot_optim import ExecutorEngine, InlineEngine, Shampoo
from optim.problems import SHAPES, assert_same, run, weights

OPTIONS = {"learning_rate": 0.05, "refresh_every": 4, "block_size": 4, "ridge": 1e-4, "refresh_growth": 0.0}


def assert_same_state(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", "", ".ckpt"])
@pytest.mark.parametrize("step", [1, 6, 8])
@pytest.mark.parametrize("options", [OPTIONS, {"learning_rate": 0.05}])
def test_resume_is_bit_exact(tmp_path, options, suffix, step):
    opt = Shampoo(**options)
    want, last = run(opt, 20)
    params, state = run(opt, 20 - (20 - step))
    path = tmp_path / f"state{suffix}"
    state.save(path)
    again = opt.load(path, params)
    assert_same_state(again, state)
    got, resumed = run(opt, 20, params=params, state=again, skip=step)
    assert_same(got, want)
    assert_same_state(resumed, last)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("lag", [1, 3, 6])
def test_resume_with_jobs_under_way(tmp_path, lag):
    path = tmp_path / "state.npz"
    with ExecutorEngine(lambda: ThreadPoolExecutor(2), lag=lag) as engine:
        opt = Shampoo(**OPTIONS, engine=engine)
        want, last = run(opt, 25)
        params, state = run(opt, 10)
        assert state.pending
        state.save(path)
    opt = Shampoo(**OPTIONS, engine=InlineEngine(lag))
    got, resumed = run(opt, 25, params=params, state=opt.load(path, params), skip=10)
    assert_same(got, want)
    assert_same_state(resumed, last)


def test_pickle_and_deep_copy_with_jobs_under_way():
    with ExecutorEngine(lambda: ThreadPoolExecutor(2), lag=3) as engine:
        opt = Shampoo(**OPTIONS, engine=engine)
        want, _ = run(opt, 25)
        params, state = run(opt, 10)
        copies = pickle.loads(pickle.dumps(state)), copy.deepcopy(state)
    for again in copies:
        got, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(3)), 25, params=params, state=again, skip=10)
        assert_same(got, want)


def test_without_roots(tmp_path):
    opt = Shampoo(**OPTIONS)
    params, state = run(opt, 10)
    state.save(tmp_path / "small.npz", roots=False)
    state.save(tmp_path / "large.npz")
    assert (tmp_path / "small.npz").stat().st_size < (tmp_path / "large.npz").stat().st_size
    again = opt.load(tmp_path / "small.npz", params)
    for name in state:
        if not state.of_root(name):
            np.testing.assert_array_equal(again[name], state[name])
    _, after = run(opt, 11, params=params, state=again, skip=10)
    ages = [11 - int(after[name]) for name in after if name.endswith("/taken")]
    assert ages
    assert set(ages) == {0}  # computed at once
    _, later = run(opt, 20, params=params, state=again, skip=10)
    assert len({int(later[name]) for name in later if name.endswith("/taken")}) > 2  # and in phases again


def test_another_block_size(tmp_path):
    params, state = run(Shampoo(**OPTIONS), 20)
    path = tmp_path / "state.npz"
    state.save(path)
    for size in (2, 3, 8, 1000):
        opt = Shampoo(**{**OPTIONS, "block_size": size})
        again = opt.load(path, params)
        for name in ("a/momentum", "a/moment", "c/moment", "a/count", "step"):
            np.testing.assert_array_equal(again[name], state[name])
        for axis in (0, 1):
            old, new = (trace(s, "a", axis) for s in (state, again))
            np.testing.assert_allclose(new, old, rtol=1e-12)
        got, after = run(opt, 25, params=params, state=again, skip=20)
        assert all(np.isfinite(x).all() for x in got.values())
        assert opt.diagnostics(after).worst_residual < 0.1


def trace(state, path, axis):
    names = [n for n in state if n.startswith(f"{path}/block") and n.endswith(f"axis{axis}/statistic")]
    total = 0.0
    for name in names:
        n = int((np.sqrt(8 * len(state[name]) + 1) - 1) / 2)
        total += sum(state[name][k * (k + 3) // 2] for k in range(n))
    return total


def test_another_schedule_and_interval(tmp_path):
    params, state = run(Shampoo(**OPTIONS), 10)
    state.save(tmp_path / "s.npz")
    opt = Shampoo(**{**OPTIONS, "refresh_every": 2, "schedule": "interval", "momentum": "none", "graft": "sgd"})
    again = opt.load(tmp_path / "s.npz", params)
    assert "a/momentum" not in again
    got, _ = run(opt, 15, params=params, state=again, skip=10)
    assert all(np.isfinite(x).all() for x in got.values())


WAYS = [("numpy", "torch"), pytest.param("torch", "jax", marks=pytest.mark.slow), ("jax", "numpy")]


@pytest.mark.slow
@pytest.mark.parametrize(("frm", "to"), WAYS)
def test_across_frameworks(tmp_path, frm, to):
    from optim.test_optim_frameworks import convert, to_numpy

    params = {k: v.astype(np.float32) for k, v in weights({"a": (8, 6), "c": (5,)}).items()}
    opt = Shampoo(**OPTIONS)
    here = convert(params, frm)
    state = opt.init(here)
    for _ in range(6):
        _, state = opt.update(here, state, here)
    state.save(tmp_path / "s.safetensors")
    again = opt.load(tmp_path / "s.safetensors", convert(params, to))
    assert_same_state({n: to_numpy(x) for n, x in again.items()}, {n: to_numpy(x) for n, x in state.items()})
    there = convert(params, to)
    u, _ = opt.update(there, again, there)
    v, _ = opt.update(here, state, here)
    for k in u:
        np.testing.assert_allclose(to_numpy(u[k]), to_numpy(v[k]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_a_scalar_stays_one(tmp_path, framework):
    from optim.test_optim_frameworks import convert

    opt, params = Shampoo(0.1, averaging="ema"), convert({"a": np.float32(3) * np.ones(()), "c": np.ones(2)}, framework)
    _, state = opt.update(params, opt.init(params), params)
    state.save(tmp_path / "s.npz")
    again = opt.load(tmp_path / "s.npz", params)
    assert {name: np.shape(x) for name, x in again.items()} == {name: np.shape(x) for name, x in state.items()}
    u, v = (opt.update(params, s, params)[0] for s in (state, again))
    for k in params:
        assert u[k].shape == v[k].shape == params[k].shape and (u[k] == v[k]).all()


def test_wrong_files_are_named(tmp_path):
    opt = Shampoo(**OPTIONS)
    params, state = run(opt, 2)
    path = tmp_path / "s.npz"
    state.save(path)
    with pytest.raises(ValueError, match=r"it lacks \['z'\] and has beside \['a', 'b', 'c', 'd', 'e'\]"):
        opt.load(path, {"z": np.ones(2)})
    with pytest.raises(ValueError, match=r"must have shape \(9, 6\) for 'a', got \(6, 9\)"):
        opt.load(path, {**params, "a": params["a"].T})
    one_sided = Shampoo(**OPTIONS, preconditioned_dims="one_sided")
    with pytest.raises(ValueError, match=r"must have axes \(0,\) for 'a', got \(0, 1\)"):
        one_sided.load(path, params)
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="without its metadata"):
        opt.load(tmp_path / "other.npz", params)
    (tmp_path / "text").write_text("not a checkpoint at all, by far")
    with pytest.raises(ValueError, match="must be a checkpoint written by save"):
        opt.load(tmp_path / "text", params)
    with pytest.raises(FileNotFoundError):
        opt.load(tmp_path / "nowhere", params)


def test_names_are_flat_and_arrays_packed():
    opt = Shampoo(**OPTIONS)
    _, state = run(opt, 5)
    assert state["a/block0/axis1/statistic"].shape == (6,)  # 9 is three times 3
    assert state["a/block0/axis1/root"].shape == (3, 3)
    assert state["a/momentum"].shape == SHAPES["a"]
    assert len(list(state)) == len(state)
    assert "a/block99/axis0/root" not in state


def test_memory_per_parameter_is_the_formula():
    """m n matrix in blocks of b, momentum and moment: 2 m n + blocks (2 (b (b + 1) / 2) + 2 b^2) numbers."""
    opt = Shampoo(0.1, block_size=32)
    W = np.zeros((64, 96), np.float32)
    state = opt.init(W)
    arrays = [x for name, x in state.arrays.items() if name.endswith(("statistic", "root", "moment", "momentum"))]
    blocks, b = 6, 32
    assert sum(x.size for x in arrays) == 2 * W.size + blocks * (b * (b + 1) + 2 * b * b)
    assert {x.dtype for x in arrays} == {np.dtype(np.float32)}
    rest = sum(np.asarray(x).nbytes for x in state.arrays.values()) - sum(x.nbytes for x in arrays)
    assert rest <= 128 * 2 * blocks + 64  # the books


def test_a_load_with_a_shorter_lag_counts_no_failure(tmp_path):
    """Jobs under way come after younger roots, and are passed over."""
    params, state = run(Shampoo(**OPTIONS, engine=InlineEngine(5)), 12)
    state.save(tmp_path / "s.npz")
    opt = Shampoo(**OPTIONS)
    _, after = run(opt, 20, params=params, state=opt.load(tmp_path / "s.npz", params), skip=12)
    roots = [name.removesuffix("/root") for name in after if name.endswith("/root")]
    assert roots
    assert {int(after[f"{name}/{part}"]) for name in roots for part in ("failures", "skipped")} == {0}
    assert max(20 - int(after[f"{name}/taken"]) for name in roots) < OPTIONS["refresh_every"]


def test_jobs_under_way_of_a_layer_named_pending(tmp_path):
    params = {"net": {"pending_head": np.eye(3, 4)}}
    opt = Shampoo(**OPTIONS, engine=InlineEngine(3))
    state = opt.init(params)
    for _ in range(5):
        _, state = opt.update(params, state, params)
    state.save(tmp_path / "s.npz")
    again = opt.load(tmp_path / "s.npz", params)
    assert len(state.pending) > 0
    assert sum(len(p.jobs) for p in again.pending) == sum(len(p.jobs) for p in state.pending)

"""A state kept in bfloat16: what is kept how, rounding without bias, equal bits, checkpoints, every adapter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from matroot_optim import SOAP, ExecutorEngine, InlineEngine, KLShampoo, Shampoo
from matroot_optim.layout.parts import Narrow
from matroot_optim.step.narrow import narrowed, widened
from optim.problems import assert_same, run

ml_dtypes = pytest.importorskip("ml_dtypes")
HALF = {"state_dtype": "bfloat16", "refresh_every": 4}
DITHERED = Narrow("float32", True, False)


def size(state):
    return sum(x.nbytes for name, x in state.arrays.items() if name.rsplit("/", 1)[-1] in KEPT)


KEPT = ("momentum", "moment", "average", "statistic", "root")


@pytest.mark.parametrize(("kind", "kept"), [(Shampoo, {"momentum", "moment", "root"}), (SOAP, {*KEPT} - {"average"})])
def test_half_the_bytes_as_the_plan_says(kind, kept):
    params = {"W": np.ones((48, 64), np.float32), "b": np.ones(64, np.float32)}
    small, large = (kind(0.1, state_dtype=d) for d in ("bfloat16", "float32"))
    state = small.init(params)
    state = small.step(params, {k: np.ones_like(x) for k, x in params.items()}, state)
    found = {
        n.rsplit("/", 1)[-1] for n, x in state.arrays.items() if n != "graft_ratio" and x.dtype == ml_dtypes.bfloat16
    }
    assert found == kept
    assert size(state) == small.plan(params).state_bytes
    assert size(large.init(params)) == large.plan(params).state_bytes
    assert small.plan(params).state_bytes / large.plan(params).state_bytes == pytest.approx(0.5, abs=0.01)
    assert {str(x.dtype) for x in state.values()} <= {"float32", "float64", "int64", "int32", "int8"}
    assert state["W/block0/axis0/root"].shape == (48, 48)


def test_rounding_has_no_bias():
    """A mean that moves by a hundredth of a unit a step stays where rounding to the nearest is used."""
    x = np.full(2000, 1.0, np.float32)
    nearest = narrowed("x", x * np.float32(1 + 2.0**-7 / 100), DITHERED, None)
    assert (nearest == 1).all()
    for t in range(100):
        x = widened(narrowed("x", x * np.float32(1 + 2.0**-7 / 100), DITHERED, t), DITHERED)
    assert x.mean() == pytest.approx((1 + 2.0**-7 / 100) ** 100, abs=5e-4)
    assert x.std() < 0.01
    y = widened(narrowed("y", -x, DITHERED, 7), DITHERED)
    assert abs(y + x).max() == 0  # what bfloat16 can hold is kept
    for value in (0.0, np.inf, -np.inf, np.nan, 2.0**100, -(2.0**-120)):
        z = widened(narrowed("z", np.full(70000, value, "f4"), DITHERED, 1), DITHERED)
        np.testing.assert_array_equal(z, np.float32(value))


def test_all_libraries_round_alike():
    torch = pytest.importorskip("torch")
    jnp = pytest.importorskip("jax.numpy")
    x = np.random.default_rng(0).standard_normal((300, 250)).astype(np.float32)
    for t in (3, 10**6 + 1):
        want = narrowed("a/moment", x, DITHERED, t).astype(np.float32)
        assert 0.24 < (want != x.astype(ml_dtypes.bfloat16).astype(np.float32)).mean() < 0.26
        got = narrowed("a/moment", torch.from_numpy(x), DITHERED, t)
        assert np.array_equal(got.float().numpy(), want)
        got = narrowed("a/moment", jnp.asarray(x), DITHERED, jnp.int32(t))
        assert np.array_equal(np.asarray(got, np.float32), want)


@pytest.mark.parametrize("kind", [Shampoo, SOAP, KLShampoo])
def test_steps_stay_near_those_of_float32(kind):
    rng = np.random.default_rng(0)
    target = rng.standard_normal((12, 8)).astype(np.float32)
    W = [np.zeros((12, 8), np.float32) for _ in range(2)]
    opts = [kind(lambda t: 0.1 * 0.98**t, state_dtype=d, basis="eigh") for d in ("float32", "bfloat16")]
    states = [opt.init(w) for opt, w in zip(opts, W, strict=True)]
    for _ in range(200):
        noise = 0.1 * rng.standard_normal((12, 8)).astype(np.float32)
        states = [opt.step(w, w - target + noise, s) for opt, w, s in zip(opts, W, states, strict=True)]
    a, b = (((w - target) ** 2).mean() for w in W)
    assert b < 1.2 * a + 1e-3


@pytest.mark.parametrize("kind", [Shampoo, SOAP])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_resume_is_bit_exact(tmp_path, kind, suffix):
    opt = kind(0.05, **HALF)
    want, last = run(opt, 14)
    again, _ = run(opt, 14)
    assert_same(again, want)
    params, state = run(opt, 6)
    state.save(tmp_path / f"state{suffix}")
    got, resumed = run(opt, 14, params=params, state=opt.load(tmp_path / f"state{suffix}", params), skip=6)
    assert_same(got, want)
    for name in last.arrays:
        np.testing.assert_array_equal(np.asarray(resumed.arrays[name]), np.asarray(last.arrays[name]), err_msg=name)


def test_resume_with_jobs_under_way(tmp_path):
    with ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=3) as engine:
        opt = Shampoo(0.05, **HALF, engine=engine, refresh_growth=0.0)
        want, _ = run(opt, 14)
        params, state = run(opt, 7)
        assert state.pending
        state.save(tmp_path / "state.npz")
    opt = Shampoo(0.05, **HALF, engine=InlineEngine(3), refresh_growth=0.0)
    got, _ = run(opt, 14, params=params, state=opt.load(tmp_path / "state.npz", params), skip=7)
    assert_same(got, want)


def test_a_checkpoint_loads_into_the_other(tmp_path):
    params, state = run(Shampoo(0.05, refresh_every=4), 6)
    state.save(tmp_path / "state.npz")
    again = Shampoo(0.05, **HALF).load(tmp_path / "state.npz", params)
    name = "a/block0/axis0/root"
    np.testing.assert_allclose(again[name], state[name], rtol=2**-8)
    again.save(tmp_path / "half.npz")
    back = Shampoo(0.05, refresh_every=4).load(tmp_path / "half.npz", params)
    np.testing.assert_array_equal(back[name], again[name])
    Shampoo(0.05, block_size=4, **HALF).load(tmp_path / "half.npz", params)


def test_pure_updates_and_steps_in_place_agree():
    a, b = ({"W": np.ones((6, 5), np.float32)} for _ in range(2))
    opt = Shampoo(0.1, **HALF)
    s, t = opt.init(a), opt.init(b)
    rng = np.random.default_rng(0)
    for _ in range(6):
        g = {"W": rng.standard_normal((6, 5)).astype(np.float32)}
        before = {n: np.array(x) for n, x in s.arrays.items() if n.startswith((":", "W"))}
        updates, new = opt.update(g, s, a)
        for n, x in before.items():
            np.testing.assert_array_equal(x, s.arrays[n])
        a["W"] += updates["W"]
        s, t = new, opt.step(b, g, t)
        np.testing.assert_array_equal(a["W"], b["W"])


def test_gradients_of_any_size():
    opt = SOAP(0.1, **HALF)
    W = np.ones((4, 3))
    state = opt.init(W)
    for scale in (1.0, 1e-25, 1e25, 1.0):
        for k in range(3):
            state = opt.step(W, scale * np.random.default_rng(k).standard_normal((4, 3)), state)
            assert np.isfinite(W).all()


def test_torch_agrees_and_its_state_dict_resumes():
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as Torch

    rng = np.random.default_rng(0)
    G = [rng.standard_normal((6, 5)).astype(np.float32) for _ in range(8)]
    W, core = np.ones((6, 5), np.float32), Shampoo(0.05, **HALF)
    state = core.init(W)
    ps = [torch.nn.Parameter(torch.ones(6, 5)) for _ in range(2)]
    opts = [Torch([p], 0.05, **HALF) for p in ps]
    for t, g in enumerate(G):
        state = core.step(W, g, state)
        if t == 4:
            ps[1].data.copy_(ps[0].data)
            opts[1].load_state_dict(opts[0].state_dict())
        for p, opt in zip(ps, opts, strict=True):
            p.grad = torch.from_numpy(g.copy())
            opt.step()
    assert torch.equal(*ps)
    np.testing.assert_allclose(ps[0].detach(), W, rtol=0.02, atol=2e-3)
    assert opts[0].state[ps[0]]["momentum"].dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("roots", ["callback", "host"])
def test_optax(roots):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_disable_most_optimizations", True)
    from matroot_optim.optax import refresh_roots, shampoo

    W, core = np.ones((3, 2), np.float32), Shampoo(0.05, refresh_every=2, state_dtype="bfloat16", start_step=2)
    tx = shampoo(0.05, refresh_every=2, state_dtype="bfloat16", start_step=2, roots=roots)
    y = jax.numpy.ones((3, 2))
    state, other, update = core.init(W), tx.init(y), jax.jit(tx.update)
    rng = np.random.default_rng(0)
    for _ in range(5):
        g = rng.standard_normal((3, 2)).astype(np.float32)
        state = core.step(W, g, state)
        updates, other = update(jax.numpy.asarray(g), other, y)
        y = optax.apply_updates(y, updates)
        other = refresh_roots(other) if roots == "host" else other
    if roots == "callback":  # on the host, roots have not seen the gradient of the step
        np.testing.assert_allclose(y, W, rtol=0.03, atol=3e-3)
    assert abs(y - 1).max() > 0.05
    kept = {n.rsplit("/", 1)[-1] for n, x in other[0].arrays.items() if x.dtype == jax.numpy.bfloat16}
    assert kept == {"momentum", "moment", "root"}


def test_cupy_is_refused():
    from matroot_optim.layout import layout

    class Array:
        shape, ndim, dtype = (2, 2), 2, np.dtype("f4")

    original = layout.is_cupy
    layout.is_cupy = lambda x: True
    try:
        with pytest.raises(ValueError, match="state_dtype must be 'float32' for cupy"):
            Shampoo(0.1, state_dtype="bfloat16").init(np.ones((2, 2)))
    finally:
        layout.is_cupy = original


@pytest.mark.parametrize("way", ["state_dict", "file"])
def test_pending_bases_are_installed_in_one_rounding(way, tmp_path):
    """A load splits the batches under way; moments that two bases of one step turn are rounded once all the same."""
    torch = pytest.importorskip("torch")
    from matroot_optim import torch as adapter

    options = {"state_dtype": "bfloat16", "basis": "eigh", "refresh_every": 1, "engine": InlineEngine(lag=2)}
    rng = np.random.default_rng(0)
    grads = [[torch.tensor(rng.standard_normal((12, 12)), dtype=torch.float32) for _ in range(2)] for _ in range(9)]

    def by_torch(saved):
        params = [torch.nn.Parameter(torch.ones(12, 12)) for _ in range(2)]
        opt = adapter.SOAP(params, lr=0.01, **options)
        for t, g in enumerate(grads):
            if t == saved:
                found, opt = opt.state_dict(), adapter.SOAP(params, lr=0.01, **options)
                opt.load_state_dict(found)
            for p, x in zip(params, g, strict=True):
                p.grad = x
            opt.step()
        return params

    def by_file(saved):
        W, opt = [torch.ones(12, 12) for _ in range(2)], SOAP(0.01, **options)
        state = opt.init(W)
        for t, g in enumerate(grads):
            if t == saved:
                state.save(tmp_path / "state.npz")
                state = opt.load(tmp_path / "state.npz", W)
            state = opt.step(W, g, state)
        return W

    train = by_torch if way == "state_dict" else by_file
    usual = train(None)
    for saved in range(2, 9):
        assert all(map(torch.equal, train(saved), usual)), saved

"""The whole optimizer on a double of cupy's arrays: the CPU's bits, and no wait that is not due."""

from __future__ import annotations

import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import cupy_double
import numpy as np
import pytest
from cupy_double import Device, Recorder, Waited, ndarray, waiting_forbidden

from matroot.backends.cuda.gpu import gpu
from matroot_optim import ExecutorEngine, InlineEngine, Shampoo, WarmEngine, apply_updates
from matroot_optim.step import statistics
from optim.problems import SHAPES, gradients, weights

try:
    import cupy as installed  # before the double takes its place: it does not bear a second import
except ImportError:
    installed = None

OPTIONS = {"refresh_every": 3, "block_size": 4, "weight_decay": 0.01}
#: What array-api-compat's cupy has by the names of the standard, on the double.
SAME = "matmul mean ones_like reshape sqrt where zeros_like stack concat sum take".split()


def standard():
    cupy = cupy_double.MODULE
    module = types.ModuleType("array_api_compat.cupy")
    for name in SAME:
        setattr(module, name, getattr(cupy, name))
    module.float32, module.float64 = np.float32, np.float64
    module.permute_dims = lambda x, axes: cupy.transpose(x, axes)
    module.matrix_transpose = lambda x: cupy.swapaxes(x, -1, -2)
    module.asarray = lambda x, **options: cupy.asarray(x, **options)
    module.zeros = lambda shape, dtype, device: cupy.zeros(shape, dtype=dtype)
    return module


STANDARD = standard()


class Uploads:
    count = 0


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    import array_api_compat

    module = cupy_double.MODULE
    asarray = module.asarray

    def counted(x, *args, **options):
        Uploads.count += isinstance(x, np.ndarray)
        return asarray(x, *args, **options)

    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", STANDARD)
    monkeypatch.setattr(array_api_compat, "cupy", STANDARD, raising=False)
    monkeypatch.setattr(module, "asarray", counted, raising=False)
    for cache in (gpu, statistics._on_cupy):
        cache.cache_clear()
    yield module
    for cache in (gpu, statistics._on_cupy):
        cache.cache_clear()


def host(tree):
    return {k: np.asarray(v, np.float32) for k, v in tree.items()}


def device(tree):
    return {k: ndarray(np.array(v)) for k, v in host(tree).items()}


def values(x):
    return x._a if isinstance(x, ndarray) else np.asarray(x)


def train(opt, put, steps=9, in_place=False, params=None, state=None):
    params = put(weights()) if params is None else params
    state = opt.init(params) if state is None else state
    for k, g in enumerate(gradients(SHAPES, steps)):
        if k == 4:
            g["a"][0, 0] = np.nan
        if in_place:
            state = opt.step(params, put(g), state)
        else:
            updates, state = opt.update(put(g), state, params)
            params = apply_updates(params, updates)
    return params, state


def assert_same(got, want):
    for k in want:
        np.testing.assert_array_equal(values(got[k]), values(want[k]), err_msg=k)


CASES = [
    {},
    {"graft": "none", "momentum": "nesterov", "betas": (0.9, 1.0)},
    {"graft": "sgd", "graft_normalize": True, "clip_norm": 1.0, "clip_rms": 0.5, "decay": "l2"},
    {"graft_per_block": True, "graft": "trust_ratio", "momentum": "none", "statistics_every": 2},
    {"graft": "sqrt_n", "momentum": "heavy_ball", "decay": "independent", "mix_steps": 3},
    {"schedule": "residual", "stale_tolerance": 1.0, "exponent": "-3/4"},
    {"schedule": "interval", "on_nonfinite": "propagate", "preconditioned_dims": "one_sided"},
]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("options", CASES)
def test_the_bits_of_numpy(options, in_place):
    opt = Shampoo(0.05, **{**OPTIONS, **options})
    want, there = train(opt, host, in_place=in_place)
    got, state = train(opt, device, in_place=in_place)
    assert_same(got, want)
    assert_same(state, there)
    np.testing.assert_equal(opt.diagnostics(state).to_dict(), opt.diagnostics(there).to_dict())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype, None) or dtype)
    opt = Shampoo(0.05, **OPTIONS)
    want, _ = train(opt, lambda tree: {k: np.asarray(v, kind) for k, v in tree.items()})
    got, state = train(opt, lambda tree: {k: ndarray(np.array(v, kind)) for k, v in tree.items()})
    assert_same(got, want)
    assert got["a"].dtype == kind
    assert state["a/block0/axis0/root"].dtype == np.float32


@pytest.mark.parametrize("root_dtype", ["float32", "float64"])
def test_roots_on_the_device(root_dtype):
    options = {**OPTIONS, "root_dtype": root_dtype, "ridge": 1e-3}
    want, _ = train(Shampoo(0.05, **options), host)
    opt = Shampoo(0.05, **options, root_device="device")
    got, state = train(opt, device)
    for k in want:
        np.testing.assert_allclose(values(got[k]), want[k], rtol=1e-3, atol=1e-4)
    assert opt.diagnostics(state).to_dict()["total_skipped"] == 0


def test_what_is_where():
    _, state = train(Shampoo(0.05, **OPTIONS), device)
    for name, x in state.items():
        mine = name.rsplit("/", 1)[-1] in ("momentum", "moment", "statistic", "root")
        assert isinstance(x, ndarray if mine else np.ndarray | np.generic | int), name


@pytest.mark.parametrize("in_place", [False, True])
def test_a_step_without_roots_waits_once_and_sends_nothing_up(in_place):
    """For the norms of all gradients, which say what is not finite."""
    opt = Shampoo(
        0.05, **{**OPTIONS, "refresh_every": 100, "refresh_growth": 0.0, "schedule": "interval", "start_step": 1}
    )
    params, state = train(opt, device, 1)
    g = device(gradients(SHAPES, 1)[0])
    waits, uploads = Recorder.waits, Uploads.count
    if in_place:
        opt.step(params, g, state)
    else:
        apply_updates(params, opt.update(g, state, params)[0])
    assert (Recorder.waits - waits, Uploads.count - uploads) == (1, 0)
    with waiting_forbidden(), pytest.raises(Waited, match="get"):
        opt.update(g, state, params)


class Mail:
    """An executor far away: only what is on the host may be sent there."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(1)

    def submit(self, work, batch, *rest):
        assert isinstance(batch.matrix, np.ndarray)
        return self.pool.submit(work, batch, *rest)

    def shutdown(self, **options):
        self.pool.shutdown(**options)


@pytest.mark.parametrize("shared_memory", [True, False])
@pytest.mark.parametrize("executor", [lambda: Mail(), lambda: ThreadPoolExecutor(2)], ids=["far", "threads"])
def test_workers_get_numpy(executor, shared_memory):
    want, _ = train(Shampoo(0.05, **OPTIONS, engine=InlineEngine(2)), host)
    with ExecutorEngine(executor, lag=2, shared_memory=shared_memory) as engine:
        got, _ = train(Shampoo(0.05, **OPTIONS, engine=engine), device)
    assert_same(got, want)
    assert engine.clock.failures == 0


def test_workers_are_refused_device_arrays():
    params = {"W": np.ones((4, 3), np.float32)}
    with ExecutorEngine(lambda: ThreadPoolExecutor(1)) as engine:
        opt = Shampoo(0.05, engine=engine, root_device="device")
        opt.init(params)
        with pytest.raises(ValueError, match=r"'host' with ExecutorEngine.*'W', which is on <CUDA Device 0>; use Inl"):
            opt.init(device(params))


@pytest.mark.parametrize("root_device", ["host", "device"])
@pytest.mark.parametrize("engine", [lambda: InlineEngine(2), WarmEngine], ids=["inline", "warm"])
def test_engines_of_the_training_thread(engine, root_device):
    options = {**OPTIONS, "ridge": 1e-3, "root_device": root_device}
    want, _ = train(Shampoo(0.05, **options, engine=engine()), host)
    got, _ = train(Shampoo(0.05, **options, engine=engine()), device)
    for k in want:
        np.testing.assert_allclose(values(got[k]), want[k], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("root_device", ["host", "device"])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_checkpoints(tmp_path, suffix, root_device):
    opt = Shampoo(0.05, **OPTIONS, engine=InlineEngine(2), root_device=root_device)
    params, state = train(opt, device)
    state.save(tmp_path / f"state.{suffix}")
    again = opt.load(tmp_path / f"state.{suffix}", params)
    assert len(again.pending) >= 1
    assert all(type(again[name]) is type(x) for name, x in state.items())
    want, _ = train(opt, device, params=params, state=state)
    got, _ = train(opt, device, params=params, state=again)
    assert_same(got, want)
    numpy_params = {k: values(x).copy() for k, x in params.items()}
    assert_same(opt.load(tmp_path / f"state.{suffix}", numpy_params), state)


def test_parameters_on_both_sides():
    def both(tree):
        return {k: (v if k in "ac" else ndarray(v)) for k, v in host(tree).items()}

    def alone(names):
        shapes = {k: SHAPES[k] for k in names}
        opt = Shampoo(0.05, **{**OPTIONS, "schedule": "interval"})
        params = {k: v for k, v in host(weights()).items() if k in shapes}
        state = opt.init(params)
        for g in gradients(SHAPES, 9):
            updates, state = opt.update({k: v for k, v in host(g).items() if k in shapes}, state, params)
            params = apply_updates(params, updates)
        return params

    opt = Shampoo(0.05, **{**OPTIONS, "schedule": "interval"})
    params = both(weights())
    state = opt.init(params)
    for g in gradients(SHAPES, 9):
        updates, state = opt.update(both(g), state, params)
        params = apply_updates(params, updates)
    assert [k for k, x in params.items() if isinstance(x, ndarray)] == ["b", "d", "e"]
    assert_same(params, {**alone("ac"), **alone("bde")})


def test_another_device_than_the_current_is_refused():
    """cupy would make the results on the current one."""
    opt = Shampoo(0.05)
    with Device(1):
        there = {"W": ndarray(np.ones((4, 3), np.float32))}
        state = opt.init(there)
        opt.update(there, state, there)
    for work in (lambda: opt.init(there), lambda: opt.update(there, state, there)):
        with pytest.raises(ValueError, match=r"'W' must be on cupy's current device 0, got device 1; .*Device\(1\)"):
            work()


def test_the_real_names_are_there():
    names = [*SAME, "permute_dims", "matrix_transpose", "asarray", "zeros", "float32", "float64"]
    code = f"import array_api_compat.cupy as xp; print([name for name in {names} if not hasattr(xp, name)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "No module named 'cupy'" in done.stderr:
        pytest.skip("cupy is not installed")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
def test_cupy_takes_all_that_steps_do(monkeypatch):
    """What device arrays met in steps, every combination of kinds, asked of the installed cupy; no card is needed."""
    if installed is None or installed.is_available():
        pytest.skip("there is no cupy, or there is a card")
    monkeypatch.setitem(sys.modules, "cupy", installed)
    import test_gpu_types as asked

    monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
    monkeypatch.setattr(Recorder, "seen", {})
    for options in CASES:
        for in_place in (False, True):
            opt = Shampoo(0.05, **{**OPTIONS, **options}, root_device="device")
            train(opt, device, in_place=in_place)
    train(Shampoo(0.05, engine=WarmEngine(), root_device="device"), device)
    train(Shampoo(0.05), lambda tree: {k: ndarray(np.array(v)) for k, v in tree.items()})
    train(Shampoo(0.05, **OPTIONS), lambda tree: {k: ndarray(np.array(v, "float16")) for k, v in tree.items()})
    seen = [(name, *example) for (name, *_), example in Recorder.seen.items()]
    monkeypatch.setitem(sys.modules, "cupy", installed)
    refused = {asked.described(*one): why for one in seen if (why := asked.refusal(*one))}
    assert not refused, "\n".join(f"{what}: {why}" for what, why in refused.items())
    assert len(seen) > 100

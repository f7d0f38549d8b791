"""The torch adapter on a double of CUDA tensors: the CPU's bits, and no crossing that is not due."""

from __future__ import annotations

import io
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import cupy_double
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from matroot.backends.cuda.gpu import gpu  # noqa: E402
from matroot_optim import ExecutorEngine, InlineEngine, WarmEngine  # noqa: E402
from matroot_optim.step import statistics  # noqa: E402
from matroot_optim.torch import Shampoo  # noqa: E402
from optim.cuda_tensors import Count, CudaTensor, card, off_card, on_card  # noqa: E402

SHAPES = ((6, 9), (9,), (5, 6, 7), (9, 6))
OPTIONS = {"lr": 0.01, "refresh_every": 4, "block_size": 4}


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    statistics._on_torch.cache_clear()
    with card(monkeypatch):
        yield
    statistics._on_torch.cache_clear()


def parameters(put, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(put(torch.randn(s, generator=generator).to(dtype))) for s in SHAPES]


def train(opt, params, put, steps=9, start=0):
    for k in range(start, start + steps):
        generator = torch.Generator().manual_seed(k)
        for i, p in enumerate(params):
            g = torch.randn(p.shape, generator=generator).to(p.dtype)
            if k == 6 and i == 0:
                g[0, 0] = torch.nan
            p.grad = put(g) if put is not None else on_card(g, p.device) if isinstance(p, CudaTensor) else g
        opt.step()
    return params


def same(x):
    return x


def assert_same(got, want):
    for x, y in zip(got, want, strict=True):
        assert torch.equal(off_card(x), off_card(y))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 1.0, "clip_rms": 0.5, "weight_decay": 0.1, "graft_per_block": True, "graft": "trust_ratio"},
        {"schedule": "residual", "momentum": "nesterov", "betas": (0.9, 1.0), "graft": "sgd", "graft_normalize": True},
        {"statistics_every": 2, "graft": "none", "mix_steps": 2, "exponent": "-3/4", "momentum": "heavy_ball"},
    ],
)
def test_the_bits_of_the_cpu(dtype, options):
    want, got = parameters(same, dtype), parameters(on_card, dtype)
    train(Shampoo(want, **OPTIONS, **options), want, same)
    opt = Shampoo(got, **OPTIONS, **options)
    train(opt, got, on_card)
    assert_same(got, want)
    assert all(isinstance(x, CudaTensor) for x in opt._current().arrays.values() if isinstance(x, torch.Tensor))
    assert opt.diagnostics().nonfinite["0/0"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_without_roots_comes_down_once(dtype):
    """For the norms of all gradients; nothing goes up. One is not finite, and one is missing."""
    params = parameters(on_card, dtype)
    opt = Shampoo(
        params, **{**OPTIONS, "refresh_every": 100, "refresh_growth": 0.0, "schedule": "interval", "start_step": 1}
    )
    train(opt, params, on_card, 1)
    for p in params:
        p.grad = on_card(torch.ones(p.shape, dtype=dtype))
    params[0].grad = on_card(torch.full(params[0].shape, torch.nan, dtype=dtype))
    params[1].grad = None
    Count.reset()
    opt.step()
    assert (Count.up, Count.down, Count.waits) == (0, 1, 0)


def test_each_device_comes_down_once():
    def spread():
        places = iter((same, on_card, lambda x: on_card(x, "cuda:1"), lambda x: on_card(x, "cuda:1")))
        return parameters(lambda x: next(places)(x))

    options = {**OPTIONS, "refresh_every": 100, "refresh_growth": 0.0, "schedule": "interval", "start_step": 1}
    got = spread()
    opt = Shampoo(got, **options)
    train(opt, got, None, 1)
    Count.reset()
    train(opt, got, None, 1, 1)
    assert Count.down == 2
    assert [str(p.device) for p in got] == ["cpu", "cuda:0", "cuda:1", "cuda:1"]
    train(opt, got, None, 3, 2)
    want = parameters(same)
    train(Shampoo(want, **options), want, same, 5)
    assert_same(got, want)


def test_state_dict_and_back():
    params = parameters(on_card)
    opt = Shampoo(params, **OPTIONS, engine=InlineEngine(2))
    train(opt, params, on_card)
    torch.save(opt.state_dict(), file := io.BytesIO())
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    copies = [torch.nn.Parameter(on_card(off_card(p))) for p in params]
    again = Shampoo(copies, **OPTIONS, engine=InlineEngine(2))
    again.load_state_dict(saved)
    assert again._current().pending
    train(opt, params, on_card, 5, 9)
    train(again, copies, on_card, 5, 9)
    assert_same(copies, params)


def test_a_state_from_the_card_goes_on_on_the_cpu():
    params = parameters(on_card)
    opt = Shampoo(params, **OPTIONS)
    train(opt, params, on_card)
    copies = [torch.nn.Parameter(off_card(p).clone()) for p in params]
    again = Shampoo(copies, **OPTIONS)
    again.load_state_dict(opt.state_dict())
    train(opt, params, on_card, 5, 9)
    train(again, copies, same, 5, 9)
    assert_same(params, copies)


def test_threads_get_numpy():
    want, got = parameters(same), parameters(on_card)
    train(Shampoo(want, **OPTIONS, engine=InlineEngine(2)), want, same)

    class Watched(ThreadPoolExecutor):
        def submit(self, work, batch, *rest):
            assert isinstance(batch.matrix, np.ndarray)
            return super().submit(work, batch, *rest)

    with ExecutorEngine(lambda: Watched(1), lag=2) as engine:
        train(Shampoo(got, **OPTIONS, engine=engine), got, on_card)
    assert engine.clock.failures == 0
    assert_same(got, want)


@pytest.mark.parametrize("engine", [lambda: None, lambda: InlineEngine(2), WarmEngine], ids=["none", "inline", "warm"])
def test_roots_on_the_card(engine, monkeypatch):
    """By cupy's double, to which tensors go, and from which roots come, by DLPack."""
    module = cupy_double.MODULE
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(module, "from_dlpack", lambda x: cupy_double.ndarray(off_card(x).numpy()), raising=False)
    monkeypatch.setattr(torch, "from_dlpack", lambda x: CudaTensor(torch.from_numpy(x._a)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=0))
    gpu.cache_clear()
    want, got = parameters(same), parameters(on_card)
    options = {**OPTIONS, "ridge": 1e-3}
    train(Shampoo(want, **options, engine=engine()), want, same)
    opt = Shampoo(got, **options, engine=engine(), root_device="device")
    train(opt, got, on_card)
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(off_card(x), off_card(y), rtol=1e-3, atol=1e-4)
    assert opt.diagnostics().to_dict()["total_skipped"] == 0
    assert isinstance(opt._current().arrays[":stack0/axis0/root"], CudaTensor)
    gpu.cache_clear()


def test_workers_are_refused_tensors_of_the_card():
    with ExecutorEngine(lambda: ThreadPoolExecutor(1)) as engine:
        with pytest.raises(ValueError, match=r"root_device must be 'host' with ExecutorEngine.* which is on cuda:0"):
            Shampoo(parameters(on_card), **OPTIONS, engine=engine, root_device="device")


def test_without_cupy_roots_are_the_hosts(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    params = parameters(on_card)
    train(Shampoo(params, **OPTIONS), params, on_card, 6)
    with pytest.raises(RuntimeError, match="needs cupy"):
        train(Shampoo(params, **OPTIONS, root_device="device"), params, on_card, 6)

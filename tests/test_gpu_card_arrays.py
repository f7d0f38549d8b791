"""On a card: tensors of torch, arrays of jax, and their streams."""

import contextlib

import numpy as np
import pytest
from test_gpu_card import on_a_card

from matroot import gallery, inverse_pth_root, solve
from matroot.backends.arrays import take

try:
    import cupy
except ImportError:
    cupy = None
pytestmark = pytest.mark.gpu


@on_a_card
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_torch_tensors(dtype):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("not torch.cuda.is_available(): this torch has no CUDA")
    A = torch.as_tensor(gallery.spd(40, 1e2, rng=0)[0], device="cuda").to(getattr(torch, dtype))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for context in (contextlib.nullcontext(), torch.cuda.stream(stream)):
        with context:
            result = solve(A, 2)
            X = result.x.double()
            torch.cuda.current_stream().synchronize()
        assert result.x.dtype == A.dtype and result.x.device == A.device and result.status.device == A.device
        eps = torch.finfo(A.dtype).eps
        w, Q = torch.linalg.eigh(A.double())
        Y = (Q * w**-0.5) @ Q.T
        assert torch.linalg.matrix_norm(X - Y, 2) <= 4 * eps * torch.linalg.matrix_norm(Y, 2) + 1e-10


@on_a_card
def test_jax_arrays():
    jax = pytest.importorskip("jax")
    devices = [d for d in jax.devices() if d.platform in ("gpu", "cuda")]
    if not devices:
        pytest.skip("jax sees no GPU")
    A = jax.device_put(gallery.spd(40, 1e2, rng=0)[0].astype("float32"), devices[0])
    X = inverse_pth_root(A, 2)
    assert X.devices() == A.devices() and X.dtype == A.dtype
    assert np.allclose(np.asarray(X @ X @ A), np.eye(40), atol=1e-3)


@on_a_card
def test_torch_and_jax_come_and_go_without_a_copy():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("not torch.cuda.is_available(): this torch has no CUDA")
    tensor = torch.eye(8, device="cuda")
    values, origin = take(tensor)
    assert values.data.ptr == tensor.data_ptr()
    assert origin.give_back(values).data_ptr() == tensor.data_ptr()
    jax = pytest.importorskip("jax")
    devices = [d for d in jax.devices() if d.platform in ("gpu", "cuda")]
    if devices:
        array = jax.device_put(np.eye(8, dtype="float32"), devices[0])
        values, origin = take(array)
        assert values.data.ptr == array.unsafe_buffer_pointer()
        assert origin.give_back(values).unsafe_buffer_pointer() == values.data.ptr


@on_a_card
def test_streams_of_torch():
    """A solve on a side stream is in order with what torch puts there before and after."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("not torch.cuda.is_available(): this torch has no CUDA")
    A = torch.as_tensor(gallery.spd(300, 1e3, rng=0)[0], device="cuda")
    torch.cuda.synchronize()
    wanted = solve(A * 4, 2).x.clone()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # what comes before is late
        B = A * 4
        X = solve(B, 2).x * 1
        B.zero_()  # and what comes after is early
        side.synchronize()
    assert torch.allclose(X, wanted, rtol=0, atol=1e-12)

"""The GPU path on a card: the rules of test_gpu.py on cupy itself, without a wait, and what only a card can show."""

import contextlib
import os
import re
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from table import distance

from matroot import (
    CoupledNewton,
    Eigen,
    HigherOrder,
    Minimax,
    NewtonDB,
    Status,
    gallery,
    inverse_pth_root,
    solve,
    solve_each,
)
from matroot._solve import solve_power
from matroot.backends import backend_of
from matroot.backends.arrays import take
from matroot.backends.cuda import graphs, stacks
from matroot.backends.cuda.gpu import gpu
from matroot.backends.cuda.limits import GPULimits
from matroot.cli import tune_gpu
from matroot.methods import minimax_kernel as fused
from matroot.methods.conditioning import start_vector

try:
    import cupy
except ImportError:
    cupy = None

NO_CARD = "cupy is not installed" if cupy is None else "not cupy.is_available(): no CUDA device that cupy can see"
there = cupy is not None and cupy.is_available()
pytestmark = pytest.mark.gpu
on_a_card = pytest.mark.skipif(not there, reason=NO_CARD)
METHODS = (Minimax(), Minimax(accurate=True), Eigen(), CoupledNewton(), HigherOrder(order=3), NewtonDB())
SPECTRA = ("geometric", "two_cluster", "power_law")


@contextlib.contextmanager
def no_waiting():
    """cupy raises when it has to wait for the device. The detector is announced as leaving, hence the filter."""
    import cupyx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = cupyx.allow_synchronize(False)
        detector.__enter__()
    try:
        yield
    finally:
        detector.__exit__(None, None, None)


def blind(A, p, **options):
    A = cupy.asarray(A)
    with no_waiting():
        return solve(A, p, **options)


@pytest.mark.skipif(there, reason="there is a card")
def test_asking_for_a_card_that_is_not_there():
    with pytest.raises(RuntimeError, match=r"cupy sees none|needs cupy"):
        gpu(0)


@pytest.mark.skipif(there, reason="there is a card")
def test_the_report_says_that_there_is_no_card(tmp_path):
    report = Path(__file__).parents[1] / "asv_benchmarks" / "gpu_report.py"
    run = subprocess.run([sys.executable, report], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2 and not list(tmp_path.iterdir())
    assert re.search(r"no CUDA device here|not installed", run.stderr)


@on_a_card
@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 7, 8])
def test_forward_error(method, p):
    if isinstance(method, NewtonDB) and p not in (2, 4, 8):
        return
    eps = 2.0**-53
    for n in (1, 2, 31, 33, 128):
        for cond in (1e1, 1e6, 1e12) if n > 1 else (1.0,):
            stack, roots = zip(*(gallery.spd(n, cond, s, rng=n) for s in SPECTRA), strict=True)
            result = blind(np.stack(stack), p, method=method)
            bar = (4 if method == Minimax(accurate=True) else 3) * cond / p * eps + 20 * n * eps
            for X, root in zip(result.x.get(), roots, strict=True):
                assert distance(X, root(Fraction(-1, p))) <= bar, (n, cond)
                assert (X == X.T).all()
            assert np.isin(result.status.get(), (Status.CONVERGED, Status.ILL_CONDITIONED)).all()


@on_a_card
@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("n", [12, 50])
def test_bad_matrices_leave_the_others_alone(method, inverse, n):
    good = [gallery.spd(n, cond, rng=0)[0] for cond in (1e1, 1e6)]
    nan, zero, indefinite = np.full((n, n), np.nan), np.zeros((n, n)), good[0] - 0.3 * np.eye(n)
    result = blind(np.stack([good[0], nan, zero, indefinite, good[1]]), 2, method=method, inverse=inverse)
    at_zero = Status.NOT_POSITIVE if inverse else Status.CONVERGED
    wanted = [0, Status.NONFINITE_INPUT, at_zero, Status.NOT_POSITIVE, 0]
    assert result.status.get().tolist() == wanted
    assert np.isfinite(result.x.get()).all((-1, -2)).tolist() == [code == 0 for code in wanted]


@on_a_card
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128", "int32"])
def test_dtypes(dtype):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3, 40, 80)) * (40 if dtype == "int32" else 1)
    A = A + 1j * rng.standard_normal(A.shape) if dtype.startswith("complex") else A
    A = (A @ A.conj().swapaxes(-1, -2) / 80).astype(dtype)
    A = (A + A.swapaxes(-1, -2)) // 2 if dtype == "int32" else A
    result, host = blind(A, 2), solve(A, 2)
    eps = 2.0**-11 if dtype == "float16" else float(np.finfo(result.x.dtype).eps)
    assert result.x.dtype == host.x.dtype
    assert np.allclose(result.x.get(), host.x, rtol=0, atol=(8 * eps + 1e-12) * abs(host.x).max())


@on_a_card
@pytest.mark.parametrize("rule", [1e-3, 1e-6])
def test_float32_of_a_stack_of_layers(rule):
    """What an optimizer asks for: float32, a ridge, p = 4."""
    A = np.stack([gallery.spd(256, 1e9, rng=k)[0] for k in range(4)]).astype("float32")
    result = blind(A, 4, regularization=rule)
    ridge = result.ridge.get()
    for X, a, r in zip(result.x.get(), A.astype("float64"), ridge, strict=True):
        w, Q = np.linalg.eigh(a + r * np.eye(256))
        assert distance(X, (Q * w**-0.25) @ Q.T) <= 1e-2
    assert (result.status.get() == 0).all()


@on_a_card
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 7, 16, 33, 48, 64])
def test_small_cu(n, dtype, monkeypatch):
    """One block a matrix: off by default until this has run on a card."""
    A = np.stack([gallery.spd(n, 100.0, rng=k)[0] if n > 1 else np.eye(1) for k in range(5)]).astype(dtype)
    backend = backend_of(cupy.zeros(1))
    monkeypatch.setattr(backend, "limits", GPULimits())
    products = blind(A, 4, compute_dtype=dtype, regularization=1e-3).x.get()
    monkeypatch.setattr(backend, "limits", GPULimits(fused=64))
    if not fused.fits(cupy.asarray(A), backend):
        pytest.skip(f"{fused.shared(A)} bytes of shared memory are more than a block can have here")
    result = blind(A, 4, compute_dtype=dtype, regularization=1e-3)
    assert (result.status.get() == 0).all()
    eps = float(np.finfo(dtype).eps)
    assert np.abs(result.x.get() - products).max() <= 100 * n * eps * np.abs(products).max()
    broken = np.stack([A[0], np.full_like(A[0], np.nan), -A[1]])
    wanted = [0, Status.NONFINITE_INPUT, Status.NOT_POSITIVE]
    assert blind(broken, 4, compute_dtype=dtype).status.get().tolist() == wanted


SHORTCUTS = (
    GPULimits(kernels=1),
    GPULimits(graphs=1 << 40),
    GPULimits(kernels=1, graphs=1 << 40),
    GPULimits(fused=64, kernels=1),
)


@pytest.fixture
def backend(monkeypatch):
    """The card's backend, nothing taken that the built-in limits do not take."""
    found = backend_of(cupy.zeros(1))
    monkeypatch.setattr(found, "limits", GPULimits())
    yield found
    graphs.forget()


@on_a_card
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("limits", SHORTCUTS, ids=repr)
def test_shortcuts_give_the_same_roots(backend, limits, dtype):
    for n in (1, 5, 33, 100, 300):
        A = np.stack([gallery.spd(n, 1e2, rng=k)[0] if n > 1 else np.eye(1) for k in range(6)]).astype(dtype)
        eps = float(np.finfo(dtype).eps)
        for p, rule, inverse in ((4, 1e-3, True), (3, None, True), (2, None, False)):
            options = {"compute_dtype": dtype, "regularization": rule, "inverse": inverse}
            backend.limits = GPULimits()
            wanted = blind(A, p, **options)
            backend.limits = limits
            for values, order in ((A, slice(None)), (A[::-1].copy(), slice(None, None, -1)), (A, slice(None))):
                result = solve(cupy.asarray(values), p, **options)  # the first may compile or capture, and wait
                X, Y = result.x.get(), wanted.x.get()[order]
                assert np.abs(X - Y).max() <= 300 * n * eps * np.abs(Y).max(), n
                assert (result.status.get() == wanted.status.get()[order]).all()
                assert np.allclose(result.cond.get(), wanted.cond.get()[order], rtol=1e-2)


@on_a_card
@pytest.mark.parametrize("limits", [GPULimits(halves=1), GPULimits(halves=1, kernels=1, graphs=1 << 40)], ids=repr)
@pytest.mark.parametrize("n", [1, 31, 64, 100, 300, 1024])
def test_symmetric_products_by_halves(backend, limits, n):
    A = np.stack([gallery.spd(n, 1e6, rng=k)[0] if n > 1 else np.eye(1) for k in range(2)]).astype("float32")
    wanted = blind(A, 4, compute_dtype="float64").x.get()
    backend.limits = limits
    for _ in range(2):
        result = solve(cupy.asarray(A), 4, compute_dtype="float64")
        assert np.abs(result.x.get() - wanted).max() <= 4 * 2.0**-24 * np.abs(wanted).max()
        assert (result.status.get() == 0).all()


@on_a_card
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("n", [33, 100, 300])
def test_batched_eigendecompositions(backend, dtype, n):
    A = np.stack([gallery.spd(n, 1e4, rng=k)[0] for k in range(3)]).astype(dtype)
    if dtype.startswith("complex"):
        U, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)) + 1j)
        A = (U @ A @ U.conj().T).astype(dtype)
        A = (A + A.conj().swapaxes(-1, -2)) / 2
    backend.limits = GPULimits(jacobi=0, batched=512)
    w, Q = (v.get() for v in backend.eigh(cupy.asarray(A)))
    eps = float(np.finfo(dtype).eps)
    assert np.abs(w - np.linalg.eigvalsh(A)).max() <= 30 * n**0.5 * eps * np.abs(w).max()
    assert np.abs(A @ Q - Q * w[:, None, :]).max() <= 30 * n**0.5 * eps * np.abs(w).max()
    assert np.abs(backend.eigvalsh(cupy.asarray(A)).get() - w).max() <= 30 * n**0.5 * eps * np.abs(w).max()


@on_a_card
@pytest.mark.parametrize(("mode", "u"), [("tf32", 2.0**-11), ("bfloat16", 2.0**-8)])
@pytest.mark.parametrize("method", ["minimax", "coupled_newton"])
@pytest.mark.parametrize("n", [17, 128])
def test_low_accuracy_modes(backend, mode, u, method, n):
    """As accurate as they say, and no more: otherwise the products were not rounded."""
    A, root = gallery.spd(n, 4.0, rng=0)
    result = blind(A.astype("float32"), 4, rtol=0.2, compute_dtype=mode, method=method)
    error = distance(result.x.get(), root(Fraction(-1, 4)))
    assert u / 20 <= error <= 0.2 and result.compute_dtype == mode
    full = blind(A.astype("float32"), 4, rtol=1e-3, compute_dtype="float32", method=method)
    assert distance(full.x.get(), root(Fraction(-1, 4))) <= 1e-3


@on_a_card
@pytest.mark.parametrize("limits", SHORTCUTS, ids=repr)
def test_shortcuts_wait_for_nothing_and_take_no_new_memory(backend, limits):
    backend.limits = limits
    A = cupy.stack([cupy.eye(64) * (k + 1) for k in range(8)])
    for _ in range(3):
        solve(A, 4, regularization=1e-6)
    pool = cupy.get_default_memory_pool()
    before = pool.total_bytes()
    for _ in range(5):
        with no_waiting():
            result = solve(A, 4, regularization=1e-6)
    assert pool.total_bytes() == before
    assert cupy.allclose(result.x, cupy.stack([cupy.eye(64) * (k + 1) ** -0.25 for k in range(8)]), rtol=1e-5)


@on_a_card
@pytest.mark.parametrize("limits", SHORTCUTS, ids=repr)
def test_shortcuts_and_bad_matrices(backend, limits):
    good = [gallery.spd(40, cond, rng=0)[0] for cond in (1e1, 1e6)]
    nan, zero, indefinite = np.full((40, 40), np.nan), np.zeros((40, 40)), good[0] - 0.3 * np.eye(40)
    batch = np.stack([good[0], nan, zero, indefinite, good[1]])
    for inverse in (True, False):
        backend.limits = GPULimits()
        wanted = solve(cupy.asarray(batch), 2, inverse=inverse).status.get().tolist()
        backend.limits = limits
        for _ in range(2):
            assert solve(cupy.asarray(batch), 2, inverse=inverse).status.get().tolist() == wanted


@on_a_card
def test_graphs_belong_to_their_stream(backend):
    backend.limits = GPULimits(graphs=1 << 40)
    A = np.stack([gallery.spd(100, 1e3, rng=k)[0] for k in range(4)])
    wanted = blind(A, 4).x.get()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
    found = []
    for _ in range(2):
        for stream in streams:
            with stream:
                found.append(solve(cupy.asarray(A), 4).x)
    for stream in streams:
        stream.synchronize()
    assert all(np.allclose(x.get(), wanted, rtol=0, atol=1e-12 * abs(wanted).max()) for x in found)


@on_a_card
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ends_of_the_spectrum_in_one_launch(backend, dtype):
    backend.limits = GPULimits(kernels=1)
    for n in (1, 2, 16, 17, 100, 255, 256, 257, 511, 513, 1500):
        A = np.stack([gallery.spd(n, 1e3, rng=k)[0] if n > 1 else np.eye(1) for k in range(32)]).astype(dtype)
        assert stacks.fits_lanczos(cupy.asarray(A), backend)
        top, low = (v.get() for v in stacks.extreme_ritz(cupy.asarray(A), start_vector(n), 16, backend))
        w = np.linalg.eigvalsh(A.astype(float))
        assert (top <= w[:, -1] * (1 + 1e-13)).all() and np.allclose(top, w[:, -1], rtol=0.05)
        assert (low >= w[:, 0] - 1e-13 * w[:, -1]).all()


@on_a_card
def test_tune_on_this_card(backend, monkeypatch):
    for name, value in {"SMALL": (8, 64), "JACOBI": (32, 64), "MANY": 256, "SHAPES": ((64, 64),)}.items():
        monkeypatch.setattr(tune_gpu, name, value)
    monkeypatch.setattr(tune_gpu, "BYTES", (1 << 20,))
    monkeypatch.setattr(tune_gpu, "HALVES", (256,))
    monkeypatch.setattr(tune_gpu, "BATCHED", (96, 256))
    lines = []
    tune_gpu.measure(backend, lines.append)
    assert not [line for line in lines if "fails" in line or "is off by" in line]


@on_a_card
def test_positive_and_irrational_exponents():
    A, root = gallery.spd(40, 1e4, rng=1)
    for s in (Fraction(1, 3), Fraction(5, 2), Fraction(-2, 3), -0.1234567890123):
        with no_waiting():
            result = solve_power(cupy.asarray(A), s)
        assert distance(result.x.get(), root(s)) <= 1e-9


@on_a_card
def test_runs_on_the_callers_stream():
    A, root = gallery.spd(128, 1e4, rng=1)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        X = inverse_pth_root(cupy.asarray(A), 4)
        stream.synchronize()
    assert distance(X.get(), root(Fraction(-1, 4))) <= 1e-11


@on_a_card
def test_runs_on_the_arrays_device():
    last = cupy.cuda.runtime.getDeviceCount() - 1
    with cupy.cuda.Device(last):
        A = cupy.eye(8) * 16
    assert backend_of(A).device == last
    result = solve(A, 4)
    assert result.x.device.id == result.status.device.id == last
    with cupy.cuda.Device(last):
        assert cupy.allclose(result.x, cupy.eye(8) / 2)
        assert cupy.allclose(solve_each([A, A], 4)[1].x, cupy.eye(8) / 2)
    assert solve_each([A, A], 4)[1].x.device.id == last


@on_a_card
def test_memory_error_leaves_the_input(monkeypatch):
    A = cupy.stack([cupy.eye(64) * (k + 1) for k in range(8)])
    backend = backend_of(A)
    monkeypatch.setattr(type(backend), "free_bytes", lambda self: 10 * 64 * 64 * 8 * 3)
    whole = solve(A, 2).x  # in chunks of two
    assert cupy.allclose(whole @ whole @ A, cupy.eye(64))
    monkeypatch.setattr(type(backend), "free_bytes", lambda self: 1 << 10)
    with pytest.raises(MemoryError, match="would fit"):
        solve(A, 2)
    assert cupy.allclose(A[3], 4 * cupy.eye(64))


@on_a_card
def test_repeated_shapes_take_no_new_memory():
    A = cupy.stack([cupy.eye(64) * (k + 1) for k in range(8)])
    pool = cupy.get_default_memory_pool()
    for _ in range(2):
        solve(A, 4)
    before = pool.total_bytes()
    for _ in range(5):
        solve(A, 4)
    assert pool.total_bytes() == before


@on_a_card
def test_float32_stays_float32_under_cupy_tf32():
    code = """
import cupy, numpy as np
from matroot import gallery, solve
A = gallery.spd(256, 1e3, rng=0)[0]
X = solve(cupy.asarray(A.astype("float32")), 2, compute_dtype="float32").x.get().astype(float)
w, Q = np.linalg.eigh(A.astype("float32").astype(float))
Y = (Q * w**-0.5) @ Q.T
assert np.linalg.norm(X - Y, 2) <= 3e-4 * np.linalg.norm(Y, 2)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"CUPY_TF32": "1"})


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
@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_unequal_sizes_side_by_side(library):
    A = [gallery.spd(n, 1e3, rng=k)[0] for k, n in enumerate((300, 40, 300, 64, 500, 40))]
    if library == "torch":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("not torch.cuda.is_available(): this torch has no CUDA")
        arrays, read = [torch.as_tensor(a, device="cuda") for a in A], lambda x: x.cpu().numpy()
    else:
        arrays, read = [cupy.asarray(a) for a in A], lambda x: x.get()
    for _ in range(3):  # memory of the side streams is used again while results of the last round are read
        found = solve_each(arrays, 4)
        for a, result in zip(A, found, strict=True):
            w, Q = np.linalg.eigh(a)
            assert distance(read(result.x), (Q * w**-0.25) @ Q.T) <= 1e-10


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

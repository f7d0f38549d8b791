"""On a card: the shortcuts that `matroot tune` turns on."""

from fractions import Fraction

import numpy as np
import pytest
from table import distance
from test_gpu_card import blind, no_waiting, on_a_card

from matroot import Status, gallery, solve
from matroot.backends import backend_of
from matroot.backends.cuda import graphs, stacks
from matroot.backends.cuda.limits import GPULimits
from matroot.cli import tune_gpu
from matroot.methods import minimax_kernel as fused
from matroot.methods.conditioning import start_vector

try:
    import cupy
except ImportError:
    cupy = None
pytestmark = pytest.mark.gpu


@pytest.fixture
def backend(monkeypatch):
    """The card's backend, nothing taken that the built-in limits do not take."""
    found = backend_of(cupy.zeros(1))
    monkeypatch.setattr(found, "limits", GPULimits())
    yield found
    graphs.forget()


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

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
from matroot.backends.cuda.gpu import gpu

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

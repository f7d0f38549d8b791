"""LAPACK in single precision through scipy's pointers; BLAS is held at one thread."""

import ctypes
import threading
from fractions import Fraction

import numpy as np
import pytest
from table import EPS

from matroot import gallery, solve
from matroot.backends import cpu_backend as get_cpu
from matroot.backends.cpu import lapack
from matroot.backends.cpu.blas import _libraries
from matroot.methods.base import Problem
from matroot.methods.eigen import Eigen


def hermitian(B, n, dtype):
    rng = np.random.default_rng(n)
    A = rng.standard_normal((B, n, n)) + (1j * rng.standard_normal((B, n, n)) if dtype == "complex64" else 0)
    return (A + A.conj().swapaxes(1, 2)).astype(dtype)


@pytest.mark.parametrize("dtype", ("float32", "complex64"))
@pytest.mark.parametrize("n", (1, 2, 3, 31, 150))
def test_decomposition(n, dtype):
    A = hermitian(3, n, dtype)
    w, Q = lapack.eigh_single(A.copy())
    assert (w.dtype, Q.dtype) == (np.float32, dtype)
    A, V = A.astype(complex), Q.astype(complex)
    size, bar = np.linalg.norm(A, 2, axis=(1, 2)).max(), (5 + 3 * n**0.5) * EPS["float32"]
    assert np.abs((V * w[:, None]) @ V.conj().swapaxes(1, 2) - A).max() <= bar * size
    assert np.abs(V.conj().swapaxes(1, 2) @ V - np.eye(n)).max() <= bar
    assert np.abs(w - np.linalg.eigvalsh(A)).max() <= bar * size
    assert (np.diff(w) >= 0).all()


@pytest.mark.parametrize("dtype", ("float32", "complex64"))
def test_a_failure_is_nan_and_stays_with_its_matrix(dtype, monkeypatch):
    real, calls = lapack.routine({"float32": "ssyevd", "complex64": "cheevd"}[dtype]), []

    def driver(*arguments):
        real(*arguments)
        calls.append(1)
        ctypes.c_int.from_address(arguments[-1]).value = len(calls) == 2

    monkeypatch.setattr(lapack, "routine", lambda name: driver)
    w, Q = lapack.eigh_single(hermitian(3, 5, dtype))
    for values in (w, Q):
        assert np.isnan(values).reshape(3, -1).all(1).tolist() == [False, True, False]


def test_a_failure_in_double_precision_stays_with_its_matrix(monkeypatch):
    A = hermitian(3, 5, "float32").astype(float)
    real = np.linalg.eigh

    def eigh(a):
        if (a == A[1]).all((-1, -2)).any():
            raise np.linalg.LinAlgError("no convergence")
        return real(a)

    monkeypatch.setattr(np.linalg, "eigh", eigh)
    w, Q = get_cpu().eigh(A.copy())
    for values in (w, Q):
        assert np.isnan(values).reshape(3, -1).all(1).tolist() == [False, True, False]


def test_other_threads_run_meanwhile():
    A, started, done = hermitian(1, 500, "float32"), threading.Event(), threading.Event()
    lapack.eigh_single(A.copy())

    def work():
        started.set()
        lapack.eigh_single(A)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    turns = 0
    while not done.is_set():
        turns += 1
    thread.join()
    assert turns > 100


@pytest.mark.parametrize(("n", "B", "cores"), [(10, 1, 2), (100, 1, 2), (300, 1, 2), (300, 2, 2), (300, 2, 8)])
def test_blas_is_held_wherever_a_root_is_computed(n, B, cores, monkeypatch):
    """On a machine of so many cores: small or large, one or several."""
    from importlib import import_module

    module = import_module("matroot.backends.cpu.cpu")
    monkeypatch.setattr(module, "usable_cores", lambda: cores)
    seen = []
    run = type(get_cpu()).eigh

    def eigh(self, A):
        seen.append(bool(_libraries()[0].holders))
        return run(self, A)

    monkeypatch.setattr(type(get_cpu()), "eigh", eigh)
    A, _ = gallery.spd(n, 10, batch=(B,), rng=0)
    solve(A, 2, method="eigen")
    assert seen and all(seen)


@pytest.mark.parametrize("dtype", ("float32", "float64", "complex64", "complex128"))
def test_a_root_by_eigen_is_hermitian_without_help(dtype):
    A, _ = gallery.spd(150, 1e4, batch=(2,), dtype=dtype, rng=3)
    for refine, rtol in ((None, 1e-5), (None, None), (False, None), (True, None)):
        raw = Eigen(refine=refine).run(A.copy(), Problem(s=Fraction(-1, 2), rtol=rtol), get_cpu())
        assert raw.hermitian is (refine is not True)
        if raw.hermitian:
            assert (raw.x == raw.x.conj().swapaxes(-1, -2)).all()

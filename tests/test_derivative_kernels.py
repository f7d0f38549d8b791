"""The parts of a derivative without eigenvectors: products in registers, reflectors, and what a root leaves for it."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from table import EPS

from matroot import Ridge, Tridiagonal, solve
from matroot._solve import planned
from matroot.backends.arrays import Origin
from matroot.methods import tridiagonal_derivative
from matroot.methods.tridiagonal_derivative import WIDENED, derivatives
from matroot.pipeline.call import Output
from matroot.pipeline.kernel import solve_kept

MINUS_HALF = Fraction(-1, 2)


def positive(n, batch, dtype="float64", seed=0):
    X = np.random.default_rng(seed).standard_normal((batch, 2 * n + 2, n))
    return (X.swapaxes(1, 2) @ X).astype(dtype)


@cache
def products():
    """Return the stages of `tiles` as functions."""
    pytest.importorskip("numba")
    from matroot.backends.cpu.compiled import compiled
    from matroot.backends.cpu.large.tiles import add_product, mirror, multiply

    @compiled(error_model="numpy")
    def run(A, B, C, step, n, wide, half):
        multiply(A, B, C, step, n, wide, half)
        if half:
            mirror(C, step, n, wide)

    @compiled(error_model="numpy")
    def add(A, B, C, step, n, wide):
        add_product(A, 0, 1, step, B, 0, step, C, 0, step, n, -(-n // wide) * wide, n, wide, False)

    return run, add


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 7, 8, 16, 17, 33, 40, 72])
def test_products(n, dtype):
    run, add = products()
    wide = 64 // np.dtype(dtype).itemsize
    rows = -(-n // wide) * wide
    rng, padded = np.random.default_rng(n), np.zeros((4, rows, rows + 16), dtype)
    padded[:3, :n, :n] = rng.standard_normal((3, n, n))
    A, B, C, S = padded[:, :n, :n].astype("f8")
    flat = padded.reshape(4, -1)
    add(flat[0], flat[1], flat[2], rows + 16, n, wide)
    bound = 4 * n**0.5 * EPS[dtype] * np.linalg.norm(A) * np.linalg.norm(B)
    assert np.linalg.norm(padded[2, :n, :n] - (C + A.T @ B)) <= bound
    run(flat[0], flat[1], flat[3], rows + 16, n, wide, False)
    assert np.linalg.norm(padded[3, :n, :n] - A @ B) <= bound
    padded[1, :n, :n] = padded[0, :n, :n].T
    run(flat[0], flat[1], flat[3], rows + 16, n, wide, True)
    S = padded[3, :n, :n]
    assert (S == S.T).all() and np.linalg.norm(S - A @ A.T) <= 4 * n**0.5 * EPS[dtype] * np.linalg.norm(A) ** 2
    assert not padded[3, n:, :n].any()


@pytest.mark.parametrize("lanes", [True, False])
@pytest.mark.parametrize("n", [17, 40, 100, 192, 320])
def test_reflectors_lose_nothing_in_float32(n, lanes, monkeypatch):
    """Rounded reflectors would cost some 12 units: more than this bar, that of the documentation, leaves at n = 17."""
    monkeypatch.setattr(tridiagonal_derivative, "lanes_are_faster", lambda B, n: lanes)
    rng, u = np.random.default_rng(n), 2.0**-24
    for cond in (1.0 + 1e-6, 10.0, 1e5):
        Q = np.linalg.qr(rng.standard_normal((8, n, n)))[0]
        A = ((Q * rng.uniform(1 / cond, 1, n)) @ Q.swapaxes(1, 2)).astype("f4")
        A = (A + A.swapaxes(1, 2)) / 2
        v = rng.standard_normal((8, n, 1)).astype("f4")
        for G in (v @ v.swapaxes(1, 2), np.diag(rng.standard_normal(n).astype("f4")) + 0 * A):
            L, served = derivatives(A, G, MINUS_HALF, None, None, True)
            exact, _ = derivatives(A.astype("f8"), G.astype("f8"), MINUS_HALF, None, None, True)
            most = 0.5 * np.linalg.eigvalsh(A.astype("f8"))[:, 0] ** -1.5
            error = np.linalg.norm(L - exact, axis=(1, 2)) / np.linalg.norm(G, axis=(1, 2)) / most
            assert served.all() and error.max() <= 1.2 * n**0.5 * u


def kept_of(A, **options):
    """Return the root of a stack and the forms that it leaves, or None."""
    job, fused = planned(A, Origin("numpy", A.dtype, None), MINUS_HALF, **options)
    out = Output.room(len(A), A.shape[-1], job)
    return out, solve_kept(A, fused, out)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [17, 40, 130])
def test_a_derivative_takes_the_forms_of_lanes(n, dtype):
    """Those of the root, whatever it may then be given as the matrices; the root does not change."""
    A, G = positive(n, 11, dtype), positive(n, 11, dtype, 1)
    A[3] = np.nan
    A[5] = -A[5]
    for rule in (None, Ridge(0.01, 0.5)):
        options = {"regularization": rule, "method": Tridiagonal(lanes=True)}
        out, kept = kept_of(A, **options)
        assert kept is not None and kept.shape[0] == 11 and kept.ndim == 2
        assert np.array_equal(out.x, solve(A, 2, **options).x, equal_nan=True)
        for adjoint in (True, False):
            L, served = derivatives(A, G, MINUS_HALF, rule, None, adjoint)
            again, too = derivatives(np.full_like(A, np.nan), G, MINUS_HALF, rule, None, adjoint, kept)
            assert (served == too).all() and served.tolist() == [i not in (3, 5) for i in range(11)]
            again, L = again[served], L[served]
            size = np.linalg.norm(L, axis=(1, 2))
            assert (np.linalg.norm(again - L, axis=(1, 2)) <= 1e3 * EPS[dtype] * size).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", [None, Ridge(0.01, 0.5)], ids=repr)
def test_a_derivative_takes_the_forms_of_large_matrices(dtype, rule):
    """And their extreme eigenvalues, where the root has learnt these; the root does not change."""
    A, G = positive(70, 5, dtype), positive(70, 5, dtype, 1)
    A[1], A[2] = np.nan, -A[2]
    A[3, 0, 1] *= 1 + 8 * EPS[dtype]
    options = {"regularization": rule, "method": Tridiagonal(lanes=False)}
    out, kept = kept_of(A, **options)
    assert kept is not None and kept.ndim == 3
    assert np.array_equal(out.x, solve(A, 2, **options).x, equal_nan=True)
    for adjoint in (True, False):
        L, served = derivatives(A, G, MINUS_HALF, rule, None, adjoint)
        again, too = derivatives(np.full_like(A, np.nan), G, MINUS_HALF, rule, None, adjoint, kept)
        assert served.tolist() == too.tolist() == [True, False, False, True, True]
        size = np.linalg.norm(L[served], axis=(1, 2))
        assert (np.linalg.norm(again[served] - L[served], axis=(1, 2)) <= 1e3 * EPS[dtype] * size).all()


def test_forms_are_left_where_they_save_something():
    for n, expected in ((WIDENED, False), (WIDENED + 1, True)):
        assert (kept_of(positive(n, 8))[1] is not None) == expected
    assert kept_of(positive(20, 8).astype(complex))[1] is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 5, 8, 16, 20])
def test_neighbours_in_lanes(n, dtype):
    """A derivative has the bits that it has alone, whatever stands in the other lanes."""
    A, G = positive(n, 11, dtype), positive(n, 11, dtype, 1)
    A[1], A[2], G[3], G[4] = np.nan, -A[2], np.inf, 0
    A[6], G[6] = A[6] * np.float32(1e-12), G[6] * np.float32(1e12)
    A[7] += 1e4 * np.eye(n, dtype=dtype)  # another class of poles
    for rule, ridge in ((None, None), (Ridge(0.01), np.array([-1.0, 1, 1, 1, 1, 0, -1, 2, 3, -1, 0]))):
        for adjoint in (True, False):
            L, served = derivatives(A, G, MINUS_HALF, rule, ridge, adjoint)
            assert served.tolist() == [i not in (1, 2, 3) for i in range(11)]
            for i in np.flatnonzero(served):
                alone = slice(i, i + 1)
                one, _ = derivatives(
                    A[alone], G[alone], MINUS_HALF, rule, None if ridge is None else ridge[alone], adjoint
                )
                assert np.array_equal(one[0], L[i])
            assert not L[4].any()

"""Exponents -a/b with a > 1, whose certificate compares with inverse powers, by the kernels."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, conjugate

from matroot import Ridge, Status, Tridiagonal, gallery, solve
from matroot.methods.conditioning import random_columns

EXPONENTS = [Fraction(-2, 3), Fraction(-3, 4), Fraction(-7, 10), Fraction(-5, 6)]


def distance_to_inverse(X, A, s, n):
    """||X^b V - A^{-a} V|| / ||A^{-a} V|| by numpy's solves; V are unit vectors up to n = 8, else eight probes."""
    V = np.eye(n) if n <= 8 else random_columns(n, 8)
    goal = W = np.broadcast_to(V, (len(A), *V.shape))
    for _ in range(-s.numerator):
        goal = np.linalg.solve(A, goal)
    for _ in range(s.denominator):
        W = X @ W
    return np.linalg.norm(W - goal, axis=(1, 2)) / np.linalg.norm(goal, axis=(1, 2))


@pytest.mark.parametrize("s", EXPONENTS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize("lanes", [True, False])
@pytest.mark.parametrize("n", [2, 5, 8, 19, 48, 90])
def test_root_and_certificate(n, lanes, dtype, s, by_kernels):
    A, power = gallery.spd(n, 1e3, batch=(9,), dtype=dtype, rng=n)
    if "complex" in dtype:
        Q = np.linalg.qr(np.random.default_rng(n).standard_normal((9, n, 2 * n)).view(complex))[0]
        A = Q @ A @ conjugate(Q)
        A = (A + conjugate(A)) / 2
    result = solve(A, s=s, method=Tridiagonal(lanes=lanes))
    assert (result.status == Status.CONVERGED).all()
    exact = (Q @ power(s) @ conjugate(Q)) if "complex" in dtype else power(s)
    error = np.linalg.norm(result.x - exact, 2, (1, 2)) / np.linalg.norm(exact, 2, (1, 2))
    # of the reduction, 9 eps cond |s|, and of the data: both of the matrix as it was rounded
    assert (error <= (10 + n**0.5) * EPS[dtype] * 1e3 * abs(float(s))).all()
    if dtype == "float32":  # the rounding of the root is far above that of the comparison, and must be seen
        wide = A.astype("float64")
        found = distance_to_inverse(result.x.astype("float64"), wide, s, n)
        assert np.allclose(result.residual, found, rtol=1e-3, atol=0)
        assert (result.residual > EPS[dtype] / 100).all()
    else:
        assert (result.residual <= 100 * n**0.5 * EPS[dtype] * 1e3 * -s.numerator).all()


def test_a_ridge_is_part_of_what_is_inverted(by_kernels):
    A = gallery.spd(12, 1e8, batch=(4,), rng=0)[0]
    for lanes in (True, False):
        result = solve(A, s=Fraction(-2, 3), regularization=Ridge(1e-3), method=Tridiagonal(lanes=lanes))
        assert result.converged.all() and (result.residual < 1e-10).all()
        moved = A + result.ridge[:, None, None] * np.eye(12)
        w, Q = np.linalg.eigh(moved)
        expected = (Q * w[:, None] ** (-2 / 3)) @ conjugate(Q)
        assert abs(result.x - expected).max() <= 1e-10 * abs(expected).max()


def test_what_the_kernels_leave_has_the_status_of_a_decomposition():
    rng = np.random.default_rng(0)
    for n in (5, 40):
        Q = np.linalg.qr(rng.standard_normal((6, n, n)))[0]
        w = np.geomspace(1, 0.1, n) * np.ones((6, 1))
        w[1, -1], w[2, -1], w[3, -1], w[4] = 1e-17, -1e-3, 1e-15, 0
        A = (Q * w[:, None]) @ conjugate(Q)
        A = (A + conjugate(A)) / 2
        A[5, 0, 0] = np.nan
        for s in EXPONENTS:
            for rtol in (None, 1e-3):
                ours, other = (solve(A, s=s, rtol=rtol, method=method) for method in ("tridiagonal", "eigen"))
                assert (ours.status == other.status).all()
                assert [solve(a, s=s, rtol=rtol, method="tridiagonal").status for a in A] == list(ours.status)
    tiny = gallery.spd(6, 10.0, batch=(3,), rng=0)[0]
    for scale in (2.0**-900, 2.0**900):  # powers of the scaled matrices stay in range
        assert solve(tiny * scale, s=Fraction(-2, 3), method="tridiagonal").converged.all()

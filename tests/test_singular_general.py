"""Powers of singular general matrices: 0 may be an eigenvalue where it has no Jordan block."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.linalg import block_diag, fractional_matrix_power
from table import EPS

from matroot import ConditionWarning, RootError, Status, fractional_power, gallery, inverse_pth_root, pth_root, solve
from matroot._solve import solve_power

#: Integer matrices of determinant 1 and their inverses: similarities without rounding.
W = np.array([[1, 2, 0, 1, 3], [0, 1, -1, 2, 0], [0, 0, 1, 1, -2], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]])
W = W @ W.T @ np.tril(np.ones((5, 5), int))
W_INVERSE = np.round(np.linalg.inv(W)).astype(int)


def distance(X, Y):
    return np.linalg.norm(X - Y) / np.linalg.norm(Y)


def two_equal_rows():
    """Published transitions of five ratings, one of which is split in two that behave alike."""
    P = gallery.rating_transitions()[:5, :5]
    P = np.hstack([np.vstack([P, P[2]]), np.zeros((6, 1))])
    P[:, 2] /= 2
    P[:, 5] = P[:, 2]
    return P / P.sum(1, keepdims=True)


def hidden(D, cond=10.0, rng=0, field=float):
    """V D V^{-1} with a random V of the given condition."""
    rng = np.random.default_rng(rng)
    n = len(D)

    def draw():
        G = rng.standard_normal((n, n))
        return np.linalg.qr(G + 1j * rng.standard_normal((n, n)) if field is complex else G)[0]

    U, Z, s = draw(), draw(), np.geomspace(1, 1 / cond, n)
    return (U * s) @ Z @ D @ Z.conj().T / s @ U.conj().T


def test_exact_roots():
    """Integer matrices with integer roots: 50 digits would tell nothing more."""
    assert (W @ W_INVERSE == np.eye(5)).all()
    roots = np.array([1, 2, 3, 0, 0])
    for p in (2, 3):
        A, X = W * roots**p @ W_INVERSE, W * roots @ W_INVERSE
        result = solve(A.astype(float), p, inverse=False, assume_a="gen")
        assert result.rank == 3 and result.converged
        assert distance(result.x, X) <= 1e-15 * np.linalg.cond(W) ** 2
        assert distance(np.linalg.matrix_power(result.x, p), A) <= 1e-11
        assert "2 of 5 eigenvalues count as 0" in result.message


@pytest.mark.parametrize("field", [float, complex])
@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(1, 7), Fraction(3, 2), 0.3141], ids=str)
@pytest.mark.parametrize("cond", [1.0, 30.0, 1e3])
def test_known_spectra(cond, s, field):
    """Clusters, conjugate pairs and small eigenvalues beside the zeros."""
    c, d = np.cos(2.0), np.sin(2.0)
    for rest in (
        [[3.0]],
        np.diag([1.0, 1, 0.5, 1e-3]),
        block_diag([[c, -d], [d, c]], 2.0, 2.0),
        np.eye(3) + np.eye(3, k=1),
    ):
        D = block_diag(rest, np.zeros((3, 3)))
        A = hidden(D, cond, field=field)
        exact = hidden(
            block_diag(solve_power(np.asarray(rest), s, assume_a="gen").x, np.zeros((3, 3))), cond, field=field
        )
        result = solve_power(A, s, assume_a="gen")
        assert result.rank == len(rest), result.message
        assert distance(result.x, exact) <= 200 * EPS["float64"] * cond**2 * 1e3 ** (1 - min(float(s), 1))
        assert result.status in (Status.CONVERGED, Status.ILL_CONDITIONED)
        assert result.residual <= 1e-15 * cond**2 * 100 * max(1, s if isinstance(s, float) else s.denominator)


@pytest.mark.parametrize("p", [2, 5, 12, 30])
def test_transitions_with_two_equal_rows(p):
    """The root exists, is nonnegative, and is SciPy's; how far zeros are known decides the status."""
    P = two_equal_rows()
    result = solve(P, p, inverse=False, assume_a="gen")
    assert result.rank == 5
    assert result.status == (Status.CONVERGED if p <= 5 else Status.ILL_CONDITIONED)
    assert (result.x >= -1e-15).all() and np.allclose(result.x.sum(1), 1, atol=1e-13)
    assert distance(np.linalg.matrix_power(result.x, p), P) <= 1e-13 and result.residual <= 1e-13
    if p <= 5:
        theirs = fractional_matrix_power(P, 1 / p).real
        assert distance(result.x, theirs) <= 4e-3  # 1e-16^(1/5): SciPy's zeros are rounding errors
        assert (pth_root(P, p, assume_a="gen") == result.x).all()
        assert solve(P, p, inverse=False, assume_a="gen", rtol=1e-12).status == Status.ILL_CONDITIONED
    else:
        with pytest.warns(ConditionWarning, match="1 of 6 eigenvalues count as 0"):
            pth_root(P, p, assume_a="gen")
    with pytest.raises(RootError, match="negative real axis"):
        inverse_pth_root(P, p, assume_a="gen")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 4, 15])
def test_products_of_covariances_of_few_samples(k, dtype):
    """The trace of the root of S1 S2 is the nuclear norm of X^T Y, as a Frechet distance needs it."""
    rng = np.random.default_rng(k)
    X, Y = rng.standard_normal((20, k)), rng.standard_normal((20, 12))
    A = ((X @ X.T) @ (Y @ Y.T)).astype(dtype)
    result = solve(A, 2, inverse=False, assume_a="gen")
    assert result.rank == min(k, 12) and result.status == Status.CONVERGED and result.x.dtype == A.dtype
    trace = np.linalg.svd(X.T @ Y, compute_uv=False).sum()
    assert abs(np.trace(result.x.astype(float)) - trace) <= 1000 * EPS[dtype] * trace
    assert result.residual <= 100 * EPS[dtype]


JORDAN = {
    "alone": np.eye(4, k=1),
    "beside others": block_diag(np.eye(3, k=1), np.diag([1.0, 2, 3])),
    "beside a semisimple zero": block_diag(np.eye(2, k=1), np.zeros((2, 2)), np.diag([1.0, 2])),
    "weak": block_diag(1e-6 * np.eye(2, k=1), np.diag([1.0, 2])),
}


@pytest.mark.parametrize("name", JORDAN)
def test_a_jordan_block_at_0_is_refused(name):
    D = JORDAN[name]
    for A in (D, hidden(D, 1.0), hidden(D, 30.0), hidden(D, 30.0, field=complex)):
        for p in (2, 5):
            result = solve(A, p, inverse=False, assume_a="gen")
            assert result.status == Status.NO_PRINCIPAL_ROOT and np.isnan(result.x).all()
            assert "0 has a Jordan block" in result.message and f"rank {int(result.rank)} of {len(D)}" in result.message
    assert result.rank == np.linalg.matrix_rank(D)
    assert np.allclose(fractional_power(D, 2, assume_a="gen"), D @ D)  # integer powers need no root


def test_a_negative_eigenvalue_beside_zeros_is_refused():
    for D in (np.diag([1.0, 0, -2, 3]), np.diag([1.0, 0, 0, -1e-3])):
        result = solve(hidden(D), 2, inverse=False, assume_a="gen")
        assert result.status == Status.NO_PRINCIPAL_ROOT and "Jordan" not in result.message


def test_a_batch_is_a_loop():
    stack = np.stack([hidden(np.diag([1.0, 2, 0, 3]), rng=i) for i in range(3)])
    stack[1] = hidden(np.diag([1.0, 2, 4, 3]))
    stack = np.concatenate([stack, np.zeros((1, 4, 4)), np.eye(4, k=1)[None]])
    result = solve(stack, 3, inverse=False, assume_a="gen")
    assert result.rank.tolist() == [3, 4, 3, 0, 3]
    assert result.status.tolist() == [0, 0, 0, 0, Status.NO_PRINCIPAL_ROOT]
    for i in range(5):
        one = solve(stack[i], 3, inverse=False, assume_a="gen")
        assert np.array_equal(one.x, result.x[i], equal_nan=True) and one.rank == result.rank[i]
        assert one.bits_lost == result.bits_lost[i] and np.array_equal(one.residual, result.residual[i], equal_nan=True)
    assert solve(stack, 3, assume_a="gen").rank is None and solve(np.eye(3), 3, inverse=False).rank is None


def test_scales():
    A = hidden(np.diag([1.0, 2, 0, 3]))
    X = pth_root(A, 3, assume_a="gen")
    for scale in (1e-300, 1e-30, 1e30, 1e300):
        assert distance(pth_root(A * scale, 3, assume_a="gen") / scale ** (1 / 3), X) <= 1e-13


def test_small_eigenvalues_are_not_taken_for_0():
    for smallest in (1e-6, 1e-10, 1e-13):
        A = hidden(np.diag([1.0, 0.5, smallest, 0.7]), 1.0)
        assert solve(A, 2, inverse=False, assume_a="gen").rank == 4
    single = hidden(np.diag([1.0, 0.5, 1e-9, 0.7]), 1.0).astype("f4")  # below what float32 can tell from 0
    assert solve(single, 2, inverse=False, assume_a="gen").rank == 3


def test_small_eigenvalues_of_positive_definite_matrices_are_kept():
    """By this method too, and in float32, where the smallest is less than the rounding of the largest."""
    A = gallery.spd(3, 3e8, rng=0)[0]
    A = np.asarray(A, np.float32)
    result = solve(A, 4, inverse=False, method="schur_newton", rtol=1e-6)
    w, Q = np.linalg.eigh(A.astype(np.float64))
    expected = (Q * np.maximum(w, 0) ** 0.25) @ Q.T
    assert result.status != Status.CONVERGED or distance(result.x, expected) <= 1e-6

"""Positive powers of singular matrices by the kernels: the digits, facts and statuses of a full decomposition."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, conjugate

from matroot import Floor, PseudoInverse, Ridge, Shift, Status, TargetCondition, Tridiagonal, gallery, solve
from matroot.backends.cpu.tridiagonal.pole_table import FULL, table
from matroot.methods import tridiagonal_large_cut
from matroot.methods.eigen import Eigen
from matroot.pipeline import kernel

EXPONENTS = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 8), Fraction(3, 4), Fraction(1)]


def of_rank(n, rank, dtype, batch=9, seed=0):
    """Matrices with eigenvalues 0, which rounding moves to both sides, and their power as a function of s."""
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((batch, n, n))
    Q = np.linalg.qr(G + 1j * rng.standard_normal(G.shape) if "complex" in dtype else G)[0]
    w = np.where(np.arange(n) < rank, np.exp(-3 * rng.random((batch, n))), 0)
    A = (Q * w[:, None]) @ conjugate(Q)
    return ((A + conjugate(A)) / 2).astype(dtype), lambda s: (Q * w[:, None] ** s) @ conjugate(Q)


@pytest.fixture
def no_decomposition(monkeypatch):
    """Fail where a matrix is left to `Eigen`."""

    def run(self, A, problem, backend):
        raise AssertionError(f"{len(A)} matrices were decomposed")

    monkeypatch.setattr(Eigen, "run", run)


def values(result, name):
    return np.atleast_1d(getattr(result, name))


@pytest.mark.parametrize("s", EXPONENTS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize(("n", "lanes"), [(2, True), (5, True), (16, True), (33, True), (40, False), (130, None)])
def test_as_exact_as_the_eigenvalues(n, lanes, dtype, s, no_decomposition):
    """A decomposition moves an eigenvalue 0 by some sqrt(n) eps, and rounding of the input by eps: that to the power s.

    0.6 sqrt(n) was measured, as `_bars.decomposed_share` says, and the rest is sums of n terms.
    """
    A, power = of_rank(n, (n + 1) // 2, dtype)
    expected = power(float(s))
    result = solve(A, s=s, method=Tridiagonal(lanes=lanes))
    size = np.maximum(np.linalg.norm(expected, 2, (1, 2)), 1e-300)
    error = np.linalg.norm(result.x - expected, 2, (1, 2)) / size
    eps = EPS["float64"] if dtype != "float32" else EPS["float32"]
    assert (error <= (2 * n**0.5 * eps) ** min(float(s), 1.0) + 10 * n**0.5 * eps).all(), error.max()
    assert (result.x == conjugate(result.x)).all()


@pytest.mark.parametrize("s", EXPONENTS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 7, 24, 50, 129])
def test_the_facts_of_a_decomposition(n, s):
    """Spectra that end in zeros, in noise of either sign, in what is no noise, and in nothing else."""
    rng = np.random.default_rng(n)
    ends = np.array([0.0, 1e-18, -1e-18, 1e-15, -1e-13, -1e-3, 1e-30, 0.0])
    Q = np.linalg.qr(rng.standard_normal((8, n, n)))[0]
    w = np.where(np.arange(n) < (n + 1) // 2, np.geomspace(1, 0.1, n), ends[:, None])
    w[7] = 0
    A = (Q * w[:, None]) @ conjugate(Q)
    A = (A + conjugate(A)) / 2
    A[3] = np.diag(w[3])
    for scale in (1.0, 2.0**-600, 2.0**900):
        for rtol in (None, 1e-3):
            ours, other = (solve(A * scale, s=s, rtol=rtol, method=m) for m in ("tridiagonal", "eigen"))
            assert (ours.status == other.status).all(), (ours.status, other.status)
            usable = ours.status <= Status.ILL_CONDITIONED
            assert np.allclose(ours.lambda_max, other.lambda_max, rtol=1e-12, atol=0)
            low = abs(ours.lambda_min - other.lambda_min)[usable]
            assert (low <= 4 * n**0.5 * EPS["float64"] * ours.lambda_max[usable]).all()
            assert (ours.residual[usable] <= 100 * n * EPS["float64"] + (rtol or 0)).all()
            for one, i in zip(A * scale, range(8), strict=True):
                assert solve(one, s=s, rtol=rtol).status == ours.status[i]


def test_zeros_beside_ones_are_exact(no_decomposition):
    A = np.zeros((3, 6, 6))
    A[:, [0, 1, 3], [0, 1, 3]] = 4.0**-3, 1, 4
    for lanes in (True, False):
        X = solve(A, 2, inverse=False, method=Tridiagonal(lanes=lanes)).x
        bar = 4 * EPS["float64"]
        assert (X[:, [2, 4, 5]] == 0).all() and abs(X * X - A).max() <= bar * 4


def test_a_negative_eigenvalue_beyond_rounding_is_told():
    A = np.diag([1.0, 0.5, 0.0]) + np.zeros((2, 3, 3))
    A[1, 2, 2] = -1e-9
    result = solve(A, 2, inverse=False)
    assert list(result.status) == [Status.CONVERGED, Status.NOT_POSITIVE]
    uneven = A[0] + 1e-8 * np.tri(3, k=-1)
    found, expected = (solve(uneven, 2, inverse=False, method=m) for m in ("auto", "eigen"))
    assert found.status == expected.status and found.asymmetry == expected.asymmetry > 0
    uneven[2, 2] = -1e-9  # asymmetry counts as rounding
    assert solve(uneven, 2, inverse=False).status == solve(uneven, 2, inverse=False, method="eigen").status <= 1


def test_matrices_that_are_not_singular_keep_their_bits():
    good, bad = gallery.spd(12, 1e4, batch=(7,), rng=1)[0], of_rank(12, 5, "float64", 9)[0]
    mixed = np.concatenate([good[:3], bad[:4], good[3:], bad[4:]])
    X = solve(mixed, 4, inverse=False).x
    assert (X[[0, 1, 2, 7, 8, 9, 10]] == solve(good, 4, inverse=False).x).all()
    assert (X[[3, 4, 5, 6, *range(11, 16)]] == solve(bad, 4, inverse=False).x).all()
    assert (X[3] == solve(bad[0], 4, inverse=False).x).all()


def test_only_what_is_left_is_decomposed(monkeypatch):
    """Negative eigenvalues beyond the rounding of the arithmetic, which n epsilons still excuse."""
    counts, cut_roots = [], kernel.cut_roots
    monkeypatch.setattr(kernel, "cut_roots", lambda A, *rest: counts.append(len(A)) or cut_roots(A, *rest))
    A = gallery.spd(12, 1e4, batch=(20,), rng=1)[0]
    A[[5, 6]] = of_rank(12, 5, "float64", 2)[0]
    w, Q = np.linalg.eigh(A[3])
    A[[3, 17]] = (Q * np.where(np.arange(12) == 0, -8 * 2.0**-52 * w[-1], w)) @ Q.T
    assert solve(A, 2, inverse=False).converged.all() and counts == [2]
    solve(A, 2)
    assert counts == [2]


@pytest.fixture
def by_poles(no_decomposition, monkeypatch):
    """Fail where a matrix takes its eigenvectors from any way."""

    def refuse(*args):
        raise AssertionError("eigenvectors were computed")

    monkeypatch.setattr(kernel, "cut_roots", refuse)
    monkeypatch.setattr(tridiagonal_large_cut, "kept", refuse)


@pytest.mark.parametrize("s", [*EXPONENTS[:4], Fraction(9, 10), Fraction(1, 100), Fraction(5, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize(("n", "lanes"), [(2, True), (16, True), (33, True), (40, False), (130, False)])
def test_no_eigenvectors_and_no_negative_eigenvalues(n, lanes, dtype, s, by_poles):
    """A root of a root exists, then; up to n units, by which the eigenvalues of X are off."""
    A, _ = of_rank(n, (n + 1) // 2, dtype)
    X = solve(A, s=s, method=Tridiagonal(lanes=lanes)).x
    w = np.linalg.eigvalsh(X.astype(np.result_type(X, "float64")))
    assert (w[:, 0] >= -n * EPS[dtype] * w[:, -1]).all()
    assert (solve(A[0], s=s, method=Tridiagonal(lanes=lanes)).x == X[0]).all()


@pytest.mark.parametrize(("n", "lanes"), [(6, True), (20, True), (50, False)])
@pytest.mark.parametrize("s", [Fraction(1, 4), Fraction(5, 2), Fraction(2)], ids=str)
def test_features_that_are_zero_stay_zero(n, lanes, s):
    A = of_rank(n, n // 2, "float64")[0]
    A[:, [0, 3, n - 1]] = A[:, :, [0, 3, n - 1]] = 0
    X = solve(A, s=s, method=Tridiagonal(lanes=lanes)).x
    assert (X[:, [0, 3, n - 1]] == 0).all() and (X[:, :, [0, 3, n - 1]] == 0).all()


@pytest.mark.parametrize("n", [20, 60])
def test_an_rtol_is_that_of_the_matrix_as_given(n):
    """Not of one that is moved by rounding of the input; a matrix as it was rounded has a root of its own."""
    A = of_rank(n, n // 2, "float32")[0]
    w, Q = np.linalg.eigh(A.astype("float64"))
    exact = (Q * np.maximum(w, 0)[:, None] ** 0.5) @ conjugate(Q)
    result = solve(A, 2, inverse=False, rtol=1e-6)
    assert (result.status == Status.CONVERGED).all()
    assert (np.linalg.norm(result.x - exact, 2, (1, 2)) <= 1e-6 * np.linalg.norm(exact, 2, (1, 2))).all()


@pytest.mark.parametrize(("n", "lanes"), [(9, True), (117, False)])
def test_an_eigenvalue_that_is_known_is_no_zero(n, lanes):
    """Two hundred epsilons are known to a few per cent, which poles that ignore them would not give."""
    A, power = gallery.spd(n, 2e13, batch=(2,), rng=n)
    error = np.linalg.norm(solve(A, 7, inverse=False, method=Tridiagonal(lanes=lanes)).x - power(1 / 7), 2, (1, 2))
    assert (error <= 9 * EPS["float64"] * 2e13 ** (6 / 7)).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("method", ["auto", "eigen", "coupled_newton", "minimax"])
@pytest.mark.parametrize("rule", [None, 1e-3, Ridge(1e-3, retries=2), Shift(1e-2), TargetCondition(100.0)], ids=str)
def test_zero_is_singular_under_every_relative_rule(rule, method, dtype):
    """And not a matrix with a negative eigenvalue, as some methods said."""
    for shape in ((3, 3), (2, 3, 3), (2, 50, 50)):
        zero = np.zeros(shape, dtype)
        assert (solve(zero, 4, regularization=rule, method=method).status == Status.SINGULAR).all()
        root = solve(zero, 4, inverse=False, regularization=rule, method=method)
        assert (root.status == Status.CONVERGED).all() and (root.x == 0).all()
    if rule is None:
        for cut, status in (
            (Floor(1e-2), "SINGULAR"),
            (Floor(absolute=1.0), "CONVERGED"),
            (PseudoInverse(), "CONVERGED"),
        ):
            for way in ("auto", "eigen"):
                assert (
                    Status(int(solve(np.zeros((3, 3), dtype), 4, regularization=cut, method=way).status)).name == status
                )


FACTS = ("status", "residual", "cond", "lambda_min", "lambda_max", "ridge", "asymmetry", "bits_lost", "changed", "rank")
RELATIVE = [None, 1e-3, Ridge(1e-3, retries=2), Shift(1e-2), TargetCondition(100.0), Floor(1e-2), PseudoInverse()]


@pytest.mark.parametrize("rule", [*RELATIVE, PseudoInverse(absolute=1e-3)], ids=str)
@pytest.mark.parametrize("s", [Fraction(1, 4), 2, Fraction(5, 2), Fraction(-1, 3), Fraction(-2, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float16", "complex64"])
def test_zeros_are_known_without_a_decomposition(dtype, s, rule, monkeypatch):
    """With every fact that a decomposition gives; an entry of any size is no zero."""
    if s == Fraction(-2, 3) and isinstance(rule, Floor | PseudoInverse):
        return  # certified by eigenvectors
    for shape in ((1, 1), (4, 4), (50, 50), (5, 9, 9), (2, 66, 66)):
        zero = np.zeros(shape, dtype)
        other = solve(zero, s=s, regularization=rule, method="eigen")
        with monkeypatch.context() as patch:
            patch.setattr(Eigen, "run", None)
            ours = solve(zero, s=s, regularization=rule, method="tridiagonal")
        for name in ("x", *FACTS):
            one, two = getattr(ours, name), getattr(other, name)
            assert one is two is None or np.array_equal(one, two, equal_nan=True), name
    for n in (3, 50):
        tiny = np.zeros((2, n, n))
        tiny[:, 0, 1] = tiny[:, 1, 0] = 5e-324
        assert (solve(tiny, s=s).status == solve(tiny, s=s, method="eigen").status).all()


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("n", [6, 60, 130])
def test_what_counts_as_zero_is_part_of_the_residual(n, dtype):
    """Rounding to float32 moves zeros by more than the arithmetic does; the root of A is none without them."""
    A = of_rank(n, n // 3 + 1, dtype, batch=3)[0]
    for lanes in (True, False):
        for s in (Fraction(1), Fraction(1, 2)):
            result = solve(A, s=s, method=Tridiagonal(lanes=lanes))
            X, W = result.x.astype("complex128"), A.astype("complex128")
            true = np.linalg.norm(np.linalg.matrix_power(X, s.denominator) - W, axis=(1, 2)) / np.linalg.norm(
                W, axis=(1, 2)
            )
            assert (result.residual >= true / 3).all() and (result.residual <= 3 * true + 1e-13).all()


def test_complex_matrices_of_subnormal_numbers_keep_their_bits():
    """The two real copies of an imaginary part were halved before they were added; half of an odd one is no number."""
    A = of_rank(4, 4, "complex128", batch=8)[0] * 1e-312
    X = solve(A, s=1, method="tridiagonal").x
    assert (X == A).all() and (X == conjugate(X)).all()


@pytest.mark.parametrize("lanes", [True, False])
@pytest.mark.parametrize("s", [Fraction(1, 100), Fraction(1, 8), Fraction(1, 2), Fraction(3, 4)], ids=str)
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_an_eigenvalue_just_above_rounding_has_its_root(n, s, lanes):
    """It is above n epsilons, but beyond the condition numbers that the poles are for."""
    smallest = 8.5 * np.finfo(float).eps
    assert table(1 - s, FULL).edges[-1] < 1 / smallest
    w = np.r_[smallest, np.linspace(0.5, 1, n - 1)]
    A = np.zeros((9, n, n))
    A[:] = np.diag(w)  # whose eigenvalues are known to less than rounding
    found = solve(A, s=s, method=Tridiagonal(lanes=lanes))
    assert (found.status == Status.CONVERGED).all()
    np.testing.assert_allclose(found.x[:, 0, 0], w[0] ** float(s), rtol=float(s) * n)

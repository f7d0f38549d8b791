"""What the dtype in which a matrix came decides: what counts as 0, which digits hold, and where the range ends."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, ITERATIONS, METHODS, NAMED, distance, problem

from matroot import (
    ConditionWarning,
    PseudoInverse,
    Ridge,
    RootError,
    RootTracker,
    Status,
    apply_inverse_pth_root,
    cond_pth_root,
    fractional_power,
    gallery,
    inv_sqrtm,
    solve,
    solve_each,
    sqrtm,
)
from matroot._solve import LARGEST_EXPONENT, solve_power
from matroot.methods.base import Problem

ROWS = list(NAMED.values())
DIRECT = [row for row in METHODS if row.method.name in ("eigen", "tridiagonal")]


def rank_one(k, dtype="float32"):
    """Of rank 1 before it is rounded; its second eigenvalue is then a rounding error of either sign."""
    return np.outer([1, 1 / k], [1, 1 / k]).astype(dtype)


def half(dtype):
    import ml_dtypes

    return ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)


# Eigenvalues that rounding has made negative


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("row", DIRECT, ids=str)
def test_the_rounding_of_the_input_denies_no_root(row, dtype):
    for k in range(2, 40):
        A = rank_one(k, half(dtype))
        result = solve(A, 2, inverse=False, method=row.method)
        assert result.converged or dtype == "bfloat16"  # sqrt(2^-8): one digit of the root of what may be 0
        X = np.asarray(result.x, float)
        # An eigenvalue is off by eps lambda_max, and its root by the square root of that.
        assert np.linalg.norm(X @ X - A.astype(float), 2) <= 8 * EPS[dtype] * np.linalg.norm(A.astype(float), 2)
        assert distance(X, rank_one(k, float) / np.hypot(1, 1 / k)) <= 2 * EPS[dtype] ** 0.5


@pytest.mark.parametrize("s", (Fraction(1, 2), Fraction(1, 3), 0.7), ids=str)
def test_what_schur_newton_takes_for_zero_counts_against_rtol(s):
    """Of the eigenvalues within rounding of 0, the positive ones are no zeros of the matrix as given."""
    rng, seen = np.random.default_rng(0), set()
    for k in range(30):
        v = 1 / (rng.integers(1, 30, 6) if k else np.array([25, 26, 29, 21, 11, 28]))
        A = np.outer(v, v).astype("f4")
        w, Q = np.linalg.eigh(A.astype(float))
        exact = (Q * np.maximum(w, 0) ** float(s)) @ Q.T
        for rtol in (4e-7, 1e-5, 1e-3, 3e-2):
            result = solve_power(A, s, method="schur_newton", rtol=rtol)
            seen.add(bool(result.converged))
            assert not result.converged or distance(result.x.astype(float), exact) <= rtol
    assert seen == {True, False}


def test_a_covariance_of_few_samples_has_a_square_root():
    rng = np.random.default_rng(0)
    for n, samples in ((5, 3), (40, 10), (200, 50)):
        B = rng.standard_normal((samples, n), dtype=np.float32)
        C = B.T @ B / np.float32(samples)
        X = sqrtm((C + C.T) / 2)
        assert np.linalg.norm(X @ X - C, 2) <= n * EPS["float32"] * np.linalg.norm(C, 2)


@pytest.mark.parametrize("row", ITERATIONS, ids=str)
def test_an_iteration_does_not_deny_the_root_either(row):
    """It may fail at a negative eigenvalue; then its remedy is another method, and not that there is no root."""
    for p in (p for p in row.degrees if p in (2, 4)):
        for k in (3, 17):
            result = solve(rank_one(k), p, inverse=False, method=row.method)
            assert result.status != Status.NOT_POSITIVE
            assert result.converged or "'eigen'" in result.message or "left" in result.message


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_negative_beyond_rounding_has_none(dtype):
    for n in (2, 50):
        beyond = -4 * n * EPS[dtype]
        A = np.diag([*np.linspace(0.5, 1, n - 1), beyond]).astype(dtype)
        with pytest.raises(RootError, match="not all positive"):
            sqrtm(A)


# Digits


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_matrix_that_float32_has_made_singular_is_never_converged(row):
    for k in (3, 17, 23):
        for p in (2, 4, 8, 64, 1024):
            if row.method.name == "newton_db" and p > 8:
                continue
            for result in (solve(rank_one(k), p, method=row.method), *solve_each([rank_one(k)], p, method=row.method)):
                assert result.status != Status.CONVERGED, (k, p, result.message)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_two_digits_of_the_input(dtype):
    """u cond / p <= 10^-1.5 is what `solve` documents; float32 holds cond 1e6 at p = 2."""
    u = EPS[dtype]
    for p in (1, 2, 4):
        for share, status in ((0.5, Status.CONVERGED), (2.0, Status.ILL_CONDITIONED)):
            cond = share * p * 10**-1.5 / u
            smallest = float(np.asarray(1 / cond).astype(half(dtype)))
            assert solve(np.diag([1.0, smallest]).astype(half(dtype)), p).status == status, (p, cond)
            assert solve(np.diag([1.0, smallest]), p).status == Status.CONVERGED
    A, _ = problem(31, 1e6, dtype="float32", seed=11)
    assert solve(A, 4).converged and "about 2 digits" in solve(A, 4).message
    assert not solve(A, 1).converged


def test_a_regularization_is_judged_by_what_it_leaves():
    A = rank_one(17)
    assert solve(A, 2, regularization=Ridge(relative=1e-5)).converged
    assert solve(A, 4, regularization=1e-6).converged
    assert solve(A, 2, regularization=PseudoInverse()).converged
    assert solve(A, 2, regularization=1e-7).status == Status.ILL_CONDITIONED
    bfloat = rank_one(17, half("bfloat16"))
    X = np.asarray(solve(bfloat, 2, regularization=PseudoInverse()).x, float)  # cut at n eps of bfloat16
    assert np.linalg.matrix_rank(X, tol=1e-2) == 1


def test_others_that_judge_warn_too():
    A = np.diag([1.0, 1e-7]).astype("float32")
    with pytest.warns(ConditionWarning, match="in float32"):
        apply_inverse_pth_root(A, 2, np.ones(2, "float32"))
    assert np.isinf(cond_pth_root(rank_one(17), 2))
    assert np.isfinite(cond_pth_root(A.astype(float), 2))
    tracker = RootTracker(2, warm_from=2)
    assert tracker.update(A).status == Status.ILL_CONDITIONED
    assert tracker.update(A * np.float32(1 + 1e-6)).status == Status.ILL_CONDITIONED
    assert tracker.way == "first order"  # no full solve brings the digits back


# Singular to the arithmetic


@pytest.mark.parametrize("p", [1, 8, 16, 64, 1000])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_exactly_singular(row, p):
    """The Laplacian of the complete graph: a root of any degree is of rounding alone."""
    if p not in row.degrees and (row.method.name == "newton_db" or p == 1):
        return
    n = 200
    A = n * np.eye(n) - np.ones((n, n))
    for compute in (None, "float32") if row.single else (None,):
        assert solve(A, p, method=row.method, compute_dtype=compute).status != Status.CONVERGED
    assert np.isinf(cond_pth_root(A, p))


# Ranges


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
@pytest.mark.parametrize("row", [row for row in METHODS if row.single], ids=str)
def test_float64_beyond_the_range_of_the_float32_it_is_computed_in(row, scale):
    for inverse in (True, False):
        A, root = problem(5, 10, seed=1)
        result = solve(A * scale, 2, inverse=inverse, method=row.method, compute_dtype="float32")
        s = -0.5 if inverse else 0.5
        assert result.converged
        assert distance(result.x / scale**s, root(s)) <= row.bar(10, -0.5, 5, EPS["float32"])


def test_apply_and_tracker_beyond_that_range():
    A, root = problem(6, 10, seed=2)
    b = np.arange(6.0)
    for scale in (1e-150, 1e150):
        for method in ("eigen", "minimax"):
            y = apply_inverse_pth_root(A * scale, 2, b, method=method, compute_dtype="float32") * scale**0.5
            assert np.linalg.norm(y - root(-0.5) @ b) <= 1e-5 * np.linalg.norm(y)
        tracker = RootTracker(2, compute_dtype="float32", warm_from=2)
        for moved in (1.0, 1 + 1e-6):
            result = tracker.update(A * scale * moved)
            assert result.converged
            assert distance(result.x * (scale * moved) ** 0.5, root(-0.5)) <= 1e-5
        assert tracker.way == "first order"


@pytest.mark.parametrize("row", [row for row in ROWS if Fraction(5, 2) in row.exponents], ids=str)
def test_a_root_below_the_normal_range_is_told(row):
    A = np.diag([1.0, 0.5, 0.25])
    for dtype, low, tiny in (("float32", 1e-16, 2.0**-126), ("float16", 1.5e-2, 2.0**-14)):
        a = (A * low).astype(dtype)
        result = solve_power(a, Fraction(5, 2), method=row.method)
        assert 0 < abs(result.x).max() < tiny
        assert result.status == Status.ILL_CONDITIONED
        assert f"leaves the normal range of {dtype}" in result.message
        none = solve_power((A * low**2).astype(dtype), Fraction(5, 2), method=row.method)
        assert none.status == Status.DIVERGED and f"range of {dtype}" in none.message
    assert solve_power((A * 1e-10).astype("float32"), Fraction(5, 2), method=row.method).converged


@pytest.mark.parametrize("dtype", ["float64", "complex128", "complex64"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_first_power_is_exact_below_the_normal_range(row, dtype):
    """Half of a subnormal number is rounded."""
    if row.method.refuses(Problem(s=Fraction(1)), 2):
        return
    size = {"float64": 1e-317, "complex128": 1e-317, "complex64": 3e-42}[dtype]
    A = np.array([[1.5567763, 0.2916829 - 0.8819j], [0.2916829 + 0.8819j, 0.5542704]]) * size
    A = (A.real if dtype == "float64" else A).astype(dtype)
    result = solve_power(A, Fraction(1), method=row.method)
    assert (result.x == A).all() and result.residual < 1e-15


# Kinds of numbers


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">c8", ">c16"])
def test_the_order_of_bytes_comes_back(dtype):
    A, root = problem(4, 10, dtype="complex128" if "c" in dtype else "float64", seed=3)
    for assume_a in ("pos", "gen"):
        X = inv_sqrtm(A.astype(dtype), assume_a=assume_a)
        assert X.dtype == np.dtype(dtype)
        assert distance(X.astype(np.result_type(X.dtype.newbyteorder("="), float)), root(-0.5)) <= 1e-2
    assert solve(A.astype(dtype), 2).status.dtype == np.int8
    assert inv_sqrtm(np.eye(2, dtype=">i4") * 4).dtype == np.float64


@pytest.mark.parametrize("s", [1e300, -1e300, 2**70, -(10**400), 1.5 * LARGEST_EXPONENT])
def test_exponents_that_leave_no_digit(s):
    for assume_a in ("pos", "gen"):
        with pytest.raises(ValueError, match=r"s must be at most 2\^46 in size"):
            fractional_power(np.eye(2), s, assume_a=assume_a)


def test_large_exponents_end_in_a_status():
    for s in (1e4, -1e4, 1e12):
        result = solve_power(np.diag([0.3, 0.2]), s)
        assert result.status == Status.DIVERGED and "range of float64" in result.message


@pytest.mark.parametrize("n", [2, 30])
def test_integers_of_every_size(n):
    """The smallest int8 has no absolute value in int8."""
    A = np.diag(np.full(n, 127)).astype("int8")
    A[0, 1] = A[1, 0] = -128
    assert solve(A, 2).status == Status.NOT_POSITIVE
    assert solve(np.array([[2**63]], dtype="uint64"), 2).converged


def test_the_smallest_eigenvalue_is_what_it_was():
    """No positive eigenvalue is taken for 0: a root of the matrix as given is what comes back."""
    A, root = gallery.spd(12, 1e9, rng=4)
    assert distance(sqrtm(A), root(0.5)) <= 1e-11
    a = np.diag([1.0, 1e-9]).astype("float32")
    assert np.allclose(sqrtm(a), np.sqrt(a), rtol=1e-6)


def test_below_the_normal_range_of_float16_numbers_have_few_digits():
    """2.4e-7 in float16 may have been 2.1e-7, whose root differs by 0.07."""
    dtype = "float16"
    spacing = float(np.finfo(dtype).smallest_subnormal)
    for a, s in ((4 * spacing, 0.5), (4 * spacing, -0.5), (2 * spacing, -0.25)):
        for shape in ((1, 1), (2, 1, 1)):
            result = solve(np.full(shape, a).astype(dtype), s=s)
            assert (np.asarray(result.status) == Status.ILL_CONDITIONED).all()
            assert f"below the normal range of {dtype}" in result.message
            assert "scaled up before it is rounded" in result.message
    enough = np.eye(3) * 1000 * spacing  # three digits
    assert (solve(enough.astype(dtype), s=0.5).status == Status.CONVERGED).all()
    assert solve(np.eye(3, dtype=int), 2).converged

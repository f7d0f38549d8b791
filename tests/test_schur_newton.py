"""Schur-Newton on known spectra, against mpmath and SciPy, and where no principal root exists."""

import warnings
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy.linalg import block_diag, fractional_matrix_power, schur

from matroot import solve
from matroot._status import Status
from matroot.backends.cpu.lapack import schur_form
from matroot.gallery import frank, general, jordan, rating_transitions, spd
from matroot.methods.base import Problem
from matroot.methods.frechet import cond_pth_root_general
from matroot.methods.schur_newton import SchurNewton, schur_newton

DEGREES = [1, 2, 3, 4, 5, 6, 7, 8, 12, 52, 365]
EXPONENTS = [Fraction(sign, p) for p in DEGREES for sign in (1, -1)]
EPS = 2.0**-53


def distance(X, Y):
    return np.linalg.norm(X - Y) / np.linalg.norm(Y)


def random_similarity(D, rng, cond=10.0):
    """S D S^{-1} with cond(S) given."""
    n = len(D)
    U, _ = np.linalg.qr(rng.standard_normal((n, n)))
    W, _ = np.linalg.qr(rng.standard_normal((n, n)))
    sigma = np.geomspace(1, cond, n)
    return (U * sigma) @ W @ D @ (W.T / sigma) @ U.T


def exact_power(A, s):
    """A^s of exactly this A, by mpmath's eigenvectors in 60 digits."""
    with mpmath.workdps(60):
        lam, V = mpmath.eig(mpmath.matrix(A.tolist()))
        s = mpmath.mpf(Fraction(s).numerator) / Fraction(s).denominator
        X = V * mpmath.diag([mpmath.exp(s * mpmath.log(x)) for x in lam]) * V**-1
        X = np.array(X.tolist(), dtype=complex)
    return X if np.iscomplexobj(A) else X.real


# Accuracy


def general_bar(A, s):
    """What conditioning makes of a rounded A, and n eps for each of the few transformations, whatever the BLAS."""
    return EPS * (2 * cond_pth_root_general(A, s) + 8 * len(A))


@pytest.mark.parametrize("s", EXPONENTS, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("n", [1, 2, 31, pytest.param(128, marks=pytest.mark.slow)])
def test_known_spectra(n, dtype, s):
    A, root = general(n, 1e3, rng=n, dtype=dtype)
    result = schur_newton(A, s)
    assert result.status == Status.CONVERGED
    assert result.x.dtype == dtype
    # The known root belongs to A before it was rounded: cond * cond(V)^2 |s| eps, and n eps for any method.
    assert distance(result.x, root(s)) <= EPS * (1e3 * 10**2 * float(abs(s)) + 8 * n)


@pytest.mark.parametrize("s", [Fraction(1, 3), Fraction(-1, 4), Fraction(-1, 12), Fraction(1, 365)], ids=str)
@pytest.mark.parametrize("cond", [1e1, 1e6, 1e12])
@pytest.mark.parametrize("spectrum", ["geometric", "two_cluster", "power_law"])
def test_positive_definite_reaches_the_bar_of_the_eigen_method(spectrum, cond, s):
    n = 31
    A, root = spd(n, cond, spectrum, rng=0)
    X = schur_newton(A, s).x
    # In two clusters rounding of A alone costs more than eps kappa / p: LAPACK's eigh needs a factor of 7 there.
    factor = 6 if spectrum == "two_cluster" else 3
    bar = EPS * (factor * cond * float(abs(s)) + 8 * n)
    assert np.linalg.norm(X - root(s), 2) <= bar * np.linalg.norm(X, 2)


NON_NORMAL = {
    "frank": frank(12),
    "grcar": np.eye(10) + sum(np.eye(10, k=k) for k in (1, 2, 3)) - np.eye(10, k=-1),
    "almost negative": random_similarity(
        block_diag([[np.cos(3.14159), -np.sin(3.14159)], [np.sin(3.14159), np.cos(3.14159)]], 2, 0.5, 0.01),
        np.random.default_rng(1),
    ),
    "complex": np.random.default_rng(2).standard_normal((6, 6))
    + 1j * np.random.default_rng(3).standard_normal((6, 6))
    + 2 * np.eye(6),
    "triangular": np.triu(np.random.default_rng(4).standard_normal((7, 7)), 1) * 10 + np.diag(np.arange(1, 8) / 4),
}


@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(-1, 3), Fraction(2, 3), Fraction(-1, 52)], ids=str)
@pytest.mark.parametrize("name", NON_NORMAL)
def test_far_from_normal(name, s):
    A = NON_NORMAL[name]
    X = exact_power(A, s)
    result = schur_newton(A, s)
    assert result.status == Status.CONVERGED
    bar = general_bar(A, s)
    assert distance(result.x, X) <= bar
    with warnings.catch_warnings():  # SciPy's own doubts
        warnings.simplefilter("ignore")
        theirs = distance(fractional_matrix_power(A, float(s)), X)
    assert distance(result.x, X) <= 10 * theirs + bar / 100 + 8 * len(A) * EPS


@pytest.mark.parametrize("s", EXPONENTS, ids=str)
def test_jordan_block(s):
    J, root = jordan(6, 0.5)
    assert distance(schur_newton(J, s).x, root(s)) <= 1e-13


@pytest.mark.parametrize("s", [Fraction(-1, 3), Fraction(1, 12)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision_stays_single(dtype, s):
    n, eps = 40, 2.0**-24
    A, root = general(n, 1e2, rng=0, dtype=dtype)
    result = schur_newton(A, s)
    assert result.x.dtype == dtype
    assert distance(result.x, root(s)) <= eps * (1e2 * 10**2 * float(abs(s)) + 8 * n)


@pytest.mark.parametrize("s", [Fraction(3, 4), Fraction(-5, 3), Fraction(2), Fraction(-3), 0.37, -2.2, 1 / 3])
def test_other_exponents(s):
    A, root = general(20, 1e2, rng=0)
    assert distance(schur_newton(A, s).x, root(float(s))) <= EPS * (1e4 * max(1, abs(s)) + 200) * 10


@pytest.mark.parametrize("p", [12, 52, 365])
def test_roots_of_a_transition_matrix(p):
    P = rating_transitions()
    s = Fraction(1, p)
    X = schur_newton(P, s).x
    assert distance(X, exact_power(P, s)) <= general_bar(P, s)
    assert distance(np.linalg.matrix_power(X, p), P) <= p * general_bar(P, s)
    assert distance(X.sum(axis=1), np.ones(len(P))) <= general_bar(P, s)  # 1 is an eigenvector, and ||X|| is 1


def test_inverse_roots_are_more_accurate_than_scipys():
    A, root = general(60, 1e3, rng=0)
    ours = distance(schur_newton(A, Fraction(-1, 12)).x, root(-1 / 12))
    theirs = distance(fractional_matrix_power(A, -1 / 12), root(-1 / 12))
    assert ours <= theirs


def test_real_where_scipy_is_complex():
    A = NON_NORMAL["almost negative"]
    assert schur_newton(A, Fraction(1, 3)).x.dtype == np.float64


# Where there is no principal root

ROTATION, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((6, 6)))
HOPELESS = {
    "zero": np.zeros((3, 3)),
    "jordan at 0": np.eye(4, k=1),
    "jordan at 0, hidden": ROTATION @ block_diag(np.eye(3, k=1), np.diag([1.0, 2.0, 3.0])) @ ROTATION.T,
    "singular": np.arange(16.0).reshape(4, 4),
    "negative": np.diag([1.0, -1e-6]),
    "negative, hidden": random_similarity(np.diag([3.0, 2, 1, 0.5, -0.1]), np.random.default_rng(6)),
    "negative twice": ROTATION @ np.diag([1.0, 2, 3, 4, -1, -1]) @ ROTATION.T,
    "complex negative": np.array([[1 + 1j, 2], [0, -3]]),
}


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(-1, 3), Fraction(1, 12), -0.3], ids=str)
@pytest.mark.parametrize("name", HOPELESS)
def test_no_principal_root(name, s, scale):
    result = schur_newton(HOPELESS[name] * scale, s)
    assert result.status == Status.NO_PRINCIPAL_ROOT
    assert np.isnan(result.x).all()


def test_an_ill_conditioned_or_graded_matrix_is_not_called_singular():
    A, _ = general(30, 1e13, rng=0, eigenvector_cond=1)
    assert schur_newton(A, Fraction(-1, 2)).status == Status.CONVERGED
    d = np.array([1.0, 1e-200, 1e-20])  # a triangular matrix is its own Schur form, and exact
    np.testing.assert_allclose(schur_newton(np.diag(d), Fraction(-1, 4)).x, np.diag(d**-0.25), rtol=1e-14)


# Batches, limits, reports


def test_batch_is_a_loop_and_a_bad_matrix_disturbs_nothing():
    stack, _ = general(9, 1e2, batch=(4,), rng=0)
    good = SchurNewton().run(stack.copy(), Problem(Fraction(-1, 3), assume_a="gen"), None)
    bad = stack.copy()
    bad[2] = np.diag([-1.0, *range(1, 9)])
    raw = SchurNewton().run(bad, Problem(Fraction(-1, 3), assume_a="gen"), None)
    assert raw.status.tolist() == [0, 0, Status.NO_PRINCIPAL_ROOT, 0]
    for i in (0, 1, 3):
        assert np.array_equal(raw.x[i], good.x[i])
        assert np.array_equal(raw.x[i], schur_newton(stack[i], Fraction(-1, 3)).x)
    assert raw.cond.shape == raw.status.shape == raw.n_iter.shape == (4,)


@pytest.mark.parametrize("n", [1, 3, 20])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_norm_is_told_without_its_neighbours(n, dtype):
    A = general(n, 30.0, dtype=dtype, rng=n)[0]
    stack = np.stack([A, -np.eye(n), 5 * A])  # the second has no root
    for a, norm in zip(stack, solve(stack, 3, assume_a="gen").lambda_max, strict=True):
        assert norm == solve(a, 3, assume_a="gen").lambda_max
        assert abs(norm - np.linalg.norm(a, 2)) <= 8 * n * np.finfo(dtype).eps * norm


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_the_schur_form_is_scipys(dtype):
    A = general(7, 30.0, rng=0)[0].astype(dtype)
    R, Q = schur_form(A)
    kind = "complex" if np.iscomplexobj(A) else "real"
    assert all(np.array_equal(one, other) for one, other in zip((R, Q), schur(A, kind), strict=True))
    assert R.dtype == Q.dtype == A.dtype and R.flags.f_contiguous and Q.flags.f_contiguous


def test_empty_and_one_by_one():
    assert schur_newton(np.zeros((0, 0)), Fraction(1, 3)).x.shape == (0, 0)
    assert schur_newton(np.array([[8.0]]), Fraction(1, 3)).x.item() == 2.0
    assert schur_newton(np.array([[-8.0]]), Fraction(1, 3)).status == Status.NO_PRINCIPAL_ROOT


def test_input_is_not_written_to():
    A, _ = general(60, 1e2, rng=0)
    for B in (A.copy(), np.asfortranarray(A), np.asfortranarray(np.triu(A) + 9 * np.eye(60))):
        before = B.copy()
        B.flags.writeable = False
        schur_newton(B, Fraction(1, 3))
        assert np.array_equal(B, before)


def test_iteration_limit_and_tolerance():
    A, root = general(30, 1e4, rng=0)
    full = schur_newton(A, Fraction(-1, 3))
    assert full.n_iter >= 2
    assert schur_newton(A, Fraction(-1, 3), max_iter=1).status == Status.MAX_ITER
    rough = schur_newton(A, Fraction(-1, 3), rtol=1e-4)
    assert rough.n_products < full.n_products
    assert distance(rough.x, root(-1 / 3)) <= 1e-4


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_scales_through_solve(scale):
    A, root = general(12, 1e2, rng=0)
    result = solve(A * scale, 3, assume_a="gen", method="schur_newton")
    assert result.status == Status.CONVERGED
    assert distance(result.x * np.cbrt(scale), root(-1 / 3)) <= EPS * 1e5


def test_certificate_through_solve():
    A, _ = general(60, 1e2, rng=0)
    result = solve(A, 5, assume_a="gen")
    assert result.method == SchurNewton()
    true = np.linalg.norm(np.linalg.matrix_power(result.x, 5) @ A - np.eye(60)) / np.sqrt(60)
    assert result.residual <= 1e-12
    assert true / 10 <= result.residual <= 10 * true

"""Every rule against the spectrum it promises, by every method that serves it."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, NAMED, conjugate, distance, forward_bar, problem
from threadpoolctl import threadpool_limits

from matroot import Floor, PseudoInverse, Ridge, Shift, Status, TargetCondition, fractional_power, gallery, solve
from matroot._solve import solve_power

METHODS = [row for name, row in NAMED.items() if name != "schur_newton"]
SEMIDEFINITE = np.array([0.0, 0.0, 1e-9, 1e-5, 1e-3, 0.02, 0.3, 0.9, 1.0, 1.0])
INDEFINITE = np.array([-1e-6, -1e-9, 0.0, 1e-3, 0.02, 0.3, 0.9, 1.0])


def with_spectrum(w, scale=1.0, seed=0):
    """A = Q diag(w) Q^T and the function that gives Q diag(f) Q^T."""
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(w), len(w))))[0]
    A = (Q * (w * scale)) @ Q.T
    return (A + A.T) / 2, lambda f: (Q * f) @ Q.T


def degree(row):
    return 4 if 4 in row.degrees else 2


@pytest.mark.parametrize("row", METHODS, ids=str)
@pytest.mark.parametrize("rule", [1e-4, Ridge(relative=1e-4), Ridge(absolute=3e-4), Ridge(1e-4, 2e-4)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_ridge(row, rule, scale):
    """The root of A + ridge I, ridge as reported: relative to lambda_max, plus what is absolute."""
    p = degree(row)
    A, function = with_spectrum(SEMIDEFINITE, scale)
    if isinstance(rule, Ridge) and rule.absolute:
        rule = Ridge(rule.relative, rule.absolute * scale)
    result = solve(A, p, method=row.method, regularization=rule)
    relative, absolute = (rule, 0.0) if isinstance(rule, float) else (rule.relative, rule.absolute)
    assert float(result.ridge) == pytest.approx(relative * scale + absolute, rel=1e-6)
    w = SEMIDEFINITE * scale + float(result.ridge)
    assert result.status == Status.CONVERGED
    assert float(result.cond) == pytest.approx(w[-1] / w[0], rel=1e-3)
    assert float(result.lambda_max) == pytest.approx(scale, rel=1e-6)
    assert distance(result.x, function(w ** (-1 / p))) < row.bar(w[-1] / w[0], -1 / p, len(w), EPS["float64"])


@pytest.mark.parametrize("row", METHODS, ids=str)
def test_ridge_of_a_large_matrix_is_relative_to_an_estimate(row):
    """lambda_max then comes from Lanczos, from below; what is reported is what was added, to the last digits."""
    A, _ = problem(100, 1e6, seed=4)
    result = solve(A, degree(row), method=row.method, regularization=1e-3)
    assert 0.99e-3 <= float(result.ridge) <= 1.0000001e-3
    w, Q = np.linalg.eigh(A)
    X = (Q * (w + float(result.ridge)) ** (-1 / degree(row))) @ Q.T
    assert distance(result.x, X) < row.bar(1e3, -1 / degree(row), 100, EPS["float64"])


@pytest.mark.parametrize("row", METHODS, ids=str)
def test_ridge_is_raised_until_the_root_is_good(row):
    """-2e-5 is more than the first two ridges mend; the rest of the batch keeps the ridge it was given."""
    w = np.array([-2e-5, 0.1, 0.5, 1.0])
    bad, function = with_spectrum(w)
    stack = np.stack([np.eye(4), bad, 2 * np.eye(4)])
    result = solve(stack, 2, method=row.method, regularization=Ridge(relative=1e-6, retries=4))
    assert (result.status == Status.CONVERGED).all()
    assert result.ridge == pytest.approx([1e-6, 1e-4, 2e-6], rel=1e-6)
    X = function((w + result.ridge[1]) ** -0.5)
    assert distance(result.x[1], X) < row.bar(1 / 8e-5, -1 / 2, 4, EPS["float64"])
    given_up = solve(stack, 2, method=row.method, regularization=Ridge(relative=1e-6, retries=1))
    assert given_up.status.tolist() == [Status.CONVERGED, Status.NOT_POSITIVE, Status.CONVERGED]
    assert np.isnan(given_up.x[1]).all()


@pytest.mark.parametrize("row", METHODS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_shift_moves_the_smallest_eigenvalue_up(row, scale):
    p = degree(row)
    A, function = with_spectrum(INDEFINITE, scale)
    result = solve(A, p, method=row.method, regularization=Shift(relative=1e-4, absolute=1e-5 * scale))
    shift = (1e-4 + 1e-5 + 1e-6) * scale
    assert float(result.ridge) == pytest.approx(shift, rel=1e-9)
    w = INDEFINITE * scale + float(result.ridge)
    assert distance(result.x, function(w ** (-1 / p))) < row.bar(1 / 1.1e-4, -1 / p, len(w), EPS["float64"])
    good = solve(np.diag([0.5, 1.0]) * scale, p, method=row.method, regularization=Shift(relative=1e-4))
    assert float(good.ridge) == 0


@pytest.mark.parametrize("row", METHODS, ids=str)
@pytest.mark.parametrize("kappa", [10.0, 1e5])
def test_target_condition(row, kappa):
    p = degree(row)
    A, function = with_spectrum(SEMIDEFINITE)
    result = solve(A, p, method=row.method, regularization=TargetCondition(kappa))
    assert float(result.cond) == pytest.approx(kappa, rel=1e-3)
    w = SEMIDEFINITE + float(result.ridge)
    assert w[-1] / w[0] == pytest.approx(kappa, rel=1e-9)
    assert distance(result.x, function(w ** (-1 / p))) < row.bar(kappa, -1 / p, len(w), EPS["float64"])
    kept = solve(np.diag([0.5, 1.0]), p, method=row.method, regularization=TargetCondition(kappa))
    assert float(kept.ridge) == 0


@pytest.mark.parametrize("s", [Fraction(-1, 4), Fraction(1, 2), Fraction(-2, 3), -0.3], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_floor_clamps_and_leaves_the_rest(s, scale):
    for spectrum in (SEMIDEFINITE, INDEFINITE):
        A, function = with_spectrum(spectrum, scale)
        w = np.maximum(spectrum, 1e-4) * scale
        result = solve(A, 2, regularization=Floor(1e-4)) if s == -0.5 else None
        X = fractional_power(A, s, regularization=Floor(1e-4)) if result is None else result.x
        assert distance(X, function(w ** float(s))) < forward_bar(1e4, s, len(w), EPS["float64"])


@pytest.mark.parametrize("s", [Fraction(-1, 4), Fraction(1, 2), Fraction(-2, 3), -0.3], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_pseudo_inverse_leaves_the_null_space_empty(s, scale):
    A, function = with_spectrum(SEMIDEFINITE, scale)
    kept = SEMIDEFINITE > 1e-7
    f = np.where(kept, np.where(kept, SEMIDEFINITE * scale, 1) ** float(s), 0)
    X = fractional_power(A, s, regularization=PseudoInverse(1e-7))
    assert distance(X, function(f)) < 2 * forward_bar(1e5, s, len(f), EPS["float64"])  # A itself is rounded, too


def test_pseudo_inverse_cuts_at_the_precision_of_the_input():
    """Rounded to float32, an eigenvalue of 0 is one of some 1e-8: noise there, a signal in float64."""
    w = np.array([0.0, 0.0, 0.01, 0.1, 1.0])
    A, function = with_spectrum(w)
    X = solve(A.astype(np.float32), 2, regularization=PseudoInverse()).x
    exact = function(np.where(w > 0, np.where(w > 0, w, 1) ** -0.5, 0))
    assert distance(X, exact) < forward_bar(1e2, -0.5, 5, EPS["float32"])
    signal, _ = with_spectrum(np.array([1e-8, 0.1, 1.0]))
    assert np.linalg.norm(solve(signal, 2, regularization=PseudoInverse()).x, 2) == pytest.approx(1e4, rel=1e-6)


def test_the_certificate_is_of_the_regularized_matrix():
    A, _ = with_spectrum(SEMIDEFINITE)
    for rule in (1e-4, Floor(1e-4), Shift(1e-4), PseudoInverse(1e-4), TargetCondition(1e4)):
        result = solve(A, 4, regularization=rule)
        assert result.status == Status.CONVERGED
        assert float(result.residual) < 4 * 1e4 * EPS["float64"] * 10


@pytest.mark.parametrize(
    "s", [Fraction(-1, 2), Fraction(-2, 3), Fraction(-2), -(2**-0.5), Fraction(1, 3), 0.3], ids=str
)
@pytest.mark.parametrize("rule", [Floor(3e-3), PseudoInverse(3e-3)], ids=str)
def test_the_certificate_of_a_rule_is_not_that_of_its_decomposition(s, rule):
    """What float32 has in place of small eigenvalues is no matter where the rule replaces them."""
    A = with_spectrum(np.array([1e-7, 3e-7, 1e-6, 0.02, 0.3, 1.0]))[0].astype(np.float32)
    w, Q = np.linalg.eigh(A.astype(np.float64))
    kept = np.where(w > 3e-3 * w[-1], w, 3e-3 * w[-1] if isinstance(rule, Floor) else 0)

    def power(t):
        return (Q * np.where(kept > 0, np.where(kept > 0, kept, 1) ** float(t), 0)) @ Q.T

    result = solve_power(A, s, regularization=rule, compute_dtype="float32")
    a, b = (abs(s.numerator), s.denominator) if isinstance(s, Fraction) else (s, 1)
    X = np.linalg.matrix_power(result.x.astype(np.float64), b)
    if a == 1 and s < 0:
        true = np.linalg.norm(X @ power(1) - power(0)) / 6**0.5
    else:
        goal = power(float(s) * b)
        true = np.linalg.norm(X - goal) / np.linalg.norm(goal)
    assert true / 2 < float(result.residual) < 2 * true


@pytest.mark.parametrize("s", [Fraction(-2), Fraction(-3, 2), -0.7], ids=str)
def test_the_certificate_knows_a_floor_that_the_decomposition_has_missed(s):
    """float32 has 1e-7 in place of 0, above the floor of 1e-8: too large by 10, not by 1e10. Or -1e-7 for 1e-8."""
    A = 5 * np.eye(5) - 1.0
    result = solve_power(A, s, regularization=Floor(1e-8), compute_dtype="float32")
    true = abs(5e-8 ** float(s) - np.linalg.norm(result.x, 2)) / 5e-8 ** float(s)
    assert true < 1 and 0.1 * true < float(result.residual) < 10 * max(true, 0.5)
    assert result.status == Status.ILL_CONDITIONED
    for seed in range(9):
        A, function = with_spectrum(np.array([1e-8, 0.3, 0.5, 1.0]), seed=seed)
        result = solve_power(A, s, regularization=Floor(1e-10), compute_dtype="float32")
        X = function(np.linalg.eigvalsh(A) ** float(s))
        b = s.denominator if isinstance(s, Fraction) else 1
        X, goal = (np.linalg.matrix_power(Y, b) for Y in (result.x, X))
        true = np.linalg.norm(X - goal) / np.linalg.norm(goal)
        assert min(1, true / 10) < float(result.residual) < 10 * max(1, true)


@pytest.mark.parametrize(("single", "least"), [(True, 1e-10), (False, 1e-19)])
@pytest.mark.parametrize("row", METHODS, ids=str)
def test_a_promise_below_the_rounding_of_the_arithmetic_is_none(row, single, least):
    """There, noise has the place of what is promised: 1e-7, say, whose 32nd root is 1.5 times that of 1e-12."""
    if single and not row.single:
        return
    for n in (3, 4, 5, 8, 12):
        A = n * np.eye(n) - 1.0
        for rule in (Floor(least), Ridge(least), Shift(least), TargetCondition(1 / least)):
            if row.method.name != "eigen" and isinstance(rule, Floor):
                continue
            result = solve(A, 32, method=row.method, regularization=rule, compute_dtype="float32" if single else None)
            exact = (least * n) ** (-1 / 32)
            assert not result.converged or abs(np.linalg.norm(result.x, 2) / exact - 1) < 0.1, (n, rule)


@pytest.mark.parametrize(("single", "least", "status"), [(False, 1e-13, 1), (False, 1e-9, 0), (True, 3e-6, 1)])
def test_what_is_dropped_is_told_from_what_is_kept_no_better_at_a_large_degree(single, least, status):
    """The error is eps cond, and not eps cond / p: the power jumps from 0."""
    for seed in range(5):
        A, function = with_spectrum(np.array([least / 50, least, 0.3, 0.7, 1.0]), seed=seed)
        dtype = "float32" if single else None
        result = solve(A, 365, regularization=PseudoInverse(least / 5), compute_dtype=dtype)
        exact = function(np.array([0, *(np.array([least, 0.3, 0.7, 1.0]) ** (-1 / 365))]))
        assert result.status == status
        assert distance(result.x, exact) < 100 * EPS["float32" if single else "float64"] / least


@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(3), Fraction(-1, 2), Fraction(-3, 2), 0.7], ids=str)
@pytest.mark.parametrize(("n", "dtype"), [(1, "float32"), (3, "float32"), (3, "float64")])
def test_where_everything_is_dropped_zero_is_exact(s, n, dtype):
    A = -with_spectrum(np.linspace(0.3, 1, n))[0]
    result = solve_power(A, s, regularization=PseudoInverse(), compute_dtype=dtype)
    assert not result.x.any() and result.residual == 0 and result.status == Status.CONVERGED


@pytest.mark.parametrize("rule", [1e-4, Floor(1e-4), Shift(1e-4), PseudoInverse(1e-4), TargetCondition(1e4)], ids=str)
def test_rules_on_complex_float32_batches(rule):
    A, _ = gallery.spd(6, 1e6, "geometric", batch=(2, 3), dtype="complex64", rng=2)
    result = solve(A, 2, regularization=rule)
    w, Q = np.linalg.eigh(A.astype(np.complex128))
    kept = np.ones_like(w)
    if isinstance(rule, Floor):
        w = np.maximum(w, 1e-4 * w[..., -1:])
    elif isinstance(rule, PseudoInverse):
        kept = w > 1e-4 * w[..., -1:]
    w = np.where(kept, w + np.asarray(result.ridge, np.float64)[..., None], 1)
    X = (Q * (kept * w**-0.5)[..., None, :]) @ conjugate(Q)
    assert result.x.dtype == np.complex64 and (result.status == Status.CONVERGED).all()
    assert distance(result.x, X) < forward_bar(1.1e4, -0.5, 6, EPS["float64"]) + 2 * EPS["float32"]


def test_regularized_roots_of_general_matrices():
    rng = np.random.default_rng(5)
    A = rng.standard_normal((8, 8)) / 8 + 2 * np.eye(8)
    result = solve(A, 3, assume_a="gen", regularization=Ridge(relative=1e-2, absolute=0.1))
    assert float(result.ridge) == pytest.approx(1e-2 * np.linalg.norm(A, 2) + 0.1, rel=1e-2)
    B = A + float(result.ridge) * np.eye(8)
    X = np.linalg.matrix_power(result.x, 3) @ B
    assert distance(X, np.eye(8)) < 100 * EPS["float64"]


@pytest.mark.parametrize("rule", [Floor(1e-3), Shift(1e-3), PseudoInverse(), TargetCondition(10.0)], ids=str)
def test_rules_of_real_eigenvalues_are_refused_for_general_matrices(rule):
    with pytest.raises(ValueError, match="use Ridge"):
        solve(np.eye(3), 2, assume_a="gen", regularization=rule)


def test_a_rule_does_not_depend_on_the_number_of_threads():
    A, _ = gallery.spd(40, 1e8, batch=(9,), rng=0)
    many = solve(A, 4, regularization=1e-6, method="eigen")
    with threadpool_limits(1):
        one = solve(A, 4, regularization=1e-6, method="eigen")
    assert np.array_equal(many.ridge, one.ridge)


def test_numbers_are_relative_ridges():
    A = np.diag([1.0, 1e-9])
    by_number = solve(A, 2, regularization=1e-6)
    assert np.array_equal(by_number.x, solve(A, 2, regularization=Ridge(relative=1e-6)).x)
    assert np.array_equal(solve(A, 2, regularization=0).x, solve(A, 2).x)

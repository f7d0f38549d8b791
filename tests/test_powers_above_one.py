"""Powers s > 1 through the tridiagonal form: whole ones and others, in lanes and by LAPACK's way."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from table import EPS, conjugate

from matroot import (
    Eigen,
    Floor,
    PseudoInverse,
    Ridge,
    Shift,
    Status,
    TargetCondition,
    Tridiagonal,
    fractional_power,
    gallery,
    solve,
)
from matroot._solve import plan
from matroot.backends.arrays import take
from matroot.methods.tridiagonal import LARGEST_POWER

EXPONENTS = [2, 3, 4, LARGEST_POWER, Fraction(3, 2), Fraction(5, 2), Fraction(16, 7)]
SHAPES = [(2, True), (5, True), (16, True), (33, True), (40, False), (130, False)]
RULES = [
    Ridge(1e-3),
    Ridge(absolute=0.01),
    Floor(2e-2),
    PseudoInverse(rtol=2e-2),
    PseudoInverse(absolute=1e-9),
    Shift(relative=1e-3),
    TargetCondition(20.0),
]


def matrices(n, dtype, least=1e-6, batch=9, zeros=0):
    """Matrices with eigenvalues from 1 to `least`, and `zeros` of 0; their powers as a function of s."""
    rng = np.random.default_rng(n)
    G = rng.standard_normal((batch, n, n))
    Q = np.linalg.qr(G + 1j * rng.standard_normal(G.shape) if "complex" in dtype else G)[0]
    w = np.geomspace(1, least, n) * (np.arange(n) < n - zeros)
    A = (Q * w) @ conjugate(Q)
    return ((A + conjugate(A)) / 2).astype(dtype), lambda s: (Q * w**s) @ conjugate(Q)


def distance(x, expected):
    return np.linalg.norm(x - expected, 2, (1, 2)) / np.linalg.norm(expected, 2, (1, 2))


@pytest.mark.parametrize("s", EXPONENTS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize(("n", "lanes"), SHAPES)
@pytest.mark.parametrize("zeros", [False, True])
def test_errors_are_those_of_products(n, lanes, dtype, s, zeros, by_kernels):
    """Relative to ||A^s||, so that no condition number enters: s times the errors of A as it was made, and reduced."""
    A, power = matrices(n, dtype, zeros=n // 2 if zeros else 0)
    result = solve(A, s=s, method=Tridiagonal(lanes=lanes))
    assert (result.status == Status.CONVERGED).all()
    bar = 8 + n**0.5
    if zeros and s.denominator > 1:  # by rotations, each of which rounds
        bar *= 4
    assert (distance(result.x, power(float(s))) <= bar * float(s) * EPS[dtype]).all()
    assert (result.x == conjugate(result.x)).all()
    a, b = Fraction(s).numerator, Fraction(s).denominator
    wide = [M.astype(np.result_type(M, "float64")) for M in (result.x, A)]
    X, goal = np.linalg.matrix_power(wide[0], b), np.linalg.matrix_power(wide[1], a)
    true = np.linalg.norm(X - goal, axis=(1, 2)) / np.linalg.norm(goal, axis=(1, 2))
    assert (result.residual >= true / 10 - 4 * n**0.5 * EPS["float64"]).all()
    assert (result.residual <= 10 * true + a * bar * EPS["float64"]).all()


@pytest.mark.parametrize("s", [2, 3, Fraction(5, 2)], ids=str)
@pytest.mark.parametrize(("n", "lanes"), SHAPES)
@pytest.mark.parametrize("zeros", [0, 1])
def test_the_facts_of_a_decomposition(n, lanes, s, zeros):
    A, _ = matrices(n, "float64", zeros=zeros)
    A[1, 0, 1:] *= 1 + 1e-9  # asymmetry, up to which eigenvalues are rounding
    found, expected = (solve(A, s=s, method=method) for method in (Tridiagonal(lanes=lanes), Eigen()))
    assert (found.status == expected.status).all()
    assert np.allclose(found.lambda_max, expected.lambda_max, rtol=1e-9)
    assert np.allclose(found.lambda_min, expected.lambda_min, rtol=0, atol=1e-8)
    rounding = n * EPS["float64"] * 4
    assert ((found.cond > 1 / rounding) == (expected.cond > 1 / rounding)).all()
    if not zeros:
        assert np.allclose(found.cond[2:], expected.cond[2:], rtol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("s", [2, Fraction(5, 2)], ids=str)
@pytest.mark.parametrize(("n", "lanes"), [(5, True), (33, True), (60, False)])
def test_under_every_rule(n, lanes, s, rule, by_kernels, monkeypatch):
    A, _ = matrices(n, "float64", least=1e-4)
    found = solve(A, s=s, regularization=rule, method=Tridiagonal(lanes=lanes))
    monkeypatch.undo()
    expected = solve(A, s=s, regularization=rule, method=Eigen())
    assert (found.status == expected.status).all()
    assert (distance(found.x, expected.x) <= 20 * n**0.5 * EPS["float64"] * float(s)).all()
    assert np.allclose(found.ridge, expected.ridge, rtol=1e-12) and np.allclose(found.cond, expected.cond, rtol=1e-8)
    for name in ("changed", "rank"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("s", [2, Fraction(7, 3)], ids=str)
@pytest.mark.parametrize(("n", "lanes"), [(4, True), (20, True), (45, False)])
def test_bits_do_not_depend_on_the_others(n, lanes, s):
    A, _ = matrices(n, "float64", batch=11)
    others = A.copy()
    others[::2] = 1e8 * A[::2] - 3 * np.eye(n)
    others[3] = 0
    method = Tridiagonal(lanes=lanes)
    one, two = (solve(M, s=s, method=method).x for M in (A, others[:9]))
    same = [1, 5, 7]
    assert (one[same] == two[same]).all()
    assert (solve(A[5:6], s=s, method=method).x[0] == one[5]).all()


@pytest.mark.parametrize("n", [3, 20, 50])
@pytest.mark.parametrize("size", [1e200, 1e-200, 1e-160])
def test_powers_out_of_range_are_none(n, size):
    A = size * matrices(n, "float64")[0]
    found, expected = (solve(A, s=2, method=method) for method in ("auto", "eigen"))
    assert (found.status == expected.status).all() and (found.status != Status.CONVERGED).all()
    assert (np.isnan(found.x) == np.isnan(expected.x)).all()
    assert (np.isnan(found.residual) == np.isnan(expected.residual)).all()
    assert (fractional_power(A[0] / size * 2.0**250, 2) == fractional_power(A[0] / size, 2) * 2.0**500).all()


@pytest.mark.parametrize("n", [4, 20, 50])
@pytest.mark.parametrize("s", [2, Fraction(5, 2)], ids=str)
def test_a_negative_eigenvalue_is_told(n, s):
    """Also for whole powers, which a matrix has: `pos` was assumed."""
    A, _ = matrices(n, "float64")
    A[4] -= 1e-3 * np.eye(n)
    result = solve(A, s=s)
    assert result.method.name == "tridiagonal"
    assert [Status(code) for code in np.unique(result.status)] == [Status.CONVERGED, Status.NOT_POSITIVE]
    assert result.status[4] == Status.NOT_POSITIVE and np.isnan(result.x[4]).all()


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_the_residual_of_a_half_is_that_of_its_rounding(dtype):
    """Also where X^b and A^a are below the range of float64, or their squares."""
    size = 2.0**-60 if dtype != "float16" else 1.0
    A = (matrices(16, "float64", least=0.1)[0] * size).astype(dtype)
    result = solve(A, s=Fraction(9, 8))
    assert (result.status == Status.CONVERGED).all()
    X, goal = (M.astype(float) for M in (result.x, A))
    X, goal = np.linalg.matrix_power(X / size ** (9 / 8), 8), np.linalg.matrix_power(goal / size, 9)
    true = np.linalg.norm(X - goal, axis=(1, 2)) / np.linalg.norm(goal, axis=(1, 2))
    assert (result.residual >= true / 3).all() and (result.residual <= 3 * true).all()


def test_what_auto_takes():
    """Beyond LARGEST_POWER, and where many products follow a large reduction, a decomposition."""

    def name(n, s, batch=(), **options):
        A = np.broadcast_to(np.eye(n), (*batch, n, n))
        return plan(*take(A), Fraction(s), **options).method.name

    assert name(16, 2) == name(16, LARGEST_POWER) == name(1024, 2) == name(1024, 8) == "tridiagonal"
    assert name(1024, 15) == name(16, LARGEST_POWER + 1) == name(512, 2.5, rtol=1e-3) == "eigen"
    assert name(200, 15, (16,)) == name(512, 3, rtol=1e-3) == "tridiagonal"
    with pytest.raises(ValueError, match="tridiagonal serves exponents -1 <= s <= 16, not 17"):
        solve(np.eye(2), s=17, method="tridiagonal")


def test_what_is_counted():
    A = gallery.spd(200, 10.0, rng=0)[0]
    counts = [int(solve(A, s=s, method="tridiagonal").n_products) for s in (Fraction(1, 2), 2, 3, Fraction(7, 2))]
    assert counts == [2, 3, 4, 5]

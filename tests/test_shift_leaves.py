"""What is left of the digits where a shift cancels most of a matrix."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, distance
from test_regularization import METHODS, degree, with_spectrum

from matroot import Ridge, Shift, Status, TargetCondition, solve, solve_apply
from matroot._solve import solve_power


@pytest.mark.parametrize("row", METHODS, ids=str)
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(("spread", "single"), [(1e-9, False), (1e-3, True), (1e-7, True), (1e-14, False)])
def test_what_a_shift_leaves_of_a_negative_matrix(row, n, spread, single):
    """It is no more precise than the matrix before the shift, and no less where the shift alone is rounded."""
    if single and not row.single:
        return
    A = with_spectrum(-1 - spread * np.arange(n))[0]
    w, Q = np.linalg.eigh(A)
    for rule in (Shift(spread), Ridge(absolute=1 + n * spread)):
        result = solve(A, 2, method=row.method, regularization=rule, compute_dtype="float32" if single else None)
        X = (Q / np.sqrt(w + float(result.ridge))) @ Q.T
        eps = EPS["float64"] / spread + EPS["float32" if single else "float64"]
        if single and not row.iterates:
            eps = EPS["float32"] / spread
        if eps < 1e-3:
            assert result.converged and distance(result.x, X) < 20 * n * eps
        elif result.converged:
            assert distance(result.x, X) < 0.1


@pytest.mark.parametrize("row", METHODS, ids=str)
@pytest.mark.parametrize("n", [1, 3, 40])
def test_a_shift_that_leaves_nothing_leaves_no_digits(row, n):
    """A = -c I, of which the rule leaves 0 or an eps of c: the ridge is told, and no digit vouched for."""
    for c in (1.0, 2.588003463633217e-11, 0.7):
        A = np.stack([-c * np.eye(n), np.eye(n)])
        for rule in (TargetCondition(2414.316551983178), Ridge(absolute=c), Shift(absolute=0.0)):
            p = degree(row)
            for batch in (A, A[0]):
                result = solve(batch, p, inverse=False, method=row.method, regularization=rule)
                status = np.ravel(result.status)
                if row.iterates and status[0] == Status.NOT_POSITIVE:  # as rounding has made of 0
                    continue
                assert status[0] == Status.ILL_CONDITIONED and (status[1:] == Status.CONVERGED).all()
                assert result.ridge.flat[0] == pytest.approx(c, rel=1e-12)
                assert abs(np.ravel(result.x[..., 0, 0])[0]) <= (4 * EPS["float64"] * c) ** (1 / p)
                assert "of the matrix: about 0 digits are left" in result.message
                inverse = solve(batch, p, method=row.method, regularization=rule)
                assert np.ravel(inverse.status)[0] == Status.SINGULAR


@pytest.mark.parametrize("s", [Fraction(1), Fraction(1, 2), Fraction(3, 2), Fraction(-1, 2)], ids=str)
@pytest.mark.parametrize("method", ["auto", "eigen"])
def test_digits_of_what_a_shift_leaves(s, method):
    """They are those that rounding of A, which is larger, has left: four, and none."""
    w = np.array([1.0, 2.0, 3.0])
    for size, status in ((1e-12, Status.CONVERGED), (1e-15, Status.ILL_CONDITIONED)):
        A = np.diag(size * w - 1)
        result = solve_power(A, s, method=method, regularization=Ridge(absolute=1.0))
        exact = (np.diag(A) + 1) ** float(s)
        assert result.status == (status if s != Fraction(-1, 2) or size > 1e-15 else result.status)
        if status == Status.CONVERGED:
            assert distance(result.x, np.diag(exact)) <= 1e-2
            assert "about 4 digits hold" in result.message


@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(1, 3), Fraction(-1, 2)], ids=str)
def test_digits_of_what_a_shift_leaves_to_apply(s):
    for size, status in ((1e-12, Status.CONVERGED), (1e-15, Status.ILL_CONDITIONED)):
        A = np.diag(size * np.array([1.0, 2.0, 3.0]) - 1)
        result = solve_apply(A, None, np.ones(3), s=s, regularization=Ridge(absolute=1.0))
        assert result.status == status
    nothing = solve_apply(-np.eye(3), None, np.ones(3), s=s, regularization=TargetCondition(100.0))
    assert nothing.status in (Status.ILL_CONDITIONED, Status.NOT_POSITIVE) and (s < 0 or not nothing.x.any())

"""The stored poles: their number, and their error in 50 digits."""

from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
import pytest
from table import EPS

from matroot.backends.cpu.tridiagonal.pole_table import (
    COARSE,
    FULL,
    LEVELS,
    SINGLE,
    STORED,
    TOGETHER,
    numbers,
    table,
)
from matroot.methods.tridiagonal_report import pole_level

HIGH = Context(prec=50)


def largest_error(alpha, b, w, kappa):
    """Of x^alpha sum w / (x + b) - 1, at three points between neighbouring zeros; x = y^q needs no root."""
    q, steps = alpha.denominator, 6 * len(b)
    b, w = [Decimal(v) for v in b.tolist()], [Decimal(v) for v in w.tolist()]
    ratio = HIGH.power(HIGH.divide(1, Decimal(float(kappa))), HIGH.divide(1, Decimal(q * steps)))
    y, worst = Decimal(1), Decimal(0)
    for _ in range(steps + 1):
        x = HIGH.power(y, q)
        total = Decimal(0)
        for bk, wk in zip(b, w, strict=True):
            total = HIGH.add(total, HIGH.divide(wk, HIGH.add(x, bk)))
        worst = max(worst, abs(HIGH.subtract(HIGH.multiply(HIGH.power(y, alpha.numerator), total), 1)))
        y = HIGH.multiply(y, ratio)
    return float(worst)


@pytest.mark.parametrize("alpha", STORED, ids=str)
def test_the_error_in_50_digits(alpha):
    """In float64 below rounding: up to half of the distance of neighbouring numbers, or little more."""
    for level in LEVELS:
        found = table(alpha, level)
        for row in range(0, level.classes, 1 if alpha.denominator <= 4 else 3):
            K = int(found.counts[row])
            error = largest_error(alpha, found.b[row, :K], found.w[row, :K], found.edges[row])
            assert error <= (1.2 * EPS["float64"] if level == FULL else level.target)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("alpha", [*STORED, Fraction(2, 5), Fraction(0), Fraction(1)], ids=str)
def test_the_order_of_a_table(alpha, level):
    b, w, counts, edges, direct, _ = table(alpha, level)
    assert b.shape == w.shape == (level.classes, counts.max())
    assert (np.diff(counts) >= 0).all() and (np.diff(edges) > 0).all()
    assert edges[-1] > 1e14  # beyond which nothing is served
    for j, K in enumerate(counts.astype(int)):
        assert (np.diff(b[j, :K]) < 0).all() and (w[j, :K] > 0).all() and (w[j, K:] == 0).all()
        assert direct <= K
        assert (b[j, direct:K] < 1.5).all()
        if alpha in STORED:
            assert K % TOGETHER == 0


@pytest.mark.parametrize("alpha", [*STORED, Fraction(3, 5), Fraction(1, 100), Fraction(99, 100)], ids=str)
def test_the_class_of_singular_matrices(alpha):
    """x times its sum is off by what three machine epsilons are to the power s, from 0 on; coarser levels by more."""
    s, eps = float(1 - alpha), 2.0**-52
    for level in LEVELS:
        b, w, counts, _, _, row = table(alpha, level)
        b, w = b[row, : int(counts[row])], w[row, : int(counts[row])]
        assert b.min() >= 16 * eps
        x = np.concatenate([[0.0], np.geomspace(1e-20, 1, 4000)])
        error = x * (w / (x[:, None] + b)).sum(1) - x**s
        assert error[0] == 0
        bar = (3 * eps) ** s if level == FULL else 2 * b.min() ** s
        assert (abs(error) <= bar + 2 * level.target).all()
        assert (error[x < eps] <= 0).all()  # what rounding has made of 0 is made smaller


def test_as_few_as_said():
    def count(level, cond):
        return level.counts[int(np.searchsorted(level.edges, cond))]

    assert [count(level, 1e4) for level in (COARSE, SINGLE, FULL)] == [8, 12, 24]
    assert [count(level, 1e6) for level in (COARSE, SINGLE, FULL)] == [12, 20, 36]
    assert numbers().shape == (len(STORED), 2, sum(sum(level.counts) for level in LEVELS))


def test_the_level_that_an_rtol_needs():
    for single, rtol, level in (
        *((False, None, FULL), (True, None, SINGLE), (False, 1e-3, COARSE), (True, 1e-3, COARSE), (False, 0.1, COARSE)),
        *((False, 9e-4, SINGLE), (True, 1e-7, SINGLE), (False, 1e-5, SINGLE), (False, 1e-6, FULL)),
    ):
        assert pole_level(single, rtol) == level
        assert level.target <= max(0.0101 * (rtol or 1), EPS["float32"] / 4 if single else 0)

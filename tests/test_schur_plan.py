"""Schedules of square roots, polynomials and squarings for general matrices."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from test_schur_newton import EPS

from matroot.methods import schur_plan as plan


@pytest.mark.parametrize("q", [1, 3, 5, 365])
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_a_step_shrinks_the_scalar_as_planned(q, degree):
    P = np.polynomial.polynomial.polyval(0.3, plan.binomial(-1 / q, degree))
    e = plan.Exponent(-1 / q, 1, q, 0)
    assert plan.after(e, degree, 0.3) == pytest.approx(1 - 0.7 * P**q, rel=1e-3)
    # on the disc the radius is no larger than on the positive axis
    z = 0.3 * np.exp(1j * np.linspace(0, 2 * np.pi, 60))
    on_disc = np.abs(1 - (1 - z) * np.polynomial.polynomial.polyval(z, plan.binomial(-1 / q, degree)) ** q)
    assert on_disc.max() <= 1.0001 * (1 - 0.7 * P**q)


@pytest.mark.parametrize("sigma", [-1 / 3, 2 / 3, -0.9, 1.0, 0.01])
def test_the_last_step_is_as_good_as_promised(sigma):
    for degree in plan.PRODUCTS:
        for tol in (1e-3, 1e-8):
            z = plan.last_radius(sigma, degree, tol)
            error = abs(np.polynomial.polynomial.polyval(z, plan.binomial(sigma, degree)) - (1 - z) ** sigma)
            assert error <= 1.01 * tol + 4 * EPS


def test_schedules_cost_more_only_for_more():
    found = plan.schedules(3, -1 / 3, 1e-16)
    assert all(a.cost < b.cost and a.radius < b.radius for a, b in itertools.pairwise(found))
    assert plan.cheapest(plan.Exponent(-1 / 3, 1, 3, 0), 0.96, 1e-16) is None


@pytest.mark.parametrize("s", [Fraction(1, 12), Fraction(-1, 52), Fraction(1, 365)])
def test_exponents_add_up(s):
    for k in range(3, 9):
        e = plan.exponent(float(s), s.denominator, k)
        assert e.sigma * 2.0**e.squarings == pytest.approx(float(s) * 2**k)
        assert abs(e.sigma) == pytest.approx(e.r / e.q)
        assert abs(e.sigma) <= 1

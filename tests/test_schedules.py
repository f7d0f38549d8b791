"""Schedules against the scalar model: what they promise for one eigenvalue, they keep for every one."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
from numpy.polynomial import polynomial as poly

from matroot.methods import minimax_schedule as schedules
from matroot.methods.minimax_schedule import ACCURATE_CUSHION, CUSHION, Schedule, best_polynomial, schedule

# Products at targets 1e-6 and 1e-14 for kappa = 1e2, 1e4, 1e6, 1e8, 1e10. The left columns agree with linear
# programming. The right ones are this program's own, to notice a change.
PRODUCTS = {
    2: ([11, 19, 26, 34, 42], [14, 21, 29, 36, 45]),
    4: ([12, 18, 24, 31, 38], [14, 20, 28, 35, 42]),
    8: ([13, 19, 23, 30, 36], [15, 22, 28, 35, 41]),
}


def compose(plan: Schedule, y: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """G y^(a/p) of the coupled iteration on scalars y, which should be 1, and M before every step."""
    M, G, seen = y.copy(), np.ones_like(y), []
    for c in plan.steps:
        seen.append(M)
        B = poly.polyval(M, c)
        G, M = G * B**plan.a, B**plan.p * M
    return G * y ** (plan.a / plan.p), seen


@pytest.mark.parametrize("p", range(1, 9))
@pytest.mark.parametrize("target", [1e-3, 1e-6, 1e-14])
@pytest.mark.parametrize("accurate", [False, True])
def test_composition_reaches_the_reported_error(p, target, accurate):
    for kappa in (1.01, 10, 1e4, 1e8, 1e12):
        plan = schedule(p, 1 / kappa, target=target, accurate=accurate)
        y = np.geomspace(plan.lower, 1, 20_001)
        G, seen = compose(plan, y)
        assert plan.error <= target
        assert np.abs(G - 1).max() <= plan.error * (1 + 1e-6) + 1e-14
        for M, width in zip(seen, plan.widths, strict=True):
            assert np.abs(M - 1).max() <= width * 1.001 + 1e-14


@pytest.mark.parametrize("p, a", [(3, 2), (4, 3), (2, 3), (8, 7), (1, 5), (12, 1), (52, 1), (365, 1)])
def test_any_rational_exponent(p, a):
    plan = schedule(p, 1e-4, target=1e-12, a=a)
    G, _ = compose(plan, np.geomspace(1e-4, 1, 1001))
    assert np.abs(G - 1).max() < 1e-12 * a + 1e-14 * p


@pytest.mark.parametrize("p", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize("ratio", [1e-3, CUSHION, ACCURATE_CUSHION, 0.9, 0.99])
def test_best_polynomial_equioscillates(p, degree, ratio):
    c, error = best_polynomial(p, degree, ratio)
    if error < 1e-11:
        pytest.skip("below the rounding errors of the check")
    t = (1 - np.cos(np.linspace(0, np.pi, 40_001))) / 2
    x = ((1 - t) * ratio**p + t) ** (1 / p)
    r = x * poly.polyval(x**p, c) - 1
    assert np.abs(r).max() <= error * (1 + 1e-6) + 1e-15
    # degree + 2 alternating extrema: no polynomial of this degree does better (Chebyshev)
    extrema = r[np.abs(r) >= error * (1 - 1e-4)]
    assert 1 + np.count_nonzero(np.diff(np.sign(extrema))) == degree + 2


@pytest.mark.parametrize("p", PRODUCTS)
def test_product_counts(p):
    for target, known in zip((1e-6, 1e-14), PRODUCTS[p], strict=True):
        for j, count in zip((2, 4, 6, 8, 10), known, strict=True):
            plan = schedule(p, 10.0**-j, target=target)
            assert count <= plan.products <= count + 1  # kappa is rounded up to a power of sqrt(2)


def test_products_are_what_the_steps_cost():
    plan = schedule(4, 1e-6, target=1e-6)
    assert plan.degrees == (4, 4, 2, 4, 4)
    # M^2, (.) M^2, [X is B], B^2, B^4, B^4 M | the same and X B | one less for degree 2 | 6 | M^2, (.), X B
    assert plan.products == 5 + 6 + 5 + 6 + 3


def test_no_other_mix_of_degrees_is_cheaper():
    """Exhaustive search over short schedules, by the same interval arithmetic but not the same program."""
    import itertools

    for p, kappa in ((2, 1e2), (4, 1e3), (3, 50.0)):
        plan = schedule(p, 1 / kappa, target=1e-6)
        for k in range(1, 5):
            for degrees in itertools.product((1, 2, 4), repeat=k):
                ends = [{"first": i == 0, "last": i == k - 1} for i in range(k)]
                cost = sum(schedules.step_products(d, p, **end) for d, end in zip(degrees, ends, strict=True))
                low, high = plan.lower ** (1 / p), 1.0
                for d in degrees:
                    if high - low < 1e-6:
                        break
                    c, e = best_polynomial(p, d, max(low / high, CUSHION))
                    low, high = min(low / high * poly.polyval((low / high) ** p, c), 1 - e), 1 + e
                assert 1 - low > 1e-6 or cost >= plan.products


@pytest.mark.slow
def test_shipped_table_is_what_the_program_makes():
    shipped = json.loads(files("matroot.methods").joinpath("minimax_schedule.json").read_text())
    made = json.loads(schedules.tabulate())
    assert len(shipped["schedules"]) == 8 * 12 * 2
    for a, b in zip(shipped["schedules"], made["schedules"], strict=True):
        assert a[:4] == b[:4]
        assert a[4] == pytest.approx(b[4], rel=1e-3, abs=1e-15)
        assert a[6] == pytest.approx(b[6], rel=2e-3)
        p, bucket = a[:2]
        M = np.geomspace(2.0 ** (-bucket / 2), 1, 2001)
        for i, j in zip(a[5], b[5], strict=True):
            M = assert_same_polynomial(shipped["polynomials"][i], made["polynomials"][j], M, p)


def assert_same_polynomial(c, d, M, p):
    """As maps of x = y^(1/p) over the eigenvalues y of M; gives M after the step.

    Coefficients are no measure: on a short interval they are ill-conditioned, and LAPACK's last bits move them. The
    polynomials can differ by what the exchange leaves, 1e-12 of the error, and by m eps, grown at most m times, of
    solving for m = degree + 2 unknowns.
    """
    assert len(c) == len(d)
    B, D, terms = (poly.polyval(M, k) for k in (c, d, np.abs(d)))
    x = M ** (1 / p)
    bar = 1e-12 * np.abs(x * D - 1).max() + (len(d) + 1) ** 2 * 2.0**-53 * x * terms
    assert (x * np.abs(B - D) <= bar).all()
    return D**p * M


def test_shipped_schedules_are_served():
    shipped = json.loads(files("matroot.methods").joinpath("minimax_schedule.json").read_text())
    for p, bucket, target, products, error, steps, widths in shipped["schedules"]:
        plan = schedule(p, 2.0 ** (-bucket / 2), target=target)
        assert (plan.products, plan.error, list(plan.widths)) == (products, error, widths)
        assert [list(c) for c in plan.steps] == [shipped["polynomials"][i] for i in steps]
        y = np.geomspace(plan.lower, 1, 2001)
        G, _ = compose(plan, y)
        assert np.abs(G - 1).max() <= plan.error * (1 + 1e-6) + 1e-14


def test_a_wrong_coefficient_is_noticed():
    plan = schedule(4, 1e-6, target=1e-6)
    for k, c in enumerate(plan.steps[-2:], len(plan.steps) - 2):
        wrong = (*c[:-1], c[-1] * 1.01)
        broken = Schedule(4, 1, plan.lower, (*plan.steps[:k], wrong, *plan.steps[k + 1 :]), 0, 0.0, ())
        G, _ = compose(broken, np.geomspace(plan.lower, 1, 1001))
        assert np.abs(G - 1).max() > 1e-5


def test_table_of_coefficients():
    plan = schedule(3, 1e-3, target=1e-6)
    C = plan.table()
    assert C.shape == (len(plan.steps), 5)
    for row, c in zip(C, plan.steps, strict=True):
        assert tuple(row[: len(c)]) == c and not row[len(c) :].any()


@pytest.mark.parametrize(
    "args, options, text",
    [
        ((0, 0.1), {"target": 1e-6}, "p and a must be at least 1, got p=0"),
        ((2, 0.1), {"target": 1e-6, "a": 0}, "a=0"),
        ((2, 0.0), {"target": 1e-6}, r"lower must lie in \(0, 1\), got 0.0"),
        ((2, 1.0), {"target": 1e-6}, "got 1.0"),
        ((2, 0.1), {"target": 0.0}, "target must lie"),
        ((2, 0.1), {"target": 1e-30}, "got 1e-30"),
        ((300, 1e-300), {"target": 1e-6, "accurate": True}, "more than 300 products"),
    ],
)
def test_refusals(args, options, text):
    with pytest.raises(ValueError, match=text):
        schedule(*args, **options)

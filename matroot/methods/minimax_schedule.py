"""Minimax schedules: the polynomials that the coupled iteration applies at each step, and their cost.

The iteration ``B = q_k(M); X <- X B; M <- B^p M`` keeps M = X^p A and drives M to I. On one eigenvalue y of
M, with x = y^(1/p), a step is the scalar map x -> x q_k(x^p). So the best q_k on an interval is the best
relative approximation of y^(-1/p) there, and it maps x into the interval [1 - E, 1 + E]. Taking the
best polynomial at every step is optimal for the composition: the ratio of the interval's ends after a step
grows with the ratio before it (Amsel, Persson, Musco & Gower, arXiv 2505.16932, argue this for the sign
function; the argument carries over to x). It remains to choose the degrees. Degrees 1, 2, 4 cost 0, 1, 2
products, and dynamic programming over the number of products finds the cheapest combination.

Nothing here depends on an array library: a schedule is a few numbers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial, chebyshev
from numpy.polynomial import polynomial as poly

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
Coefficients = tuple[float, ...]

#: Smallest ratio of the ends of a step's design interval in x: 0.3, and 0.5 for ``accurate=True``.
CUSHION, ACCURATE_CUSHION = 0.3, 0.5
#: Above this p the cushion is that of y = x^p, times p: `cushion_of`.
LARGE_P = 8

#: Products of q(M) by degree: c1 M + c0; then M^2; then (c4 M^2 + c3 M + c2) M^2 + c1 M + c0.
Q_PRODUCTS = {1: 0, 2: 1, 4: 2}

_LIMIT = 300  # products; float64 never needs half of them


@dataclass(frozen=True)
class Schedule:
    """The polynomials of one coupled iteration for A^(-a/p).

    Attributes
    ----------
    p, a : int
        Each step is ``B = q(M); G <- G B^a; M <- B^p M``, from G = I.
    lower : float
        Every eigenvalue of the scaled M_0 must lie in [lower, 1].
    steps : tuple of tuple of float
        Ascending coefficients (c_0, ..., c_d) of each q; d is 1, 2 or 4.
    products : int
        Products of n x n matrices issued. M_0^2, which bounds lambda_max, always counts; the first factor
        of G is a copy, and the last step does not update M.
    error : float
        Bound of |x q(x^p) - 1| for the whole composition in exact arithmetic: the relative error of every
        eigenvalue of A^(-1/p).
    widths : tuple of float
        Bound of |y - 1| over the eigenvalues y of M before each step.
    """

    p: int
    a: int
    lower: float
    steps: tuple[Coefficients, ...]
    products: int
    error: float
    widths: tuple[float, ...] = field(repr=False)

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degree of each step's polynomial."""
        return tuple(len(c) - 1 for c in self.steps)

    def table(self) -> FloatArray:
        """Return the coefficients as an array (steps, 5), rows padded with zeros."""
        out = np.zeros((len(self.steps), 5))
        for row, c in zip(out, self.steps, strict=True):
            row[: len(c)] = c
        return out


def schedule(p: int, lower: float, *, target: float, a: int = 1, accurate: bool = False) -> Schedule:
    """Return the cheapest schedule for A^(-a/p) on the spectrum [lower, 1]; see `Minimax.schedule`.

    `lower` is rounded down to a power of sqrt(2), so that one schedule serves a bucket of condition numbers. If
    `accurate`, the larger cushion is used, for a residual as small as coupled Newton's, at about a third more products.
    Full equioscillation maps some large eigenvalues to values as small as the smallest, and loses their digits;
    designing each step on [max(l, c^p u), u] keeps them larger. c is 0.3, or 0.5 if `accurate`; for p above 8 see
    `cushion_of`. ValueError if an argument is out of range, or the schedule would exceed 300 products.
    """
    if p < 1 or a < 1:
        raise ValueError(f"p and a must be at least 1, got p={p} and a={a}")
    if not 0 < lower < 1:
        raise ValueError(f"lower must lie in (0, 1), got {lower}")
    if not 1e-16 <= target < 1:
        raise ValueError(f"target must lie in [1e-16, 1), got {target}")
    bucket = math.ceil(-2 * math.log2(lower))
    if a == 1 and not accurate:
        shipped = _shipped().get((p, bucket, target))
        if shipped is not None:
            return shipped
    return solve_schedule(p, a, bucket, target, accurate)


@lru_cache(maxsize=4096)
def solve_schedule(p: int, a: int, bucket: int, target: float, accurate: bool) -> Schedule:
    """Compute `schedule` by dynamic programming over the number of products, for lower = 2^(-bucket/2).

    Of two sequences with the same number of products the sequence with the larger low/high is kept, since every later
    step is monotone in low/high.
    """
    cushion = cushion_of(p, accurate)
    lower = 2.0 ** (-bucket / 2)
    paths = {0: _Path(lower ** (1 / p), 1.0)}
    best: tuple[int, _Path] | None = None
    reached = 0.0
    for spent in range(_LIMIT):
        if best is not None and spent >= best[0]:
            products, path = best
            return Schedule(p, a, lower, path.steps, products, path.error, path.widths)
        if spent not in paths or paths[spent].ratio <= reached:
            continue
        path = paths[spent]
        reached = path.ratio
        for degree in Q_PRODUCTS:
            after = path.extend(p, degree, cushion, pad=target / 4)
            first = not path.steps
            if after.error <= target:
                total = spent + step_products(degree, p, a, first=first, last=True)
                if best is None or total < best[0]:
                    best = total, after
            total = spent + step_products(degree, p, a, first=first)
            if total not in paths or after.ratio > paths[total].ratio:
                paths[total] = after
    raise ValueError(f"p={p} at lower={lower:.1e} needs more than {_LIMIT} products; use method='eigen'")


def cushion_of(p: int, accurate: bool) -> float:
    """Return the smallest ratio of the ends of a design interval in x.

    M holds y = x^p, which falls to c^p for large eigenvalues: at p = 32 and c = 0.3 all digits are lost. Only the
    residual shows this loss, since A^(-1/p) is close to I. So for p above 8, c^p is kept at its value for p = 8, times
    p / 8 for the rounding errors of B^p.
    """
    c = ACCURATE_CUSHION if accurate else CUSHION
    if p <= LARGE_P:
        return c
    return float(max(c**LARGE_P, CUSHION**LARGE_P * p / LARGE_P) ** (1 / p))


def step_products(degree: int, p: int, a: int = 1, *, first: bool = False, last: bool = False) -> int:
    """Count the n x n products of one step: q(M), then G <- G B^a and M <- B^p M with shared squares of B.

    Binary powering applied directly to G and M costs as much as the shortest addition chain for p < 15.
    The first step always computes M^2, which bounds lambda_max, and its first factor of G is a copy.
    """
    powers = (a,) if last else (a, p)
    squarings = max(powers).bit_length() - 1
    q = max(1, Q_PRODUCTS[degree]) if first else Q_PRODUCTS[degree]
    return q + squarings + sum(k.bit_count() for k in powers) - first


@dataclass(frozen=True)
class _Path:
    """Steps taken so far and the resulting interval [low, high] of x = y^(1/p)."""

    low: float
    high: float
    steps: tuple[Coefficients, ...] = ()
    widths: tuple[float, ...] = ()
    error: float = math.inf

    @property
    def ratio(self) -> float:
        return self.low / self.high

    def extend(self, p: int, degree: int, cushion: float, pad: float) -> _Path:
        """Append a step; `pad` widens the interval for the rounding errors of the step before."""
        low, high = self.low * (1 - pad), self.high * (1 + pad)
        design = max(low / high, cushion)
        unit, error = best_polynomial(p, degree, design)
        c = tuple(v * high ** (-1 - j * p) for j, v in enumerate(unit))
        reached = 1 - error
        if low / high < design:  # below the design interval x q(x^p) only grows
            reached = min(reached, low * float(poly.polyval(low**p, c)))
        width = float(f"{max(1 - low**p, high**p - 1):.3e}")
        return _Path(reached, 1 + error, (*self.steps, c), (*self.widths, width), max(error, 1 - reached))


@lru_cache(maxsize=4096)
def best_polynomial(p: int, degree: int, ratio: float) -> tuple[Coefficients, float]:
    """Compute the best relative polynomial approximation of y^(-1/p) on [ratio^p, 1], by Remez exchange.

    Returns the coefficients, ascending in y, and max |x q(x^p) - 1| over x = y^(1/p) in [ratio, 1]. The error
    alternates at degree + 2 points. Its derivative vanishes at the zeros of q/p + y q', a polynomial of the same
    degree. So the interior extrema are the roots of a polynomial, and the exchange needs no search.

    >>> c, error = best_polynomial(1, 1, 0.5)  # the classic start of 1/y on [1/2, 1]
    >>> [round(17 * v) for v in c], round(1 / error)
    ([48, -32], 17)
    """
    h = -math.expm1(p * math.log(ratio)) / 2
    m = 1 - h
    economized, error = _economized(p, degree, m, h)
    if error < 1e-13:  # the exchange would fit rounding errors
        return _in_powers_of_y(economized, m, h), error
    # In t, y = m + h t with t in [-1, 1]: powers of t stay independent on a short interval, powers of y do
    # not.
    t = -np.cos(np.pi * np.arange(degree + 2) / (degree + 1))
    sign = (-1.0) ** np.arange(degree + 2)
    before = math.inf
    for _ in range(50):
        x = (m + h * t) ** (1 / p)
        x[0], x[-1] = ratio, 1.0
        system = np.column_stack([x[:, None] * t[:, None] ** np.arange(degree + 1), sign])
        *c, level = np.linalg.solve(system, np.ones(degree + 2))
        error = abs(float(level))
        if abs(error - before) <= 1e-12 * error + 1e-16:
            break
        before = error
        slope = poly.polyadd(np.array(c) / p, poly.polymul([m / h, 1.0], poly.polyder(c)))
        t[1:-1] = np.sort(poly.polyroots(slope).real).clip(-1, 1)
    return _in_powers_of_y(np.array(c), m, h), error


def _economized(p: int, degree: int, m: float, h: float) -> tuple[FloatArray, float]:
    """Compute the truncated Chebyshev series of (m + h t)^(-1/p) in powers of t, and the remainder; for small h."""
    taylor = [m ** (-1 / p)]
    for j in range(degree + 2):
        taylor.append(-taylor[-1] * (1 / p + j) / (j + 1) * h / m)
    series = chebyshev.poly2cheb(taylor)
    kept = np.asarray(chebyshev.cheb2poly(series[: degree + 1]), dtype=np.float64)
    return kept, float(np.abs(series[degree + 1 :]).sum())


def _in_powers_of_y(c: FloatArray, m: float, h: float) -> Coefficients:
    return tuple(Polynomial(c)(Polynomial([-m / h, 1 / h])).coef.tolist())


#: The shipped cases: p = 1..8, condition numbers 10, 100, ... 10^12, and 8 machine epsilons of both
#: precisions.
TARGETS = (8 * 2.0**-23, 8 * 2.0**-52)
BUCKETS = tuple(math.ceil(2 * j * math.log2(10)) for j in range(1, 13))
_TABLE = "minimax_schedule.json"


def tabulate() -> str:
    """Write the shipped table as text: every distinct polynomial once, and the schedules as indices to them."""
    index: dict[Coefficients, int] = {}
    rows = []
    for target in TARGETS:
        for p in range(1, 9):
            for bucket in BUCKETS:
                plan = solve_schedule(p, 1, bucket, target, False)
                steps = [index.setdefault(c, len(index)) for c in plan.steps]
                rows.append([p, bucket, target, plan.products, plan.error, steps, plan.widths])
    lines = [",\n".join(map(json.dumps, part)) for part in (index, rows)]
    return f'{{"polynomials": [\n{lines[0]}\n],\n"schedules": [\n{lines[1]}\n]}}\n'


@cache
def _shipped() -> dict[tuple[int, int, float], Schedule]:
    table = json.loads(files("matroot.methods").joinpath(_TABLE).read_text())
    polynomials = [tuple(c) for c in table["polynomials"]]
    return {
        (p, bucket, target): Schedule(
            p, 1, 2.0 ** (-bucket / 2), tuple(polynomials[i] for i in steps), products, error, tuple(widths)
        )
        for p, bucket, target, products, error, steps, widths in table["schedules"]
    }


if __name__ == "__main__":  # python -m matroot.methods.minimax_schedule rewrites the shipped table
    with open(str(files("matroot.methods").joinpath(_TABLE)), "w") as table_file:
        table_file.write(tabulate())

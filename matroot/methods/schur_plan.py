"""Plan of Schur-Newton: square roots, steps and their degrees, chosen by cost.

One step on M = I - Z, with P the Taylor polynomial of degree d of (1 - z)^{-1/q} and its coefficient c_d, is
G <- G P(Z)^r, M <- P(Z)^q M; d = 1 is the coupled Newton iteration (Guo & Higham 2006, eq. 3.2), d > 1 is
Lakic's (1998). The derivative of 1 - (1 - z) P(z)^q is c_d (1 + q d) z^d P(z)^{q-1}, which has no negative
coefficient. So a radius alpha with ||Z^i|| <= alpha^i for i >= 2 shrinks at least as fast as for a scalar. The last
step need not update M, which saves most for large q.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

#: Products of the Horner scheme in Z^2 (`schur_newton.polynomial`) at these degrees.
PRODUCTS = {1: 0, 2: 1, 4: 2, 6: 3, 8: 4, 10: 5, 12: 6}
#: A triangular square root costs as much as this many triangular products (measured, n = 300 and 500).
SQRT_COST = 2.0

_RADII = np.concatenate((np.geomspace(1e-4, 0.1, 80), np.linspace(0.1, 0.95, 120)[1:]))


class Schedule(NamedTuple):
    """Degrees of the steps that reduce a radius of at most `radius` to full accuracy, for `cost` products."""

    cost: float
    radius: float
    degrees: tuple[int, ...]


def binomial(sigma: float, degree: int) -> list[float]:
    """Return the Taylor coefficients c_0 .. c_degree of (1 - z)^sigma."""
    c = [1.0]
    for i in range(degree):
        c.append(c[-1] * (i - sigma) / (i + 1))
    return c


@lru_cache(maxsize=64)
def shrink(q: int, degree: int) -> Reals:
    """Return the radius after one step of `degree` from each of `_RADII`."""
    P = np.polynomial.polynomial.polyval(_RADII, binomial(-1 / q, degree))
    return np.asarray(-np.expm1(np.log1p(-_RADII) + q * np.log(P)))


def _before(q: int, degree: int, radius: float) -> float:
    return float(np.interp(radius, shrink(q, degree), _RADII))


def after(e: Exponent, degree: int, radius: float) -> float:
    """Return the radius after one step of `degree` from `radius`."""
    return float(np.interp(radius, _RADII, shrink(e.q, degree)))


def last_radius(sigma: float, degree: int, tol: float) -> float:
    """Return the largest radius at which the Taylor polynomial of (1 - z)^sigma has an error of at most tol.

    The tail is at most |c_{d+1}| alpha^{d+1} / (1 - alpha) for |sigma| <= 1, where the |c_i| never increase.
    """
    c = abs(binomial(sigma, degree + 1)[-1])
    if c == 0:
        return float(_RADII[-1])
    alpha = (tol / c) ** (1 / (degree + 1))
    for _ in range(8):
        alpha = (tol * max(1 - alpha, 0.05) / c) ** (1 / (degree + 1))
    return float(min(alpha, _RADII[-1]))


@lru_cache(maxsize=256)
def schedules(q: int, sigma: float, tol: float, longest: int = 6) -> tuple[Schedule, ...]:
    """Return the schedules for exponent sigma = +-r/q in increasing order of cost and of radius.

    q = 0 stands for an irrational exponent: a single step.
    """
    best = _frontier([Schedule(cost, last_radius(sigma, d, tol), (d,)) for d, cost in PRODUCTS.items()])
    if q == 0:
        return best
    step = q.bit_length() - 1 + q.bit_count() + 1  # P^q M, and G P^r or the final product
    for _ in range(longest - 1):
        longer = [
            Schedule(PRODUCTS[d] + step + s.cost, _before(q, d, s.radius), (d, *s.degrees))
            for d in (1, 2, 4, 6)
            for s in best
        ]
        best = _frontier([*best, *longer])
    return best


def _frontier(candidates: list[Schedule]) -> tuple[Schedule, ...]:
    kept: list[Schedule] = []
    for s in sorted(candidates, key=lambda s: (s.cost, -s.radius)):
        if not kept or s.radius > kept[-1].radius:
            kept.append(s)
    return tuple(kept)


class Exponent(NamedTuple):
    """R^s = (R_k^sigma)^(2^squarings) with R_k = R^(2^-k).

    sigma = +-r/q with r a power of two, or with q = 0 any number.
    """

    sigma: float
    r: int
    q: int
    squarings: int


class Accuracy(NamedTuple):
    """The relative error allowed for the power, and the smallest error that the arithmetic can reach."""

    power: float
    least: float

    def before(self, e: Exponent) -> float:
        """Return the error allowed before the squarings, each of which doubles the error."""
        return max(self.least, math.ldexp(self.power, -e.squarings))


def exponent(s: float, b: int, k: int) -> Exponent:
    """Return the exponent of R_k. `s` is +-1/b, or with b = 0 any number; |sigma| is at most 1."""
    if b == 0:
        m = max(0, math.ceil(math.log2(abs(s)) + k))
        return Exponent(math.ldexp(s, k - m), 0, 0, m)
    k0 = (b & -b).bit_length() - 1
    q = b >> k0
    e = min(k - k0, q.bit_length() - 1)
    return Exponent(math.copysign(2**e / q, s), 2**e, q, k - k0 - e)


def cheapest(e: Exponent, radius: float, tol: float) -> Schedule | None:
    """Return the cheapest schedule for `radius`, or None."""
    found = (s for s in schedules(e.q, e.sigma, tol) if s.radius >= radius)
    return next(found, None)


def total(e: Exponent, radius: float, tol: float) -> float:
    """Count the remaining products from R_k; infinite if more square roots must be taken first."""
    if e.q == 1:
        return float(e.squarings)
    schedule = cheapest(e, radius, tol)
    return math.inf if schedule is None else schedule.cost + e.squarings


def square_roots(lam: NDArray[Any], s: float, b: int, accuracy: Accuracy) -> int:
    """Return the number of square roots to take of a normal matrix with eigenvalues `lam`."""
    k0 = (b & -b).bit_length() - 1 if b else 0
    if b and b >> k0 == 1:
        return k0
    costs: list[float] = []
    log = np.log(lam)
    for k in range(k0, k0 + 24):
        _, radius = disc(np.exp(log * 2.0**-k))
        e = exponent(s, b, k)
        costs.append(SQRT_COST * k + total(e, radius, accuracy.before(e)))
        if len(costs) > 2 and math.isfinite(costs[-3]) and costs[-1] > costs[-2] > costs[-3]:
            break
    return k0 + int(np.argmin(costs))


def disc(mu: NDArray[Any]) -> tuple[float, float]:
    """Return (c, radius) such that every |1 - c mu| <= radius; c centres the moduli."""
    size = np.abs(mu)
    c = 2 / (float(size.max()) + float(size.min()))
    return c, float(np.abs(1 - c * mu).max())


def principal_power(lam: NDArray[Any], s: float) -> NDArray[Any]:
    """Compute lam^s by modulus and argument, which keeps the relative accuracy of a small imaginary part.

    A whole power of lam beside the negative axis has one, too: it is that of -lam, but for the sign.
    """
    sign: Any = 1.0
    if s.is_integer() and (left := lam.real < 0).any():
        lam, sign = np.where(left, -lam, lam), np.where(left, (-1) ** int(s), 1)
    theta = s * np.angle(lam)
    return np.asarray(sign * np.abs(lam) ** s * (np.cos(theta) + 1j * np.sin(theta)), dtype=lam.dtype)

"""Divided differences of x^s of first and second order, accurate for equal, close and distant eigenvalues."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

Array = Any

#: Three eigenvalues are close if |s - 2| log(largest / smallest) is below this: their second difference is a series.
CLOSE = 0.25
#: Terms of the series, whose variables are below CLOSE / 2 in size: 0.125^20 is 1e-18.
TERMS = 20
#: Largest degree of a root whose second differences are summed by products.
LARGEST_DEGREE = 16
#: Numbers in a work array of second differences.
ROOM = 1 << 20


def first_differences(w: Array, s: float, xp: Any = np) -> Array:
    """Compute f[w_i, w_j] of f(x) = x^s for any real s, without cancellation.

    With a = max, b = min and r = b / a: ``a^(s-1) (1 - r^s) / (1 - r)``, where ``1 - r^s = -expm1(s log r)`` and
    ``log r = log1p(-(a - b) / a)`` for close eigenvalues.

    Parameters
    ----------
    w : array (..., n)
        Nonnegative; positive for s < 0.
    s : float

    Returns
    -------
    array (..., n, n)
        s w^(s-1) at equal eigenvalues.
    """
    a = xp.maximum(w[..., :, None], w[..., None, :])
    b = xp.minimum(w[..., :, None], w[..., None, :])
    with np.errstate(all="ignore"):
        gap = (a - b) / a
        log_r = xp.where(gap < 0.5, xp.log1p(-gap), xp.log(b / a))
        near = a ** (s - 1) * xp.expm1(s * log_r) / -xp.where(gap > 0, gap, 1)
        far = (a**s - b**s) / xp.where(gap > 0, a - b, 1)
        same = s * a ** (s - 1) if s else xp.zeros_like(a)
        return xp.where(gap > 0, xp.where(xp.abs(s * log_r) < 1, near, far), same)


def first_differences_of_root(w: Array, s: Fraction | float, xp: Any = np) -> Array | None:
    """Compute `first_differences` of x^(1/p) or x^(-1/p) by sums of products alone; None for other exponents.

    With u = w^(1/p): ``1 / h(u_i, u_j)``, and ``-1 / (u_i u_j h(u_i, u_j))`` for the inverse root, where h is the sum
    of u_i^k u_j^(p-1-k) over k.
    """
    p = degree_of_root(s)
    if p is None:
        return None
    u = w ** (1 / p)
    S = complete(u, p, xp)[-1] * xp.ones_like(u[..., None, :])
    if s < 0:
        S *= u[..., :, None]
        S *= -u[..., None, :]
    return 1 / S


def degree_of_root(s: Fraction | float) -> int | None:
    """Return p for the exponents 1/p and -1/p with a small p, else None."""
    unit = isinstance(s, Fraction) and abs(s.numerator) == 1 and s.denominator <= LARGEST_DEGREE
    return s.denominator if unit and isinstance(s, Fraction) else None


def complete(u: Array, p: int, xp: Any) -> list[Array]:
    """Compute the complete homogeneous polynomials of (u_i, u_j) of degrees 0 to p - 1."""
    ui, uj = u[..., :, None], u[..., None, :]
    found, power = [xp.ones_like(ui), ui + uj], ui
    for _ in range(2, p):
        power = power * ui
        found.append(found[-1] * uj + power)
    return found[:p]


def second_differences(w: Array, s: float, first: Array, smooth: Array, rows: slice, xp: Any = np) -> Array:
    """Compute h[w_i, w_k, w_j] for i in `rows`, where h is x^s on the `smooth` eigenvalues and constant on the others.

    The quotient of first differences takes the pair with the largest gap. Where all three are smooth and close, the
    series ``m^(s-2) sum_k binom(s, k) h_{k-2}`` about m, the middle, with the complete homogeneous polynomials h of
    the relative distances from m.

    Parameters
    ----------
    w : array (n,)
    s : float
    first : array (n, n)
        First differences of h.
    smooth : array (n,) of bool
    rows : slice

    Returns
    -------
    array (rows, n, n)
    """
    x, y, z = w[rows, None, None], w[None, :, None], w[None, None, :]
    xy, yz, zx = first[rows, :, None], first[None, :, :], first[rows, None, :]
    gap_xy, gap_yz, gap_xz = x - y, y - z, x - z
    by_xy = (xp.abs(gap_xy) > xp.abs(gap_yz)) & (xp.abs(gap_xy) > xp.abs(gap_xz))
    by_yz = (xp.abs(gap_yz) > xp.abs(gap_xz)) & ~by_xy
    gap = xp.where(by_xy, gap_xy, xp.where(by_yz, gap_yz, gap_xz))
    above = xp.where(by_xy, zx - yz, xp.where(by_yz, xy - zx, xy - yz))
    found = xp.where(gap == 0, 0, above / xp.where(gap == 0, 1, gap))
    all_smooth = smooth[rows, None, None] & smooth[None, :, None] & smooth[None, None, :]
    middle = x + y + z
    close = all_smooth & (xp.abs(gap) * max(1.0, abs(s - 2)) * 3 <= CLOSE * middle)
    if not close.any():
        return found
    m = (middle / 3)[close]
    with np.errstate(all="ignore"):
        dx, dy, dz = ((xp.broadcast_to(v, close.shape)[close] - m) / xp.where(m > 0, m, 1) for v in (x, y, z))
        size = m ** (s - 2) if s != 1 else 0 * m  # not 0 times infinity where m = 0
        found[close] = size * _series(dx, dy, dz, s)
    return found


def _series(x: Array, y: Array, z: Array, s: float) -> Array:
    """Sum binom(s, k) h_{k-2}(x, y, z) over k >= 2, for small x, y, z."""
    coefficient = s * (s - 1) / 2
    one = two = three = np.float64(1)  # h_k of one, two and three variables
    total = coefficient + 0 * x
    for k in range(3, TERMS):
        coefficient *= (s - k + 1) / k
        one = one * x
        two = two * y + one
        three = three * z + two
        total = total + coefficient * three
    return total


def second_sums(
    w: Array, s: Fraction | float, first: Array, smooth: Array, E: Array, H: Array, failed: Array, xp: Any = np
) -> Array:
    """Sum h[w_i, w_k, w_j] (E_ik H_kj + H_ik E_kj) over k, with h as in `second_differences`.

    Parameters
    ----------
    w : array (B, n)
    s : Fraction or float
    first : array (B, n, n)
    smooth : array (B, n) of bool
    E, H : array (B, n, n)
    failed : array (B,) of bool
        Matrices that may be left out.

    Returns
    -------
    array (B, n, n)
    """
    if smooth.all() and (w > 0).all():
        by_products = second_products(w, s, E, H, xp)
        if by_products is not None:
            return by_products
    M = xp.zeros_like(E)
    n = E.shape[-1]
    step = max(1, ROOM // max(1, n * n))
    for b in range(len(E)):
        if failed[b]:
            continue
        for i in range(0, n, step):
            rows = slice(i, min(i + step, n))
            T = second_differences(w[b], float(s), first[b], smooth[b], rows, xp)
            for left, right in ((E, H), (H, E)):
                part = xp.einsum("ikj,ik,kj->ij", T, left[b, rows], right[b])
                M[b, rows] = part if left is E else M[b, rows] + part
    return M


def second_products(w: Array, s: Fraction | float, E: Array, H: Array, xp: Any = np) -> Array | None:
    """Sum f[w_i, w_k, w_j] (E_ik H_kj + H_ik E_kj) over k by p products, for f(x) = x^(1/p) or x^(-1/p).

    With u = w^(1/p) and the complete homogeneous polynomials h: ``f[a, b] = 1 / h_{p-1}(u, v)`` and ``f[a, b, c] =
    -h_{p-2}(u, v, z) / (h_{p-1}(u, v) h_{p-1}(v, z) h_{p-1}(u, z))`` for the root; for the inverse root ``h_{p-1}(u,
    v, z)`` instead of ``-h_{p-2}``, divided by u v z. No term cancels, and the sum over k is one of products.

    Parameters
    ----------
    w : array (..., n)
        Positive.
    s : Fraction or float
    E, H : array (..., n, n)

    Returns
    -------
    array (..., n, n), or None for other exponents
    """
    p, inverse = degree_of_root(s), s < 0
    if p is None:
        return None
    u = w ** (1 / p)
    sums = complete(u, p, xp)
    S = sums[-1]
    E, H = E / S, H / S
    total = xp.zeros_like(E + H)
    degree = p - 1 if inverse else p - 2
    for m in range(degree + 1):  # h_degree(u, v, z) = sum_m h_{degree-m}(u, z) v^m
        v = u[..., None, :] ** (m - inverse)
        total = total + sums[degree - m] * ((E * v) @ H + (H * v) @ E)
    return total / (S * u[..., :, None] * u[..., None, :]) if inverse else -total / S

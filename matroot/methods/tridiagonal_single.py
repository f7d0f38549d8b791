"""The matrices that are reduced in float32: those whose condition number leaves the digits that rtol asks for."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from matroot._bars import VOUCHED, forward_error_bound
from matroot._regularization import Coefficients
from matroot.backends.cpu.cholesky import inverses
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array
from matroot.methods.conditioning import start_vector

#: The way back in float32 is off by up to this, times the square root of n, relative to the root.
WAY_BACK = 2.0**-21
#: From this n on, a reduction in float32 saves several times what an estimate of cond costs, a Cholesky factorization:
#: the matrix no longer fits into the cache.
ESTIMATED_FROM = 1536
#: Steps of the power method; the estimate decides only what is tried first.
STEPS = 3
#: The condition number of a geometric spectrum over what they find: 1.48 at n = 2048, 1.64 at 1536.
BELOW = 1.5
#: Unit roundoffs by the precision of the reduction.
UNIT = {np.float32: 2.0**-24, np.complex64: 2.0**-24, np.float64: 2.0**-53, np.complex128: 2.0**-53}
#: Its error is not taken for less than this many units of the first-order bound; in float32 2 were seen, apart from
#: those of clusters.
LEAST = {np.float32: 3, np.complex64: 3, np.float64: VOUCHED, np.complex128: VOUCHED}
#: Eigenvalues up to so many times the smallest are moved by the reduction about alike.
CLUSTER = 4
#: The reduction moves them by up to this times eps, the root of the mean square of all eigenvalues, and the root of
#: their share; from n = MANY on it grows like the root of n. For two clusters 13, 18 and 24 were seen at n = 256, 512
#: and 1024.
REDUCTION_ERROR, MANY = 24, 512


def returns_in_single(S: Array, out: Array, rtol: float | None) -> bool:
    """Return True if float32 is enough for the way back from the tridiagonal form."""
    return S.dtype == out.dtype and S.dtype.char in "fF" and rtol is not None and rtol >= 4 * WAY_BACK * len(out) ** 0.5


def may_be_single(S: Array, s: Fraction, rule: Coefficients, rtol: float) -> bool:
    """Return True if a reduction in float32 is likely to hold `rtol`: a ridge promises it, or an estimate says so.

    Parameters
    ----------
    S : array (n, n)
    s, rule, rtol
        As for `tridiagonal_large.large_roots`.
    """
    n = len(S)

    def fine(cond: float) -> bool:
        """Judge by a geometric spectrum; what the reduction finds decides in the end."""
        spread = math.log(max(cond, math.e))
        units = max(LEAST[np.float32], moved(n, min(1.0, math.log(CLUSTER) / spread), (2 * spread) ** -0.5))
        return bool(forward_error_bound(np.float64(cond), s, units * UNIT[np.float32]) <= rtol)

    if rule.cuts or rule.smallest:
        return False
    if rule.relative > 0 and fine(1 + 1 / rule.relative):
        return True
    if n < ESTIMATED_FROM:
        return False
    with np.errstate(all="ignore"):
        size = max(float(abs(S.diagonal()).max()), rule.absolute)  # no entry of a positive matrix is larger
        exponent = math.frexp(size)[1]
        one, other = math.ldexp(1.0, -(exponent >> 1)), math.ldexp(1.0, (exponent >> 1) - exponent)
        A = (S * one * other)[None]
        high = growth(A.__matmul__, n)
        shift = rule.relative * high + rule.absolute * one * other
        add_to_diagonal(A, np.array([shift], np.float32))
        return fine(BELOW * (high + shift) * growth(inverses(A), n))


def moved(n: int, share: float, size: float) -> float:
    """Return by how many units the reduction moves the smallest eigenvalues, of this share of all.

    `size` is the root of the mean square of all eigenvalues over the largest.
    """
    return float(REDUCTION_ERROR * max(1.0, n / MANY) ** 0.5 * share**0.5 * size)


def growth(apply: Array, n: int) -> float:
    """Estimate the largest eigenvalue of an operator on stacks (1, n, 1), from below; NaN where it is not finite."""
    v = start_vector(n).astype(np.float32)[None, :, None]
    size = 1.0
    for _ in range(STEPS):
        v = apply(v / np.float32(size))
        size = float(np.linalg.norm(v))
    return size

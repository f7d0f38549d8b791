"""Thresholds beyond which digits count as lost, shared by statuses and their sentences."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

Array = Any

#: A root whose forward error may exceed this (fewer than two digits certain) is ILL_CONDITIONED.
ILL_FORWARD_ERROR = 1e-2
#: The same threshold for the error caused by rounding the input to its dtype, bounded by unit roundoff times cond.
#: The input is rounded once, by half a unit in the mean, whereas arithmetic rounds many times. So the two digits are
#: counted to the nearest, as in the sentences: fewer are left beyond 10^-1.5.
ILL_INPUT_ERROR = 10**-1.5
#: An eigenvalue below this many unit roundoffs of the input, times lambda_max, is indistinguishable from rounding. At
#: p = 4 `ILL_INPUT_ERROR` is reached at the same point; a larger p hides the rounding but does not reduce it.
INPUT_UNITS = 8
#: An eigenvalue below this many machine epsilons of the arithmetic, times lambda_max, is noise of either sign.
ZERO_UNITS = 3
#: Singular values below this multiple of the rounding errors that a random matrix would have count as 0.
NOISE = 16
#: LAPACK's singular values have errors up to this times sqrt(m) eps sigma_max.
LAPACK_ERROR = 8
#: A shift that leaves less than this share of a negative matrix is why its root has fewer digits.
CANCELLED = 0.1
#: The forward errors of all methods are below this multiple of the first-order bound.
VOUCHED = 4


def allowed_error(rtol: float | None) -> float:
    """Return the largest first-order bound of the forward error for which a root counts as CONVERGED."""
    return ILL_FORWARD_ERROR if rtol is None else rtol / VOUCHED


def least_rtol(eps: float, out_eps: float, n: int) -> float:
    """Return the smallest attainable rtol: X is rounded once to `out_eps`, and the last products to `eps`."""
    return float(out_eps + VOUCHED * eps * n**0.5)


def smallest_share(n: int, eps: float, in_eps: float) -> float:
    """Return the share of lambda_max below which an eigenvalue of a symmetric matrix is indistinguishable from 0.

    `eps` is the machine epsilon of the arithmetic, `in_eps` the unit roundoff of the input.
    """
    return float(max(n * eps, INPUT_UNITS * in_eps))


def noise_share(n: int, eps: float, in_eps: float) -> float:
    """Return the share of lambda_max that rounding puts in the place of an eigenvalue 0, with either sign.

    Decompositions are off by a few machine epsilons `eps`, in float64 by up to sqrt(n) of them; rounding the input
    moves eigenvalues by its unit roundoff `in_eps`. Between this share and `smallest_share`, a positive eigenvalue has
    some meaning.
    """
    return float(max(ZERO_UNITS * eps, n**0.5 * 2.0**-52, in_eps))


def decomposed_share(n: int, eps: Array | float) -> Any:
    """Return the share of lambda_max by which decomposing a matrix moves its eigenvalues at most.

    `eps` is the machine epsilon of the arithmetic. For zeros of singular matrices, of which one or all others are
    large, 0.6 sqrt(n) eps was measured, n up to 259 in both precisions.
    """
    return max(ZERO_UNITS, n**0.5) * eps


def zero_cuts(norm: Array, m: int, n: int, unit: float) -> tuple[Array, float]:
    """Return the absolute and the relative size, of sigma_max, below which a singular value counts as 0.

    `norm` is the Frobenius norm of an m x n matrix, m >= n, whose entries have relative errors `unit`.
    """
    return NOISE * unit * (m**-0.5 + n**-0.5) * norm, LAPACK_ERROR * m**0.5 * 2.0**-52


def forward_error_bound(
    cond: Array, s: Fraction | float, eps: Array | float, share: Array | float | None = None
) -> Array:
    """Bound the relative forward error in the 2-norm to first order: eps max |f'| ||A|| / ||f(A)||, f = x^s.

    For 0 <= s < 1 an eigenvalue below `share` of the largest may be 0, and a zero as large as that.
    """
    s = float(s)
    if s >= 1:
        return eps * s * np.ones_like(cond)
    if s >= 0:  # near singularity the bound saturates: the error of an eigenvalue is at most eps lambda_max
        with np.errstate(over="ignore", invalid="ignore"):  # cond of an indefinite matrix is negative
            first_order = np.minimum(eps * s * cond ** (1 - s), eps**s)
        known = np.where(cond * INPUT_UNITS * eps < 1, first_order, eps**s)  # a smaller eigenvalue may be 0
        return known if share is None else np.where(cond * share < 1, known, np.maximum(share, eps) ** s)
    return eps * -s * cond


def digits_left(cond: float, s: float, eps: float, share: float | None = None) -> float:
    """Return the decimal digits of A^s left by rounding of `eps`, in the arithmetic or of the input.

    `share` is that of `forward_error_bound`.
    """
    error = float(forward_error_bound(np.float64(cond), s, eps, share))
    return max(0.0, -math.log10(max(error, eps))) if error < 1 else 0.0


def about(digits: float, one: str, many: str) -> str:
    """Return a number of digits in words, followed by the verb for one or for many."""
    count = round(digits)
    return f"about {count} digit {one}" if count == 1 else f"about {count} digits {many}"


def left_by_shift(highest: float, lowest: float, ridge: float) -> float:
    """Return ||A'|| / ||A|| where a shift cancels most of a negative A, and else 1.

    `highest` is lambda_max of A, and `lowest` lambda_min of A' = A + ridge I.
    """
    size = max(abs(highest), abs(lowest - ridge))
    left = max(abs(highest + ridge), abs(lowest))
    return left / size if ridge > 0 and left < CANCELLED * size else 1.0

"""From where on digits count as lost: the bars that verdicts and their sentences share."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

Array = Any

#: A root whose forward error may exceed this (fewer than two digits certain) is ILL_CONDITIONED.
ILL_FORWARD_ERROR = 1e-2
#: The same for what the rounding of the input has done, in the dtype in which it came. Its unit roundoff times the
#: condition number bounds that; but it is a single rounding, of half a unit in the mean, where arithmetic makes many.
#: So two digits are meant as the sentences count them, to the nearest: fewer are left beyond 10^-1.5.
ILL_INPUT_ERROR = 10**-1.5
#: An eigenvalue of so many units of the input's roundoff, times lambda_max, is nothing but that rounding. At p = 4 this
#: is where `ILL_INPUT_ERROR` is met; a larger p hides the rounding, and mends nothing.
INPUT_UNITS = 8
#: Forward errors of all methods are below so many times the first-order bound.
VOUCHED = 4


def allowed_error(rtol: float | None) -> float:
    """What the first-order bound of the forward error may be for CONVERGED."""
    return ILL_FORWARD_ERROR if rtol is None else rtol / VOUCHED


def least_rtol(eps: float, out_eps: float, n: int) -> float:
    """The smallest rtol that a root can be within: X is rounded once to `out_eps`, and the last products to `eps`."""
    return float(out_eps + VOUCHED * eps * n**0.5)


def smallest_share(n: int, eps: float, in_eps: float) -> float:
    """The share of lambda_max below which an eigenvalue of a symmetric matrix is 0, to all that is known.

    n times the machine epsilon `eps` of the arithmetic, and `INPUT_UNITS` of the roundoff `in_eps` of what came in.
    """
    return float(max(n * eps, INPUT_UNITS * in_eps))


def forward_error_bound(cond: Array, s: Fraction | float, eps: float) -> Array:
    """First-order bound of the relative forward error in the 2-norm: eps times max |f'| ||A|| / ||f(A)||, f = x^s."""
    s = float(s)
    if s >= 1:
        return eps * s * np.ones_like(cond)
    if s >= 0:  # near singularity the bound saturates: an eigenvalue is never further off than eps lambda_max
        with np.errstate(over="ignore"):
            first_order = np.minimum(eps * s * cond ** (1 - s), eps**s)
        return np.where(cond * INPUT_UNITS * eps < 1, first_order, eps**s)  # one that is rounding may be 0 as well
    return eps * -s * cond

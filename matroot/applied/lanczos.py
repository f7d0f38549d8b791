"""A^s B by Lanczos, which needs products with A only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from matroot._status import Status
from matroot.applied.bounds import Approximation, Bound, Wanted, bound_of, met, nothing
from matroot.applied.factored import SINGULAR
from matroot.applied.krylov import Krylov
from matroot.applied.operators import Operator, extremes
from matroot.applied.shifted import Floats, Sums, Tridiagonal, of_tridiagonal, rule

Array = Any

#: Steps between two evaluations of the bound, as a share of those before.
SPACING = 0.15
#: Rounding errors of a step of Lanczos: of the product, and of the vectors.
ROUNDINGS = 2


def by_lanczos(A: Operator, V: Array, wanted: Wanted, most: int, least: float) -> Approximation:
    """Run Lanczos until the bound is met in every column; `least` is a Ritz value that is known already."""
    krylov = Krylov(A, V, A.xp)
    check = 8
    while True:
        krylov.step(A.unit)
        m = len(krylov)
        if not krylov.finite:
            return nothing(V, Status.NONFINITE_INPUT, math.nan)
        done = m >= most or bool(krylov.ended.all())
        if m < check and not done:
            continue
        check = m + max(4, int(SPACING * m))
        smallest = min(extremes(krylov)[0], least)
        if smallest < -(SINGULAR + m) * A.unit * wanted.above:  # rounding errors of m steps
            return nothing(V, Status.NOT_POSITIVE, smallest)
        evaluated = _evaluated(krylov.tridiagonal, wanted, A, smallest)
        if evaluated is None:  # the smallest eigenvalue cannot be told from 0
            return nothing(V, Status.SINGULAR, smallest)
        sums, bound = evaluated
        reached = met(bound, _sizes(sums), wanted)
        if done or reached.all():
            break
    y, drift, _ = krylov.combined(sums.x)
    bound = bound._replace(truncated=bound.truncated * np.maximum(drift, 1))
    status = Status.CONVERGED if reached.all() else Status.MAX_ITER
    return Approximation(y, bound, m, status, smallest)


def _evaluated(T: Tridiagonal, wanted: Wanted, A: Operator, smallest: float) -> tuple[Sums, Bound] | None:
    """Return the solutions for T with the bound of their error; None if A seems singular, and s < 0."""
    noise = A.unit * wanted.above
    lows = [] if wanted.s < 0 else [(0.0, "bound")]
    if wanted.low is not None and 0 < wanted.low <= smallest + 4 * noise:
        lows = [(wanted.low, "bound")]
    elif smallest > noise:
        lows.append((smallest, "estimate"))
    found: tuple[Sums, Bound] | None = None
    least = np.inf
    for low, certificate in lows:
        poles = rule(wanted.s, low, wanted.above, wanted.accuracy, 0.0 if low else wanted.least)
        sums = of_tridiagonal(T, poles, wanted.above)
        if not sums.positive.all():
            shift = noise + max(0.0, -smallest)
            sums = of_tridiagonal(T._replace(diagonal=T.diagonal + shift), poles, wanted.above)
            poles = poles._replace(below=poles.below + 2 * shift ** max(float(wanted.s), 0.0))
        size = _sizes(sums)
        bound = bound_of(poles, size, sums.truncated, ROUNDINGS * sums.rounded, A, certificate)
        fixed = float((bound.rounded / np.where(size > 0, size, 1)).max())
        if found is None or fixed < least / 2:  # what more steps do not reduce; a bound is worth a factor of 2
            found, least = (sums, bound), fixed
        if least <= wanted.target / 2:
            break
    return found


def _sizes(sums: Sums) -> Floats:
    return np.asarray(np.sqrt((sums.x * sums.x).sum(0)))

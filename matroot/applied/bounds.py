"""The accuracy wanted of A^s B, and bounds of the error that is there."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from matroot._status import Status
from matroot.applied.operators import Operator
from matroot.applied.shifted import Floats, Rule

Array = Any

#: The accuracy wanted without rtol, in units of the dtype's rounding.
UNITS = 64
#: Truncation that is this share of what rounding may do is not reduced any more.
NEGLIGIBLE = 0.25
#: Where the poles begin for s > 0, as a share of the largest eigenvalue.
LEAST = 1e-30


@dataclass(frozen=True)
class Wanted:
    """The request, in units in which A is about 1."""

    s: Fraction | float
    #: relative error of the result
    rtol: float | None
    #: unit roundoff of the result's dtype
    unit: float
    #: no eigenvalue exceeds it
    above: float
    #: a lower bound of the eigenvalues, or None
    low: float | None

    @property
    def target(self) -> float:
        return self.rtol if self.rtol is not None else UNITS * self.unit

    @property
    def accuracy(self) -> float:
        """Of the sum of poles."""
        return max(self.target / 20, 1e-15)

    @property
    def least(self) -> float:
        """Begin of the poles if the smallest eigenvalue may be 0."""
        if self.s < 0:
            return 0.0
        return float(self.above * max(LEAST, (self.target / 64) ** (1 / float(self.s))))


class Bound(NamedTuple):
    """Bounds of the parts of the error, per column, absolute."""

    #: of the shifted systems
    truncated: Floats
    #: of rounding, of the poles and of eigenvalues below them
    rounded: Floats
    certificate: str

    def error(self, size: Floats) -> Floats:
        """Return the bound of the relative error of a result of this size."""
        with np.errstate(all="ignore"):
            total = self.truncated + self.rounded
            known = np.where(total < size, total / (size - total), np.inf)
        return np.where(size + total == 0, 0.0, known)


class Approximation(NamedTuple):
    """A^s B for columns of norm 1."""

    y: Array
    bound: Bound
    n_iter: int
    status: Status
    smallest: float


def bound_of(poles: Rule, size: Floats, truncated: Floats, rounded: Floats, A: Operator, certificate: str) -> Bound:
    """Return the parts of the error."""
    fixed = A.unit * rounded + (8 * 2.0**-53 + poles.delta) * size + poles.below
    return Bound(truncated, fixed, certificate)


def met(bound: Bound, size: Floats, wanted: Wanted) -> Any:
    """Return True where the error is as wanted, or rounding is most of it."""
    error = bound.error(size) if wanted.rtol is not None else bound.truncated / np.where(size > 0, size, 1)
    return (error <= wanted.target) | (bound.truncated <= NEGLIGIBLE * bound.rounded) | (size == 0)


def nothing(V: Array, status: Status, smallest: float) -> Approximation:
    """Return zeros, exact if the status is CONVERGED, and else of no use."""
    zero = np.zeros(V.shape[1])
    unknown = zero if status is Status.CONVERGED else zero + np.inf
    return Approximation(V * 0, Bound(unknown, zero, "bound"), 0, status, smallest)

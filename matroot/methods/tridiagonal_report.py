"""The report of `Tridiagonal` on every matrix of a stack, for each of its kernels."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from matroot._regularization import Coefficients
from matroot.backends.cpu.tridiagonal.pole_table import COARSE, LEVELS, SINGLE, Level
from matroot.methods.base import FloatArray
from matroot.methods.conditioning import PROBES, random_columns

#: `served` in a report: the root is there, or a rule may change eigenvalues of the matrix, or the root is there and
#: single precision was used, or the smallest eigenvalue is known and not positive; else 0.
SERVED, CUT, IN_SINGLE, NEGATIVE = 1.0, 2.0, 3.0, 4.0
#: No regularization.
NONE = Coefficients()
#: Columns of probes: as many as a vector register of the kernels holds.
LANES = 8


class Report(NamedTuple):
    """The facts about every matrix, arrays (B,)."""

    served: FloatArray
    asymmetry: FloatArray
    residual: FloatArray
    lambda_min: FloatArray
    lambda_max: FloatArray
    ridge: FloatArray
    cond: FloatArray


class CutReport(NamedTuple):
    """The facts about every matrix, arrays (B,): those of `Report`, and two more."""

    served: FloatArray
    asymmetry: FloatArray
    residual: FloatArray
    lambda_min: FloatArray
    lambda_max: FloatArray
    ridge: FloatArray
    cond: FloatArray
    #: how many eigenvalues the rule has changed
    changed: FloatArray
    #: see `pipeline.status.excess_of`
    excess: FloatArray


def part_of(s: Fraction) -> Fraction:
    """Return s > 0 less the largest whole number that leaves something of it."""
    return s - (math.ceil(s) - 1)


def pole_level(single: bool, rtol: float | None) -> Level:
    """Return how well poles approximate for roots in a dtype, or for an rtol: to 1e-2 of it at least."""
    levels = (COARSE, SINGLE) if single else LEVELS
    return next((level for level in levels if rtol is not None and level.target <= 0.0101 * rtol), levels[-1])


@lru_cache(maxsize=64)
def probes(n: int, twofold: bool = False) -> FloatArray:
    """Return the columns that test a root: all unit vectors for n <= 8, else fixed random vectors.

    For matrices of twice the size that represent complex matrices, n unit vectors suffice.
    """
    size = 2 * n if twofold else n
    return np.eye(size, LANES) * (np.arange(LANES) < n) if n <= PROBES else random_columns(size, PROBES)

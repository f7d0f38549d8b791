"""The report of `Tridiagonal` on every matrix of a stack, for each of its kernels."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from matroot._regularization import Coefficients
from matroot.methods.base import FloatArray
from matroot.methods.conditioning import PROBES, signs

#: `served` in a report: the root is there, or a rule may change eigenvalues of the matrix; else 0.
SERVED, CUT = 1.0, 2.0
#: No regularization.
NONE = Coefficients()
#: Columns of probes: as many as a vector register of the kernels holds.
LANES = 8


#: Relative accuracy of a sum of poles: what float64 holds, and well below what float32 holds.
FULL, SINGLE = 5e-17, 1e-9


class Report(NamedTuple):
    """The facts about every matrix, arrays (B,)."""

    served: FloatArray
    asymmetry: FloatArray
    residual: FloatArray
    lambda_min: FloatArray
    lambda_max: FloatArray
    ridge: FloatArray
    cond: FloatArray


def pole_accuracy(single: bool, rtol: float | None) -> float:
    """Return the relative accuracy that poles need for roots in a dtype, or for an rtol: 1e-4 of it, rounded down."""
    full = SINGLE if single else FULL
    return full if rtol is None else max(full, 10.0 ** (math.floor(math.log10(rtol)) - 4))


@lru_cache(maxsize=64)
def probes(n: int, twofold: bool = False) -> FloatArray:
    """Return the columns that test a root: all unit vectors for n <= 8, else fixed random signs.

    For matrices of twice the size that represent complex matrices, n unit vectors suffice.
    """
    size = 2 * n if twofold else n
    return np.eye(size, LANES) * (np.arange(LANES) < n) if n <= PROBES else np.ascontiguousarray(signs(size, PROBES))

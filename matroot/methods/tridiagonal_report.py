"""What `Tridiagonal` says about every matrix of a stack, by whichever way it was solved."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from matroot.methods.base import FloatArray
from matroot.methods.conditioning import PROBES, signs

#: Columns of probes: as many as a vector register of the kernels holds.
LANES = 8


class Report(NamedTuple):
    """What is known of every matrix, arrays (B,)."""

    served: FloatArray
    asymmetry: FloatArray
    residual: FloatArray
    lambda_min: FloatArray
    lambda_max: FloatArray
    ridge: FloatArray
    cond: FloatArray


@lru_cache(maxsize=64)
def probes(n: int, twofold: bool = False) -> FloatArray:
    """The columns by which a root is tested: all unit vectors for n <= 8, else fixed random signs.

    The matrices of twice the size that stand for complex ones have n columns that tell everything.
    """
    size = 2 * n if twofold else n
    return np.eye(size, LANES) * (np.arange(LANES) < n) if n <= PROBES else np.ascontiguousarray(signs(size, PROBES))

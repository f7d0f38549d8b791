"""The certificate of large matrices for exponents -a/b with a > 1, which compares with inverse powers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from matroot.backends.loading import deferred
from matroot.methods.base import Array, FloatArray


def residual(S: Array, X: Array, shift: float, halves: FloatArray, factor: float, probes: Array, s: Fraction) -> float:
    """Compute ||X^b V - A^{-a} V|| / ||A^{-a} V|| for probes V and s = -a/b; A is S times both halves, plus shift I.

    The inverse is by a Cholesky factorization, whose rounding errors are not those of the reduction. X is in the units
    of the caller, and divided by factor^2. Infinite where A is not positive to working precision.
    """
    linalg = deferred("scipy.linalg")
    one, two = halves.tolist()
    A = S.astype(np.result_type(S.dtype, np.float64)) * one * two
    A.flat[:: len(A) + 1] += shift
    try:
        L = linalg.cho_factor(A, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return math.inf
    G = W = probes
    for _ in range(-s.numerator):
        G = linalg.cho_solve(L, G, check_finite=False)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(s.denominator):
            W = (X @ (W / factor)) / factor
        return float(np.linalg.norm(W - G) / np.linalg.norm(G))

"""Poles for derivatives of powers: f[x, y] of f(x) = x^s as a sum of c_k / ((x + b_k) (y + b_k))."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np

from matroot.backends.cpu.tridiagonal.poles import CLASSES, in_classes
from matroot.backends.loading import deferred

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

#: Relative accuracies of the sum of poles for the power; its derivative loses a factor of up to 200. For arithmetic in
#: float64, for results in float32 of it, and for arithmetic in float32.
DOUBLE, ROUNDED, SINGLE = 2.5e-19, 3e-12, 3e-10


def elliptic(kappa: float, target: float) -> tuple[FloatArray, FloatArray]:
    """b, w with x^(-1/2) = sum w_k / (x + b_k) to a relative error of about `target` for x in [1/kappa, 1].

    Half as many poles as for other powers: the midpoint rule after a change to an elliptic variable.

    References
    ----------
    Hale, Higham & Trefethen, SIAM J. Numer. Anal. 46 (2008), method 3.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot.backends.cpu.derivative.poles import elliptic
    >>> b, w = elliptic(1e4, 1e-9)
    >>> x = np.geomspace(1e-4, 1, 50)
    >>> len(b), bool(abs((w / (x[:, None] + b)).sum(1) * x**0.5 - 1).max() < 4e-9)
    (14, True)
    """
    special = deferred("scipy.special")
    m = 1 / kappa
    K = float(special.ellipkm1(m))  # of 1 - m
    N = math.ceil(math.log(4 / target) * K / math.pi**2)
    half = (np.arange(-(-N // 2)) + 0.5) * K / N  # the other half of the rule is b -> m / b, without cancellation
    sn, cn, dn, _ = special.ellipj(half, 1 - m)
    small, w_small = m * (sn / cn) ** 2, math.sqrt(m) * dn / cn**2
    large, w_large = (cn / sn) ** 2, dn / sn**2
    b, w = np.concatenate([large, small[::-1][N % 2 :]]), np.concatenate([w_large, w_small[::-1][N % 2 :]])
    return b, 2 * K / (math.pi * N) * w


@lru_cache(maxsize=64)
def derivative_table(s: Fraction, accuracy: float) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return b, c (CLASSES, K) and the number of poles (CLASSES,) for the classes of `in_classes`; -1 <= s < 1."""
    if abs(s) == Fraction(1, 2):
        rules = [elliptic(4.0 ** (j + 1), accuracy) for j in range(CLASSES)]
        counts = np.array([len(b) for b, _ in rules])
        b, w = np.ones((CLASSES, counts.max())), np.zeros((CLASSES, counts.max()))
        for j, rule in enumerate(rules):
            b[j, : counts[j]], w[j, : counts[j]] = rule
    else:
        b, w, counts = in_classes(float(-s if s < 0 else 1 - s), accuracy)
    return b, -w if s < 0 else b * w, counts

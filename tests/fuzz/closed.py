"""Large matrices whose powers are written down: exact in float64, and their powers in extended precision."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import mpmath
import numpy as np
from scipy.linalg import hadamard
from table import EPS, conditioning

from .case import Known, Matrix, numpy_dtype

BITS = {"float32": 20, "float64": 44}


def draw(rng: np.random.Generator, dtype: str) -> Matrix:
    """A = H diag(d) H / n for Hadamard's H, or a I + b (the matrix of ones)."""
    bits = BITS[dtype]
    if rng.random() < 0.5:
        n = int(2 ** rng.integers(3, 7))
        H = hadamard(n).astype(float)
        d = np.ldexp(1.0, rng.integers(0, rng.integers(1, bits - 6), n))
        d = np.where(rng.random(n) < 0.1, 0.0, d) if rng.random() < 0.2 else d
        A, kind = (H * d) @ H / n, "hadamard"
    else:
        n = int(rng.integers(7, 200))
        a, b = (float(2 ** rng.integers(0, bits - 8)) for _ in range(2))
        if rng.random() < 0.4:  # the Laplacian of the complete graph
            a, b = float(n), -1.0
        H = np.ones((n, 1))
        d, A, kind = np.array([a + n * b, a]), a * np.eye(n) + b, "a I + b J"
    assert (A.astype(numpy_dtype(dtype)) == A).all()
    return Matrix(A.astype(numpy_dtype(dtype)), kind, partial(known, H, d, EPS[dtype]))


def known(H: np.ndarray, d: np.ndarray, eps: float, s: Fraction | float, rule: Any, ridge: float) -> Known:
    """Only ridges: `rule` tells nothing here."""
    n = len(H)
    with mpmath.workprec(120):
        w = [mpmath.mpf(x) + ridge for x in d.tolist()]
        top = max(w)
        kappa = float(top / min(w)) if min(w) > 0 else np.inf
        share = float(d.min() / d.max())
        if s < 0 and kappa * eps * abs(float(s)) > 0.1:
            return Known(None, np.inf, kappa, share, float(d.max()), hopeless="singular or ill-conditioned")
        exponent = mpmath.mpf(s.numerator) / s.denominator if isinstance(s, Fraction) else mpmath.mpf(s)
        f = np.array([longdouble(x**exponent if x else x * 0) for x in w])
    if H.shape == (n, n):
        X = (H * f) @ H.T.astype(np.longdouble) / n
    else:
        X = f[1] * np.eye(n, dtype=np.longdouble) + (f[0] - f[1]) / n
    return Known(X, conditioning(kappa, s), kappa, share, float(d.max()))


def longdouble(x: mpmath.mpf) -> np.longdouble:
    high = float(x)
    return np.longdouble(high) + np.longdouble(float(x - high))

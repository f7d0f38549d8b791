"""x^(-alpha) on [1/kappa, 1] as a sum of simple poles on the negative axis, for any alpha in (0, 1) at once.

`pole_table` has fewer for the usual alpha.

x^(-alpha) = sin(pi alpha)/pi * integral of e^((1 - alpha) t) / (e^t + x) dt over the real line: the integrand is
analytic for |Im t| < pi, so that the trapezoidal rule with step h errs by exp(-2 pi^2 / h). Its poles e^t are
spread evenly over log x, which is as well as poles can be placed when kappa is large (Gonchar's rate). On both
sides of [1/kappa, 1], where the rule would go on with many terms, these are a Stieltjes function far from its
poles: a Gauss rule of a few points replaces them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

#: `in_classes` has classes of condition numbers up to 4, 16, ... 4^CLASSES.
CLASSES = 24
#: How far, in log x, the trapezoidal rule goes on beyond [1/kappa, 1].
MARGIN = 1.0


def gauss(x: FloatArray, weights: FloatArray, m: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of the m-point Gauss rule of a discrete measure, by Lanczos (Golub & Welsch 1969)."""
    Q, J = np.zeros((m, len(x))), np.zeros((m, m))
    total = weights.sum()
    v = np.sqrt(weights / total)
    for k in range(m):
        Q[k] = v
        v = x * v
        J[k, k] = v @ Q[k]
        for _ in range(2):
            v = v - Q[: k + 1].T @ (Q[: k + 1] @ v)
        if k + 1 < m:
            J[k, k + 1] = J[k + 1, k] = np.linalg.norm(v)
            v /= J[k, k + 1]
    nodes, S = np.linalg.eigh(J)
    return np.asarray(nodes, np.float64), np.asarray(total * S[0] ** 2, np.float64)


def poles(alpha: float, kappa: float, target: float) -> tuple[FloatArray, FloatArray]:
    """b, w with x^(-alpha) = sum w_k / (x + b_k), to a relative error of about `target` for x in [1/kappa, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from matroot.backends.cpu.tridiagonal.poles import poles
    >>> b, w = poles(1 / 4, 1e4, 1e-15)
    >>> x = np.geomspace(1e-4, 1, 50)
    >>> error = (w / (x[:, None] + b)).sum(1) * x ** (1 / 4) - 1
    >>> len(b), bool(abs(error).max() < 4e-15)
    (34, True)
    """
    (b_high, w_high), (b_low, w_low), h = tails(alpha, target)
    count = math.ceil((math.log(kappa) + 2 * MARGIN) / h)
    b = np.exp(MARGIN - h * np.arange(count + 1))
    w = _weight(alpha, h) * b * b**-alpha  # 1 - alpha is rounded, and b far from 1
    smallest = float(b[-1])
    b = np.concatenate([b_high, b, smallest * b_low])
    w = np.concatenate([w_high, w, smallest * smallest**-alpha * w_low])
    return b, w


def _weight(alpha: float, h: float) -> float:
    return h * math.sin(math.pi * min(alpha, 1 - alpha)) / math.pi


@lru_cache(maxsize=64)
def tails(alpha: float, target: float) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray], float]:
    """Return what replaces the rule's terms above e^MARGIN and below 1, and its step h."""
    # A short binary number, so that the grid is exact: a rounding error of t is one of e^t, t times as large.
    h = math.floor(2**20 * 2 * math.pi**2 / math.log(2 / target)) / 2**20
    # On u in (0, e^-(MARGIN + h)) of 1 / (1 + x u), whose pole is at -1: convergence as rho^(-2 m).
    z = 2 * math.exp(MARGIN + h) + 1
    m = math.ceil(math.log(1 / target) / (2 * math.acosh(z)))

    def measure(decay: float) -> tuple[FloatArray, FloatArray]:
        t = h * np.arange(1, max(m, math.ceil(42 / (decay * h))) + 1)
        nodes, weights = gauss(np.exp(-t), np.exp(-decay * t), m)
        whole = _weight(alpha, h) / math.expm1(decay * h)  # the geometric series, without the errors of its terms
        return nodes[::-1], (whole / math.fsum(weights)) * weights[::-1]

    high = math.exp(MARGIN)
    u, nu = (v[::-1] for v in measure(alpha))
    return (high / u, high * high**-alpha * nu / u), measure(1 - alpha), h


@lru_cache(maxsize=64)
def in_classes(alpha: float, target: float) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return the poles and weights for 0 < alpha <= 1 and all classes, padded with weights 0, and how many each has."""
    if alpha == 1:  # the one pole of 1/x
        return np.zeros((CLASSES, 1)), np.ones((CLASSES, 1)), np.ones(CLASSES, np.int64)
    rules = [poles(alpha, 4.0 ** (j + 1), target) for j in range(CLASSES)]
    count = np.array([len(b) for b, _ in rules], np.int64)
    b, w = np.ones((CLASSES, int(count.max()))), np.zeros((CLASSES, int(count.max())))
    for j, (bj, wj) in enumerate(rules):
        b[j, : count[j]], w[j, : count[j]] = bj, wj
    return b, w, count

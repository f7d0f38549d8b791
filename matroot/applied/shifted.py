"""x^s as a sum of poles, and the error of A^s B that follows from the residuals of the shifted systems.

For -1 < s < 0, x^s = sum w_j / (x + t_j) up to a relative error delta on [low, high]. If x_j solves (A + t_j I) x_j = b
up to a residual r_j, then A^s b - sum w_j x_j = sum w_j (A + t_j I)^{-1} r_j + (at most delta ||A^s b||), and
||(A + t_j I)^{-1}|| <= 1 / (low + t_j). For 0 < s < 1, x^s = x x^{s-1}: the residuals count with
w_j ||A (A + t_j I)^{-1}|| <= w_j high / (high + t_j) if A multiplies the sum, and with w_j t_j / (low + t_j) in
b - t_j x_j, the summand if T of Lanczos does. Both are finite for low = 0 too.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matroot.backends.cpu.tridiagonal.pole_table import LEVELS, STORED, stored
from matroot.backends.cpu.tridiagonal.poles import poles

Array = Any
Floats = NDArray[np.float64]

#: The sum of poles errs by a few times the accuracy that is asked for.
POLES_ERR = 4
#: Numbers in the work space of one chunk of columns.
CHUNK = 2**22


class Rule(NamedTuple):
    """Poles and weights for x^s on [low, high]."""

    s: float
    t: Floats
    w: Floats
    #: the error of sum w_j x_j, or of sum w_j (b - t_j x_j) for s > 0, for a residual of 1, for every pole
    weight: Floats
    #: the error of sum w_j x_j, or of A sum w_j x_j for s > 0
    times: Floats
    #: relative error of the sum on [low, high]
    delta: float
    #: A^s b may be off by this share of ||b|| because of eigenvalues below the range of the poles
    below: float


def rule(s: Fraction | float, low: float, high: float, accuracy: float, least: float = 0.0) -> Rule:
    """Return poles for x^s on [low, high], -1 <= s < 1, not 0, to the relative `accuracy`.

    For s > 0 low may be 0; the poles begin at `least`, if low is less.
    """
    alpha = -s if s < 0 else 1 - s
    s = float(s)
    if s == -1:
        return Rule(s, np.zeros(1), np.ones(1), np.array([1 / low]), np.array([1 / low]), 0.0, 0.0)
    start = max(low, least)
    b, w = _fewest(alpha, max(high / start, 4.0), accuracy)
    t, w = b * high, w * high ** (1 - float(alpha))
    weight = w / (low + t) if s < 0 else w * t / (low + t)
    times = weight if s < 0 else w * high / (high + t)
    below = 2 * start**s if s > 0 and low < start else 0.0
    return Rule(s, t, w, weight, times, POLES_ERR * accuracy, below)


def _fewest(alpha: Fraction | float, kappa: float, accuracy: float) -> tuple[Floats, Floats]:
    """Return poles and weights for x^(-alpha) on [1/kappa, 1], from the table if it has fewer."""
    found = poles(float(alpha), kappa, accuracy)
    for level in LEVELS:
        row = int(np.searchsorted(level.edges, kappa))
        if alpha in STORED and level.target <= accuracy and row < level.classes and level.counts[row] < len(found[0]):
            b, w = stored(Fraction(alpha), level, row)
            return b, w
    return found


class Tridiagonal(NamedTuple):
    """Matrices T of Lanczos, one a column: diagonals (m, k), and m subdiagonals, the last of which leads out of T."""

    diagonal: Floats
    beside: Floats


class Sums(NamedTuple):
    """Of the shifted systems with e_1 on the right: the sum of the solutions, and the sizes that errors follow from."""

    #: f(T) e_1, (m, k)
    x: Floats
    #: sum of weight times residual, (k,)
    truncated: Floats
    #: sum of `times` times high times the norm of the solution, (k,): what one rounding error of A x_j comes to
    rounded: Floats
    #: False where T + t I is not positive definite
    positive: NDArray[np.bool_]


def of_tridiagonal(T: Tridiagonal, rule: Rule, high: float) -> Sums:
    """Solve all shifted systems of all columns by L D L^T of T + t I."""
    m, k = T.diagonal.shape
    width = max(1, CHUNK // (m * len(rule.t)))
    parts = [_chunk(T.diagonal[:, i : i + width], T.beside[:, i : i + width], rule, high) for i in range(0, k, width)]
    return Sums(*(np.concatenate(some, -1) for some in zip(*parts, strict=True)))


def _chunk(alpha: Floats, beta: Floats, rule: Rule, high: float) -> Sums:
    m, k = alpha.shape
    t = rule.t[:, None]
    d, z = np.empty((2, m, len(t), k))
    d[0], z[0] = alpha[0] + t, 1
    with np.errstate(all="ignore"):
        for i in range(1, m):
            ratio = beta[i - 1] / d[i - 1]
            np.subtract(alpha[i] + t, beta[i - 1] * ratio, out=d[i])
            np.multiply(z[i - 1], -ratio, out=z[i])
        positive = np.asarray((d > 0).all((0, 1)))
        x = z[-1] / d[-1]
        residual = abs(x) * beta[-1]
        total = np.empty((m, k))
        square = x * x
        total[-1] = rule.w @ x
        for i in range(m - 2, -1, -1):
            x = (z[i] - beta[i] * x) / d[i]
            square += x * x
            total[i] = rule.w @ x
        size = np.sqrt(square)
        rounded = high * (rule.times @ size)
        if rule.s > 0:  # T g, g = T^{s-1} e_1; its rounding is that of a product with g
            rounded += high * np.sqrt((total * total).sum(0))
            g = alpha * total
            g[1:] += beta[:-1] * total[:-1]
            g[:-1] += beta[:-1] * total[1:]
            total = g
        return Sums(total, rule.weight @ residual, rounded, positive)

"""The poles of a sum for x^(-alpha), and their weights, for all condition numbers: near the best where they are stored.

For alpha = 1/q and 1 - 1/q, q = 2, ..., 8, they come from a file, which asv_benchmarks/pole_table.py has computed in 58
digits: K poles that are exact at the 2 K zeros of the error of Zolotarev's best sum for alpha = 1/2, on [1/kappa, 1].
Since x^(-alpha) is a Stieltjes function, the poles are negative and the weights positive; the largest relative
error is at most Zolotarev's, 4 exp(-2 pi^2 K / log(16 kappa)). For other alpha, `poles` has some fourteen more.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from matroot.backends.cpu.tridiagonal.poles import FloatArray, poles

#: The kernels take so many poles at a time.
TOGETHER = 4
#: A pole beside which numbers up to 1 are nothing.
FAR = 2.0**60
#: A pole as far from 0 as this, of spectra up to 1, is not moved much by rounding.
AWAY = 16 * 2.0**-52
#: The alpha of the file: 1/q and 1 - 1/q.
STORED = tuple(sorted({Fraction(k, q) for q in range(2, 9) for k in (1, q - 1)}))


class Level(NamedTuple):
    """An accuracy of sums, and how many poles that takes for which condition numbers."""

    #: the largest relative error, before poles and weights are rounded to float64
    target: float
    #: poles of the first class; each class has `TOGETHER` more than the one before
    least: int
    #: the largest condition number of the first class, and the ratio of those of neighbouring classes
    first: float
    ratio: float
    classes: int

    @property
    def edges(self) -> FloatArray:
        """The largest condition number of each class."""
        return np.array([self.first * self.ratio**j for j in range(self.classes)])

    @property
    def counts(self) -> list[int]:
        """The number of poles of each class, where they are stored."""
        return [self.least + TOGETHER * j for j in range(self.classes)]


#: Three digits for an rtol of 1e-3 or more, what float32 holds, and what float64 holds.
COARSE = Level(1e-5, 4, 28.0, 453.0, 6)
SINGLE = Level(1.2e-8, 8, 189.0, 54.9, 8)
FULL = Level(5e-17, 12, 27.0, 7.6, 16)
LEVELS = (COARSE, SINGLE, FULL)


class Table(NamedTuple):
    """The poles of all classes of condition numbers.

    Attributes
    ----------
    b, w : array (classes, K)
        Descending in b, padded with w = 0, for a spectrum in [1/kappa, 1].
    counts, edges : array (classes,)
        How many poles each class has, and its largest condition number.
    direct : int
        How many of the poles, the same for all classes, are above 1 or not far below: those whose x / (x + b) is
        computed as it stands, and not as 1 - b / (x + b).
    singular : int
        The last class whose poles stay away from the rounding of eigenvalues 0. The sum for x^s, 0 < s < 1, that is x
        times one of poles, is 0 at 0, and off by at most about 3^s times eps^s between 0 and the smallest x.
    """

    b: FloatArray
    w: FloatArray
    counts: FloatArray
    edges: FloatArray
    direct: int
    singular: int


@lru_cache(maxsize=64)
def table(alpha: Fraction, level: Level) -> Table:
    """Return the poles for x^(-alpha), 0 <= alpha <= 1.

    For alpha = 1 it is the one pole of 1/x; for alpha = 0 one far away, with w / (x + b) = 1 to beyond the last digit.

    Examples
    --------
    >>> from fractions import Fraction
    >>> import numpy as np
    >>> from matroot.backends.cpu.tridiagonal.pole_table import FULL, table
    >>> found = table(Fraction(1, 4), FULL)
    >>> int(found.counts[3]), bool(found.edges[3] > 1e4)
    (24, True)
    >>> x = np.geomspace(1e-4, 1, 50)
    >>> error = (found.w[3] / (x[:, None] + found.b[3])).sum(1) * x ** (1 / 4) - 1
    >>> bool(abs(error).max() < 1e-15)
    True
    """
    edges = level.edges
    if alpha in (0, 1):
        one, single, last = np.ones((level.classes, 1)), np.ones(level.classes), level.classes - 1
        inverse, far = (0 * one, one, single, edges, 0, last), (FAR * one, FAR * one, single, edges, 1, last)
        return Table(*inverse) if alpha == 1 else Table(*far)
    rows: list[Any]
    if alpha in STORED:
        rows, direct = [stored(alpha, level, j) for j in range(level.classes)], TOGETHER
    else:
        rows = [poles(float(alpha), edge, level.target) for edge in edges]
        direct = int((rows[0][0] >= 1).sum())
    counts = np.array([len(b) for b, _ in rows])
    b, w = np.ones((level.classes, counts[-1])), np.zeros((level.classes, counts[-1]))
    for j, (bj, wj) in enumerate(rows):
        b[j, : counts[j]], w[j, : counts[j]] = bj, wj
    singular = max(sum(bj[-1] >= AWAY for bj, _ in rows) - 1, 0)
    return Table(b, w, counts.astype(np.float64), edges, direct, singular)


def stored(alpha: Fraction, level: Level, row: int) -> FloatArray:
    """Return the poles and weights of one class, from the file."""
    before = sum(sum(other.counts) for other in LEVELS[: LEVELS.index(level)]) + sum(level.counts[:row])
    return numbers()[STORED.index(alpha), :, before : before + level.counts[row]]


@cache
def numbers() -> FloatArray:
    """Read the file: for every alpha the poles, then the weights, of all classes of all levels."""
    return np.asarray(np.load(Path(__file__).with_name("pole_table.npy")))

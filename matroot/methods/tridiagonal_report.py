"""The common ground of the two ways of `Tridiagonal`: report, exponents, poles, probes; and the faster one of them."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from matroot._bars import ZERO_UNITS
from matroot._regularization import Coefficients
from matroot.backends.cpu.tridiagonal.pole_table import COARSE, LEVELS, SINGLE, Level
from matroot.methods.base import FloatArray
from matroot.methods.conditioning import PROBES, random_columns

#: `served` in a report: the root is there, or a rule may change eigenvalues of the matrix, or the root is there and
#: single precision was used, or the smallest eigenvalue is known and not positive; else 0.
SERVED, CUT, IN_SINGLE, NEGATIVE = 1.0, 2.0, 3.0, 4.0
#: No regularization.
NONE = Coefficients()
#: The last fields of a `CutReport` where nothing is cut.
UNCUT = (0.0, 1.0)
#: So much of lambda_max is what the smallest eigenvalue is moved up to if it may be 0: no pole sees a negative number.
LIFT = 2.0**-52
#: Columns of probes: as many as a vector register of the kernels holds.
LANES = 8
#: How many matrices the way of large ones solves while the kernel of eight lanes solves its eight, on one thread of an
#: AMD EPYC of family 26, cond 1e4. For complex matrices they lie between those of family 25, whose registers are half
#: as long (8.0 at n = 48), and those of family 26 (5.2 and 6.1 for the last two).
SIZES = (64, 96, 128, 192, 224)
WORTH = (2.8, 3.6, 4.2, 5.7, 6.6)
COMPLEX_SIZES = (24, 32, 40, 48, 64)
COMPLEX_WORTH = (3.4, 4.4, 5.6, 6.5, 7.2)
#: From these n on it is the faster way for a lone matrix, real or complex: seven of eight lanes would be idle.
LONE, COMPLEX_LONE = 36, 4


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


def further_products(s: Fraction) -> int:
    """Return how many products LAPACK's way takes beside a solve for a power s; whole ones s > 1 save the way back."""
    k = s.numerator if s.denominator == 1 else math.ceil(s) - 1
    return k.bit_length() + k.bit_count() - 2 + (s.denominator > 1) if s > 1 else 0  # as `powers.power_products`


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


def zero_share(noise: float, n: int, s: Fraction, rtol: float | None) -> float:
    """Return the share of the largest eigenvalue up to which a negative one is taken for 0 without eigenvectors.

    `noise` is that up to which it counts as rounding at all. All eigenvalues are moved up with it, but for whole powers
    above 1: by no more than rounding of the input has moved them, or, since an `rtol` is that of the matrix as given,
    of the arithmetic.
    """
    if rtol is not None:
        noise = min(noise, n * 2.0**-52)
    if s.denominator == 1:
        return noise if s > 1 else 0.0
    return noise * min(1.0, max(ZERO_UNITS, n**0.5) / max(n, 1))


def root_of(exponent: int, s: Fraction) -> float:
    """Compute 2^(exponent s / 2); in integers, since an exponent may be a thousand times the error of s."""
    numerator, denominator = exponent * s.numerator, 2 * s.denominator
    whole, rest = divmod(numerator, denominator)
    return math.ldexp(2.0 ** (rest / denominator), whole) if whole < 1024 else math.inf


def lanes_are_faster(B: int, n: int, is_complex: bool = False) -> bool:
    """Return True if lanes solve B matrices faster; independent of the number of cores.

    Beyond the last size there are no lanes: their work space is that of twelve matrices.
    """
    if B == 1 and n >= (COMPLEX_LONE if is_complex else LONE):
        return False
    sizes, worth = (COMPLEX_SIZES, COMPLEX_WORTH) if is_complex else (SIZES, WORTH)
    a_group = B / max(1, -(-B // 8))
    return n <= sizes[0] or (n <= sizes[-1] and a_group >= float(np.interp(n, sizes, worth)))

"""Matrices of integers times a power of two: what a float holds, they hold; products keep BITS bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

#: 50 digits are 166 bits; the rest is what a basis of nearly equal eigenvectors takes.
BITS = 3300


@dataclass(frozen=True)
class Exact:
    """m * 2**e, m an array of Python integers."""

    m: np.ndarray
    e: int

    @staticmethod
    def of(A: np.ndarray) -> Exact:
        """A real float64 matrix, to the last bit."""
        mantissa, exponent = np.frexp(np.asarray(A, np.float64))
        lowest = int(exponent[mantissa != 0].min(initial=0)) if not mantissa.all() else int(exponent.min(initial=0))
        whole = np.ldexp(mantissa, 53).astype(np.int64).astype(object)
        return Exact(whole << np.maximum(exponent - lowest, 0).astype(object), lowest - 53).cut()

    def cut(self) -> Exact:
        """Without the bits that lie more than BITS below the largest entry."""
        excess = self.largest().bit_length() - BITS
        return Exact(self.m >> excess, self.e + excess) if excess > 0 else self

    def largest(self) -> int:
        return max(map(abs, self.m.flat), default=0)

    def __matmul__(self, other: Exact) -> Exact:
        return Exact(self.m @ other.m, self.e + other.e).cut()

    def __add__(self, other: Exact) -> Exact:
        e = min(self.e, other.e)
        return Exact((self.m << (self.e - e)) + (other.m << (other.e - e)), e).cut()

    def __sub__(self, other: Exact) -> Exact:
        return self + Exact(-other.m, other.e)

    def __mul__(self, other: Exact) -> Exact:
        """Entry by entry."""
        return Exact(self.m * other.m, self.e + other.e).cut()

    def power(self, k: int) -> Exact:
        """By repeated squaring, k >= 1."""
        half = self if k == 1 else self.power(k // 2)
        if k == 1:
            return self
        square = half @ half
        return square @ self if k % 2 else square

    def fixed(self, bits: int) -> tuple[np.ndarray, int]:
        """Integers whose largest has `bits` bits, and the exponent they are to be taken with."""
        shift = bits - self.largest().bit_length()
        return (self.m << shift if shift >= 0 else self.m >> -shift), self.e - shift

    def floats(self) -> tuple[np.ndarray, int]:
        """As float64 of size about 1, and a power of two."""
        m, e = self.fixed(60)
        return np.ldexp(m.astype(np.float64), -60), e + 60

    def norm(self, kind: int | str = "fro") -> tuple[float, int]:
        values, e = self.floats()
        return float(np.linalg.norm(values, kind)), e


def identity(n: int) -> Exact:
    return Exact(np.eye(n, dtype=object).astype(int).astype(object), 0)


def ratio(over: tuple[float, int], under: tuple[float, int]) -> float:
    """Of two norms; infinite where it overflows."""
    if over[0] == 0:
        return 0.0
    if under[0] == 0:
        return math.inf
    try:
        return math.ldexp(over[0] / under[0], over[1] - under[1])
    except OverflowError:
        return math.inf


def real_form(A: np.ndarray) -> np.ndarray:
    """[[Re, -Im], [Im, Re]] of a complex matrix: products, powers and norms go through it."""
    return np.block([[A.real, -A.imag], [A.imag, A.real]]) if np.iscomplexobj(A) else A


def computed_goal(s: Fraction | float) -> Fraction | float | None:
    """The exponent of a power that the residual needs beside whole powers of A: s b, b the denominator or 1."""
    if not isinstance(s, Fraction):
        return s
    return Fraction(s.numerator) if s < 0 and s.numerator != -1 else None


def residual(A: Exact, X: Exact, s: Fraction | float, goal: Exact | None, kept: Exact) -> float:
    """`RootResult.residual` exactly: ||X^p A - I|| for s = -1/p, else how far X^b is from A^(s b).

    `goal` is A^(s b) where `computed_goal` asks for it, `kept` the projector in place of I.
    """
    Xb = X.power(s.denominator) if isinstance(s, Fraction) else X
    if isinstance(s, Fraction) and s.numerator == -1:
        return ratio((Xb @ A - kept).norm(), (len(A.m) ** 0.5, 0))
    if goal is None:
        goal = A.power(s.numerator) if s.numerator else identity(len(A.m))
    if (
        goal.largest() == 0 and isinstance(s, Fraction) and s > 0
    ):  # a power of a nilpotent matrix, beside which nothing is small
        size, e = A.norm()
        return ratio((Xb - goal).norm(), (size**s.numerator, e * s.numerator))
    return ratio((Xb - goal).norm(), goal.norm())

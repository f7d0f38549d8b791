"""Powers of singular values and eigenvalues, and their derivatives: of what `eigen` finds in 120 digits.

A has the singular values and vectors of [[0, A], [A^H, 0]], and U S^s V^H is a block of its odd power. Derivatives are
differences over 2^-130. Matrices are divided by a power of two, and so are results: references have `unit`^s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import mpmath
import numpy as np

from ..eigen import PREC, Spectral, spectral
from ..exact import Exact, real_form
from .draws import SMALL, wide

#: Verdicts are given beyond this multiple of a bar.
FACTOR = 10
#: Step of a derivative.
STEP = 130
Power = Callable[[Any], Any]


def scaled(X: np.ndarray, exponent: int) -> np.ndarray:
    """X 2^exponent."""
    X = np.ascontiguousarray(wide(X))
    half = exponent // 2
    with np.errstate(all="ignore"):
        return np.ldexp(np.ldexp(X.view(float), half), exponent - half).view(X.dtype)


def exponent_of(A: np.ndarray) -> int:
    largest = float(np.abs(np.ascontiguousarray(wide(A)).view(float)).max(initial=0))
    return int(np.frexp(largest)[1])


def lifted(A: np.ndarray) -> np.ndarray:
    m, n = A.shape
    return np.block([[np.zeros((m, m)), A], [A.conj().T, np.zeros((n, n))]])


@dataclass
class Known:
    """A matrix over 2^exponent, and what is known of it."""

    A: np.ndarray
    symmetric: bool = False

    @cached_property
    def exponent(self) -> int:
        return exponent_of(self.A)

    @cached_property
    def unit(self) -> np.ndarray:
        return scaled(self.A, -self.exponent)

    @cached_property
    def square(self) -> np.ndarray:
        return self.unit if self.symmetric else lifted(self.unit)

    @property
    def small(self) -> bool:
        return sum(self.A.shape) <= SMALL

    @cached_property
    def exact(self) -> Spectral:
        return spectral(Exact.of(real_form(self.square)))

    @cached_property
    def values(self) -> np.ndarray:
        """Eigenvalues, rising, or singular values, falling."""
        if not self.symmetric:
            if not self.small:
                return np.linalg.svd(self.unit, compute_uv=False)
            w = np.sort([float(x) for x in self.exact.w])[::-1]
            return np.maximum(w[:: 2 if self.A.dtype.kind == "c" else 1][: min(self.A.shape)], 0)
        if not self.small:
            return np.linalg.eigvalsh(self.unit)
        return np.sort([float(x) for x in self.exact.w])[:: 2 if self.A.dtype.kind == "c" else 1]

    def function(self, f: Power) -> np.ndarray:
        """U f(S) V^H for an odd f, or Q f(w) Q^H, in float64."""
        return self.block(floats(matrix(self.exact, f))) if self.small else self.by_lapack(f)

    def by_lapack(self, f: Power) -> np.ndarray:
        if self.symmetric:
            w, Q = np.linalg.eigh(self.unit)
            return (Q * [float(f(x)) for x in w]) @ Q.conj().T
        U, S, Vh = np.linalg.svd(self.unit, full_matrices=False)
        return (U * [float(f(x)) for x in S]) @ Vh

    def block(self, M: np.ndarray) -> np.ndarray:
        if self.A.dtype.kind == "c":
            n = len(M) // 2
            M = M[:n, :n] + 1j * M[n:, :n]
        return M if self.symmetric else M[: len(self.A), len(self.A) :]

    def derivative(self, E: np.ndarray, of: Callable[[Spectral], Exact]) -> np.ndarray:
        """The derivative of `of` in the direction of E, both of a matrix over 2^exponent."""
        D = (E + E.conj().T) / 2 if self.symmetric else lifted(E)
        A, D = (Exact.of(real_form(M)) for M in (self.square, D))
        D = Exact(D.m, D.e - STEP)
        gap = of(spectral(A + D)) - of(spectral(A - D))
        return self.block(floats(Exact(gap.m, gap.e + STEP - 1)))


def matrix(at: Spectral, f: Power) -> Exact:
    with mpmath.workprec(PREC):
        return at.matrix([mpmath.mpf(f(x)) for x in at.w])


def floats(X: Exact) -> np.ndarray:
    values, e = X.floats()
    return np.ldexp(values, max(min(e, 2000), -2000))


def odd(s: Fraction | float, cut: float = 0.0) -> Power:
    """sign(x) |x|^s, and 0 up to the cut."""

    def f(x: Any) -> Any:
        return 0 if abs(x) <= cut or x == 0 else mpmath.sign(x) * power(abs(x), s)

    return f


def power(x: Any, s: Fraction | float) -> Any:
    """x^s to the working precision, 0 for what is not positive."""
    with mpmath.workprec(PREC):
        t = mpmath.mpf(s.numerator) / s.denominator if isinstance(s, Fraction) else mpmath.mpf(s)
        return mpmath.mpf(x) ** t if x > 0 else mpmath.mpf(0)


def in_units(X: np.ndarray, exponent: int, s: Fraction | float) -> np.ndarray:
    """A result of the power s of 2^exponent, divided by it."""
    moved = Fraction(s) * exponent
    whole = round(moved)
    with np.errstate(all="ignore"):
        return np.asarray(scaled(X, -whole) * 2.0 ** float(whole - moved))


def lost(name: str, exponent: int, s: Fraction | float) -> float:
    """The smallest number of a dtype in the units of `in_units`: what underflow may have taken from every entry."""
    least = {"float16": -24, "bfloat16": -133, "float32": -149, "complex64": -149}.get(name, -1074)
    return 2.0 ** float(min(max(least - Fraction(s) * exponent, Fraction(-1074)), Fraction(1000)))

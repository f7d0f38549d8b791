"""Eigenvalues of a symmetric matrix to 120 digits: LAPACK's basis, made orthogonal, and Jacobi's rotations."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isqrt

import mpmath
import numpy as np

from .exact import Exact

#: Fixed point, relative to the largest entry.
F = 420
PREC = 240


@dataclass(frozen=True)
class Spectral:
    """A = Q diag(w) Q^T; the rows of Qt are the eigenvectors."""

    w: list[mpmath.mpf]
    Qt: np.ndarray

    def powers(self, s: Fraction | float, w: list[mpmath.mpf] | None = None) -> list[mpmath.mpf]:
        """w^s, and 0 for what is not positive."""
        with mpmath.workprec(PREC):
            exponent = mpmath.mpf(s.numerator) / s.denominator if isinstance(s, Fraction) else mpmath.mpf(s)
            return [x**exponent if x > 0 else mpmath.mpf(0) for x in (self.w if w is None else w)]

    def matrix(self, f: list[mpmath.mpf]) -> Exact:
        """Q diag(f) Q^T."""
        top = max((mpmath.mag(x) for x in f if x != 0), default=0)
        d = np.array([to_fixed(x, F - top) for x in f], dtype=object)
        return Exact((self.Qt.T * d) @ self.Qt >> F, top - 2 * F)

    @cached_property
    def top(self) -> mpmath.mpf:
        return max(map(abs, self.w))


def to_fixed(x: mpmath.mpf, bits: int) -> int:
    """x 2^bits, rounded down."""
    man, exp = x.man_exp
    man = -man if x < 0 and man > 0 else man
    return int(man) << (exp + bits) if exp + bits >= 0 else int(man) >> -(exp + bits)


def spectral(A: Exact) -> Spectral:
    """The eigenvalues of A, unordered, and its eigenvectors."""
    n = len(A.m)
    _, Q = np.linalg.eigh(A.floats()[0])
    Q, one = Exact.of(Q), 1 << F
    Q = Q.m << F + Q.e
    three = 3 * one * np.eye(n, dtype=int).astype(object)
    for _ in range(3):  # Newton-Schulz: 53 bits, 106, 212, 424
        Q = Q @ (three - (Q.T @ Q >> F)) >> F + 1
    if A.largest() == 0:
        return Spectral([mpmath.mpf(0)] * n, Q.T)
    fixed, e = A.fixed(F)
    B = [list(row) for row in (Q.T @ fixed >> F) @ Q >> F]
    rows = [list(row) for row in Q.T]
    for _ in range(12):
        pairs = [(i, j) for i in range(n) for j in range(i) if abs(B[i][j]) >> 30]
        if not pairs:
            break
        for i, j in pairs:
            rotate(B, rows, i, j)
    else:
        raise ArithmeticError("Jacobi's rotations did not end")
    with mpmath.workprec(F + 20):
        w = [mpmath.ldexp(mpmath.mpf(B[i][i]) if abs(B[i][i]) >> 40 else mpmath.mpf(0), e) for i in range(n)]
    return Spectral(w, np.array(rows, dtype=object).reshape(n, n))


def rotate(B: list[list[int]], rows: list[list[int]], i: int, j: int) -> None:
    """One rotation that makes B[i][j] zero."""
    d, e = B[j][j] - B[i][i], 2 * B[i][j]
    if e == 0:  # by a rotation before
        return
    t = (e << F) // (abs(d) + isqrt(d * d + e * e))
    t = t if d >= 0 else -t
    c = (1 << 2 * F) // isqrt((1 << 2 * F) + t * t)
    s = t * c >> F
    for row in B:
        row[i], row[j] = c * row[i] - s * row[j] >> F, s * row[i] + c * row[j] >> F
    for M in (B, rows):
        M[i], M[j] = (
            [c * x - s * y >> F for x, y in zip(M[i], M[j], strict=True)],
            [s * x + c * y >> F for x, y in zip(M[i], M[j], strict=True)],
        )

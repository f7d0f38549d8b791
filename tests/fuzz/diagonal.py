"""A^s and its derivative from eigenvectors; a Jordan block is taken apart by 2^-170 first, at 1,000 digits."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import mpmath
import numpy as np

from .exact import Exact

if TYPE_CHECKING:
    from .general import Factors

PREC = 3400
#: Of the bits, four times (m - 1) APART cancel in the derivative at a Jordan block of order m <= 5.
APART = 170
PROBES = 3


@dataclass(frozen=True)
class Complex:
    """re + i im."""

    re: Exact
    im: Exact

    def __matmul__(self, other: Complex) -> Complex:
        return Complex(self.re @ other.re - self.im @ other.im, self.re @ other.im + self.im @ other.re)

    def __mul__(self, other: Complex) -> Complex:
        return Complex(self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re)


@dataclass(frozen=True)
class Diagonal:
    """V diag(lambda) V^{-1} = A of these factors, times 2^scale."""

    factors: Factors
    scale: int
    is_real: bool

    @cached_property
    def eigenvalues(self) -> list[tuple[Fraction, Fraction]]:
        F = self.factors
        some = [(F.Tr[i, i], F.Ti[i, i]) for i in range(len(F.Tr))]
        return some if F.outer is None else some + [(re, -im) for re, im in some]

    def negative(self) -> bool:
        return any(im == 0 and re < 0 for re, im in self.eigenvalues)

    def near_negative(self, distance: float) -> bool:
        """Whether an eigenvalue is nearer to the negative axis than this share of the largest."""
        largest = max(float(re**2 + im**2) ** 0.5 for re, im in self.eigenvalues)
        return any(re < 0 and abs(float(im)) <= distance * largest for re, im in self.eigenvalues)

    def zero(self) -> bool:
        return (0, 0) in self.eigenvalues

    def defective_zero(self) -> bool:
        T = self.factors.Tr
        return rank(T @ T) < rank(T)

    @cached_property
    def vectors(self) -> tuple[Complex, Complex]:
        """V and V^{-1}."""
        F = self.factors
        m = len(F.S)
        with mpmath.workprec(PREC):
            T = [[mpmath.mpc(number(F.Tr[i, j]), number(F.Ti[i, j])) for j in range(m)] for i in range(m)]
            lam = self.apart[:m]
            V = [[mpmath.mpc(i == j) for j in range(m)] for i in range(m)]
            W = [[mpmath.mpc(i == j) for j in range(m)] for i in range(m)]
            for j in range(m):
                for i in range(j - 1, -1, -1):
                    V[i][j] = sum(T[i][k] * V[k][j] for k in range(i + 1, j + 1)) / (lam[j] - lam[i])
                    W[i][j] = -sum(V[i][k] * W[k][j] for k in range(i + 1, j)) - V[i][j]
            S, back = (real(np.vectorize(number, otypes=[object])(M)) for M in (F.S, inverse(F.S)))
            V, W = S @ fixed(V), fixed(W) @ back
            if F.outer is not None:
                V, W = doubled(V, W)
                S, back = (real(np.vectorize(number, otypes=[object])(M)) for M in (F.outer, inverse(F.outer)))
                V, W = S @ V, W @ back
        return V, W

    @cached_property
    def apart(self) -> list[mpmath.mpc]:
        """The eigenvalues, equal ones 2^-200 from each other."""
        with mpmath.workprec(PREC):
            seen: dict[tuple[Fraction, Fraction], int] = {}
            out = []
            for re, im in self.eigenvalues[: len(self.factors.Tr)]:
                k = seen[re, im] = seen.get((re, im), -1) + 1
                out.append(mpmath.mpc(number(re), number(im)) + mpmath.ldexp(k, -APART))
            return out if self.factors.outer is None else out + [mpmath.conj(x) for x in out]

    def values(self, s: Fraction | float) -> list[mpmath.mpc]:
        """lambda^s, and 0 of 0."""
        exponent = number(s) if isinstance(s, Fraction) else mpmath.mpf(s)
        zero = [x == (0, 0) for x in self.eigenvalues]
        return [
            mpmath.mpc(s == 0) if nothing else (mpmath.ldexp(1, self.scale) * x) ** exponent
            for x, nothing in zip(self.apart, zero, strict=True)
        ]

    def power(self, s: Fraction | float) -> Exact:
        """A^s, as a real matrix or in the real form of a complex one."""
        V, W = self.vectors
        with mpmath.workprec(PREC):
            D = fixed(np.diag(np.array(self.values(s), dtype=object)))
        return self.given(V @ D @ W)

    def given(self, X: Complex) -> Exact:
        """In the shape of A: the imaginary part of a real one is 0."""
        if self.is_real:
            return X.re
        e = min(X.re.e, X.im.e)
        re, im = X.re.m << (X.re.e - e), X.im.m << (X.im.e - e)
        return Exact(np.block([[re, -im], [im, re]]), e)

    def derivative(self, s: Fraction | float) -> tuple[float, int]:
        """Frobenius norm of E -> L(A, E), from the mean over PROBES random E: within a factor 2 nearly always."""
        V, W = self.vectors
        with mpmath.workprec(PREC):
            f, lam = self.values(s), [mpmath.ldexp(1, self.scale) * x for x in self.apart]
            exponent = number(s) if isinstance(s, Fraction) else mpmath.mpf(s)
            n = len(lam)
            G = fixed(
                [
                    [
                        (f[i] - f[j]) / (lam[i] - lam[j]) if lam[i] != lam[j] else exponent * f[i] / (lam[i] or 1)
                        for j in range(n)
                    ]
                    for i in range(n)
                ]
            )
        rng = np.random.default_rng(n)
        total, exponents = 0.0, []
        for _ in range(PROBES):
            E = Exact.of(rng.standard_normal((n, n)))
            L = V @ (G * (W @ Complex(E, Exact(0 * E.m, E.e)) @ V)) @ W
            size, e = self.given(L).norm()
            exponents.append((size, e))
        top = max(e for _, e in exponents)
        total = sum((size * 2.0 ** max(e - top, -500)) ** 2 for size, e in exponents) / PROBES
        return total**0.5, top


def rank(T: np.ndarray) -> int:
    """By elimination, in fractions."""
    M, found = T.copy(), 0
    for j in range(M.shape[1]):
        pivot = next((k for k in range(found, len(M)) if M[k, j]), None)
        if pivot is None:
            continue
        M[[found, pivot]] = M[[pivot, found]]
        for k in range(found + 1, len(M)):
            M[k] = M[k] - M[found] * (M[k, j] / M[found, j])
        found += 1
    return found


def inverse(S: np.ndarray) -> np.ndarray:
    """Gauss and Jordan, in fractions."""
    n = len(S)
    M = np.hstack([S, np.vectorize(Fraction, otypes=[object])(np.eye(n))])
    for i in range(n):
        pivot = next(k for k in range(i, n) if M[k, i])
        M[[i, pivot]] = M[[pivot, i]]
        M[i] = M[i] / M[i, i]
        for k in range(n):
            if k != i and M[k, i]:
                M[k] = M[k] - M[k, i] * M[i]
    return M[:, n:]


def number(x: Fraction) -> mpmath.mpf:
    return mpmath.mpf(x.numerator) / x.denominator


def real(M: np.ndarray) -> Complex:
    whole = exact(M)
    return Complex(whole, Exact(0 * whole.m, whole.e))


def fixed(M: list[list[mpmath.mpc]] | np.ndarray) -> Complex:
    M = np.array(M, dtype=object)
    return Complex(
        *(
            exact(np.vectorize(lambda x, p=part: getattr(mpmath.mpmathify(x), p), otypes=[object])(M))
            for part in ("real", "imag")
        )
    )


def exact(M: np.ndarray) -> Exact:
    """Of mpf numbers."""
    signed = [(-x.man if x < 0 and x.man > 0 else x.man, x.exp) for x in M.flat]
    e = min((exp for man, exp in signed if man), default=0)
    return Exact(
        np.array([int(man) << (exp - e) if man else 0 for man, exp in signed], dtype=object).reshape(M.shape), e
    ).cut()


def doubled(V: Complex, W: Complex) -> tuple[Complex, Complex]:
    """Eigenvectors of [[Re, -Im], [Im, Re]]: (v, -i v), and their conjugates."""
    re, im = V.re, V.im
    big = Complex(blocks([[re, re], [im, im]], [[1, 1], [1, 1]]), blocks([[im, im], [re, re]], [[1, -1], [-1, 1]]))
    re, im = Exact(W.re.m, W.re.e - 1), Exact(W.im.m, W.im.e - 1)
    small = Complex(blocks([[re, im], [re, im]], [[1, -1], [1, -1]]), blocks([[im, re], [im, re]], [[1, 1], [-1, -1]]))
    return big, small


def blocks(parts: list[list[Exact]], signs: list[list[int]]) -> Exact:
    e = min(p.e for row in parts for p in row)
    rows = [[s * (p.m << (p.e - e)) for p, s in zip(*pair, strict=True)] for pair in zip(parts, signs, strict=True)]
    return Exact(np.block(rows), e)

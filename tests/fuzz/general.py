"""General matrices A = S T S^{-1} without any rounding: S and T of fractions, T triangular, real or complex."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from table import EPS

from .case import Known, Matrix, numpy_dtype
from .diagonal import Diagonal, inverse
from .exact import Exact, computed_goal, identity, ratio, real_form, residual

DIGITS = {"float32": 24, "complex64": 24, "float64": 53, "complex128": 53}


@dataclass(frozen=True)
class Factors:
    """S (real) and T = Tr + i Ti, m x m; `outer` mixes the real form of a complex matrix once more."""

    S: np.ndarray
    Tr: np.ndarray
    Ti: np.ndarray
    outer: np.ndarray | None = None

    def matrix(self) -> np.ndarray:
        """A as an array of fractions; complex as (re, im)."""
        back = inverse(self.S)
        re, im = (self.S @ T @ back for T in (self.Tr, self.Ti))
        if self.outer is None:
            return np.array([re, im])
        return self.outer @ np.block([[re, -im], [im, re]]) @ inverse(self.outer)


def draw(rng: np.random.Generator, dtype: str) -> Matrix:
    """Draws until the dtype holds A exactly."""
    name = str(rng.choice([*KINDS]))
    while True:
        factors = KINDS[name](rng, dtype.startswith("complex"))
        A = factors.matrix()
        if dtype.startswith("float") and A.ndim == 3:
            A = A[0]
        if all(fits(x, DIGITS[dtype]) for x in A.flat):
            break
    values = A.astype(float) if A.ndim == 2 else A[0].astype(float) + 1j * A[1].astype(float)
    scale = int(rng.integers(-90, 90)) if rng.random() < 0.3 else 0
    a = (values * 2.0**scale).astype(numpy_dtype(dtype))
    return Matrix(a, name, partial(known, Diagonal(factors, scale, dtype.startswith("float")), a, EPS[dtype]))


def fits(x: Fraction, bits: int) -> bool:
    """Whether x is a float of so many bits, and not too small a one."""
    numerator, denominator = abs(x.numerator), x.denominator
    if denominator & (denominator - 1) or denominator.bit_length() > 100:
        return False
    return not numerator or (numerator // (numerator & -numerator)).bit_length() <= bits


def known(find: Diagonal, a: np.ndarray, eps: float, s: Fraction | float, rule: Any, ridge: float) -> Known:
    """A^s from the eigenvalues, the principal one; hopeless where there is none."""
    n = a.shape[-1]
    base = Known(None, np.inf, np.nan, np.nan, np.nan, bounded=False)  # beside the axis, a power jumps
    whole = isinstance(s, Fraction) and s.denominator == 1
    if find.negative() and not whole:
        return replace(base, hopeless="eigenvalue on the negative axis")
    if not whole and find.near_negative(8 * n * eps * np.linalg.cond(np.linalg.eig(a)[1])):
        return replace(base, unclear=True)  # rounding of the dtype takes it across, and the root jumps
    if find.zero() and not whole and s > 0:
        return replace(base, unclear=True)  # 0 is told from rounding for symmetric matrices alone
    if find.zero() and (s < 0 or (find.defective_zero() and not whole)):
        return replace(base, hopeless="no root of a singular matrix")
    A = Exact.of(real_form(a))
    X = find.power(s)
    if whole and s >= 0:  # no eigenvectors are needed, and at a Jordan block of 0 none tell
        X = A.power(int(s)) if s else identity(len(A.m))
    wanted = computed_goal(s)
    goal = None if wanted is None else find.power(wanted)
    if find.zero() and not s > 1:
        cond = (n * eps) ** (float(s) - 1)  # 0 moves by n eps at most
    else:
        cond = ratio(find.derivative(s), X.norm()) * ratio(A.norm(), (1.0, 0))
    if eps * cond > 10:
        return replace(base, hopeless="ill-conditioned")
    return replace(
        base,
        X=X,
        cond=n * cond,
        residual=lambda x: residual(A, Exact.of(real_form(x)), s, goal, identity(len(A.m))),
    )


# Kinds


def mixed(rng: np.random.Generator, m: int) -> np.ndarray:
    """Shears and a permutation, of determinant 1 or -1, or five times a rotation."""
    S = fractions(np.eye(m)[rng.permutation(m)])
    if m > 1 and rng.random() < 0.3:
        i, j = rng.choice(m, 2, replace=False)
        S[[i, j]] = np.array([[3, -4], [4, 3]], dtype=object) @ S[[i, j]]
        rest = [k for k in range(m) if k not in (i, j)]
        S[rest] = 5 * S[rest]
        return S
    for _ in range(int(rng.integers(0, 5)) if m > 1 else 0):
        i, j = rng.choice(m, 2, replace=False)
        S[i] = S[i] + int(rng.integers(-2, 3)) * S[j]
    return S


def triangular(rng: np.random.Generator, is_complex: bool, diagonal: list[tuple[Any, Any]], strength: int) -> Factors:
    """S T S^{-1}; for a real matrix with complex eigenvalues its real form."""
    m = len(diagonal)
    T = np.array([fractions(np.zeros((m, m)))] * 2)
    for i, (re, im) in enumerate(diagonal):
        T[0, i, i], T[1, i, i] = 25 * Fraction(re), 25 * Fraction(im)  # five times a rotation divides by 25
        for j in range(i + 1, m):
            T[0, i, j] = 25 * Fraction(int(rng.integers(-8, 9)) * strength, 8)
    outer = None
    if not is_complex and any(im for _, im in diagonal):
        outer = mixed(rng, 2 * m)
    return Factors(mixed(rng, m), T[0], T[1], outer)


def dyadic(rng: np.random.Generator, bits: int = 6) -> Fraction:
    return Fraction(int(rng.integers(1, 2**bits)), 2 ** int(rng.integers(0, bits)))


def distinct(rng, is_complex):
    m = int(rng.integers(1, 5))
    some = [(dyadic(rng), dyadic(rng) - 8 if is_complex else 0) for _ in range(m)]
    return triangular(rng, is_complex, some, int(2 ** rng.integers(0, 6)))


def pairs(rng, is_complex):
    """Complex eigenvalues; in a real matrix, conjugate pairs."""
    some = [(dyadic(rng) - 4, dyadic(rng)) for _ in range(int(rng.integers(1, 3)))]
    return triangular(rng, is_complex, some, int(2 ** rng.integers(0, 4)))


def jordan(rng, is_complex):
    m = int(rng.integers(2, 6))
    value = (dyadic(rng), dyadic(rng) if is_complex else 0)
    return triangular(rng, is_complex, [value] * m, 1)


def jordan_pairs(rng, is_complex):
    return triangular(rng, is_complex, [(dyadic(rng) - 2, dyadic(rng))] * 2, 1)


def close(rng, is_complex):
    """Eigenvalues that are nearly equal, in a matrix that is nearly defective."""
    gap = Fraction(1, 2 ** int(rng.integers(4, 40)))
    return triangular(rng, is_complex, [(1 + k * gap, 0) for k in range(int(rng.integers(2, 4)))], 1)


def near_axis(rng, is_complex):
    """Beside the negative axis, where the two sides differ."""
    angle = Fraction(1, 2 ** int(rng.integers(1, 45)))
    more = [(dyadic(rng), dyadic(rng))] if rng.random() < 0.3 else []
    return triangular(rng, is_complex, [(-1, angle), *more], int(rng.integers(0, 2)))


def negative(rng, is_complex):
    some = [(-dyadic(rng), 0), *((dyadic(rng), 0) for _ in range(int(rng.integers(0, 3))))]
    return triangular(rng, is_complex, some, 1)


def zero(rng, is_complex):
    """0 among the eigenvalues; twice, it has a Jordan block."""
    some = [(0, 0)] * int(rng.integers(1, 3)) + [(dyadic(rng), 0) for _ in range(int(rng.integers(0, 3)))]
    return triangular(rng, is_complex, some, 1)


def stochastic(rng, is_complex):
    """Ratings that only fall, of distinct survival; one state may stand twice, which makes two rows equal."""
    m = int(rng.integers(2, 5))
    M = fractions(np.zeros((m, m)))
    stay = sorted(rng.choice(np.arange(8, 63), m - 1, replace=False).tolist(), reverse=True)
    for i in range(m - 1):
        M[i, i] = Fraction(stay[i], 64)
        left = 64 - stay[i]
        for j in range(i + 1, m):
            part = int(rng.integers(0, left + 1)) if j + 1 < m else left
            M[i, j], left = Fraction(part, 64), left - part
    M[-1, -1] = Fraction(1)
    none = fractions(np.zeros((m, m)))
    if rng.random() < 0.5:
        return Factors(fractions(np.eye(m)), M, none)
    k = int(rng.integers(0, m))  # P = E M F, F E = I, and E with the null vector of F is S
    E, null = np.vstack([np.eye(m), np.eye(m)[k : k + 1]]), np.zeros((m + 1, 1))
    null[k], null[m] = 1, -1
    T = fractions(np.zeros((m + 1, m + 1)))
    T[:m, :m] = M
    return Factors(fractions(np.hstack([E, null])), T, 0 * T)


def fractions(A: np.ndarray) -> np.ndarray:
    return np.vectorize(Fraction, otypes=[object])(A)


KINDS = {f.__name__: f for f in (distinct, pairs, jordan, jordan_pairs, close, near_axis, negative, zero, stochastic)}

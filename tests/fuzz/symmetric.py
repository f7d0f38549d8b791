"""Symmetric and Hermitian matrices with eigenvalues of every kind; powers of the rounded input, in 120 digits."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import mpmath
import numpy as np
from table import EPS, conditioning

from matroot import Floor, PseudoInverse, gallery

from .case import DECADES, Known, Matrix, numpy_dtype
from .eigen import PREC, Spectral, spectral
from .exact import Exact, computed_goal, identity, real_form, residual


def draw(rng: np.random.Generator, n: int, dtype: str) -> Matrix:
    """A matrix of n rows in `dtype`, scaled anywhere in its range."""
    kind = str(rng.choice([*KINDS], p=[0.3 if k == "regular" else 0.7 / (len(KINDS) - 1) for k in KINDS]))
    A = KINDS[kind](rng, n, dtype)
    size = DECADES[dtype]
    decades = rng.uniform(-size, size) if rng.random() < 0.4 else 0.0
    decades = -307.0 - rng.uniform(0, 12) if dtype.endswith(("64", "128")) and rng.random() < 0.03 else decades
    with np.errstate(all="ignore"):
        scaled = (A * 10.0 ** (decades / 2) * 10.0 ** (decades / 2)).astype(numpy_dtype(dtype))
    A = scaled if np.isfinite(scaled).all() else A.astype(numpy_dtype(dtype))
    return Matrix(A, kind, partial(known, cached(A), EPS[dtype]))


def with_eigenvalues(rng: np.random.Generator, w: np.ndarray, dtype: str) -> np.ndarray:
    Q = gallery.orthogonal(len(w), dtype=complex if dtype.startswith("complex") else float, rng=rng)
    A = (Q * w) @ Q.conj().T
    return (A + A.conj().T) / 2


def regular(rng, n, dtype):
    spectrum = str(rng.choice(["geometric", "two_cluster", "power_law", "arithmetic"]))
    cond = 10 ** rng.uniform(0, 1.2 * -np.log10(EPS[dtype])) if n > 1 else 1.0
    return with_eigenvalues(rng, gallery.eigenvalues(n, cond, spectrum), dtype)


def tail(rng, n, dtype):
    """Some eigenvalues at the level of rounding, of either sign."""
    w = rng.uniform(0.1, 1, n)
    small = rng.random(n) < 0.5
    return with_eigenvalues(rng, np.where(small, w * EPS[dtype] * 10 ** rng.uniform(-3, 4), w), dtype)


def cluster(rng, n, dtype):
    w = 10 ** rng.uniform(-6, 0, 2)[rng.integers(0, 2, n)] * (1 + 10 ** rng.uniform(-16, -2) * rng.standard_normal(n))
    return with_eigenvalues(rng, w, dtype)


def indefinite(rng, n, dtype):
    w = rng.uniform(0.1, 1, n)
    w[0] = -(10 ** rng.uniform(np.log10(EPS[dtype]) - 1, 0))
    return with_eigenvalues(rng, w, dtype)


def singular(rng, n, dtype):
    """Gram matrices of few small integers: singular to the last bit."""
    G = rng.integers(-3, 4, (n, max(1, n - 1))).astype(float)
    if dtype.startswith("complex"):
        G = G + 1j * rng.integers(-3, 4, G.shape)
    return G @ G.conj().T


def outer(rng, n, dtype):
    v = 1 / rng.integers(1, 30, n)
    return np.outer(v, v).astype(numpy_dtype(dtype)).astype(complex).real


def laplacian(rng, n, dtype):
    return n * np.eye(n) - np.ones((n, n))


def graded(rng, n, dtype):
    return np.diag(10 ** rng.uniform(-0.3 * DECADES[dtype], 0, n).clip(-60))


def classic(rng, n, dtype):
    make = (gallery.hilbert, gallery.kms, gallery.lehmer, gallery.pascal)[rng.integers(4)]
    return np.asarray(make(n), float)


def constant(rng, n, dtype):
    return np.eye(n) * rng.choice([0.0, 1.0, 3.0, -1.0], p=[0.3, 0.3, 0.3, 0.1])


KINDS = {
    f.__name__: f for f in (regular, tail, cluster, indefinite, singular, outer, laplacian, graded, classic, constant)
}


class cached:  # noqa: N801
    """The spectrum of a matrix, found when it is first asked for."""

    def __init__(self, A: np.ndarray):
        self.A = A
        self.found: tuple[Exact, Spectral] | None = None

    def __call__(self) -> tuple[Exact, Spectral]:
        if self.found is None:
            wide = np.complex128 if self.A.dtype.kind == "c" else np.float64
            A = Exact.of(real_form(self.A.astype(wide)))
            self.found = A, spectral(A)
        return self.found


@mpmath.workprec(PREC)
def known(find: cached, eps: float, s: Fraction | float, rule: Any, ridge: float) -> Known:
    """The power of A after a rule, and its residual."""
    A, spectrum = find()
    n, top = find.A.shape[-1], spectrum.top
    w = spectrum.w
    share = float(min(w) / top) if top else 0.0
    unclear = rule is not None and 0 < top < 1e-292  # a ridge that is told as a subnormal number is rounded
    if isinstance(rule, Floor):
        w = [max(x, rule.relative * max(w)) for x in w]
    elif isinstance(rule, PseudoInverse):
        cut = n * 2 * eps if rule.rtol is None else rule.rtol
        unclear = any(abs(x / top - cut) < 0.9 * cut + 10 * n * eps for x in w if top)
        w = [x if x > cut * top else 0 * x for x in w]
    else:
        w = [x + ridge for x in w]
    null = isinstance(rule, PseudoInverse)
    used = [x for x in w if x > 0] if null else w
    largest = max(map(abs, w))
    kappa = float(largest / min(used)) if used and min(used) > 0 else np.inf
    base = Known(None, np.inf, kappa, share, float(top), unclear=unclear)
    whole = isinstance(s, Fraction) and s.denominator == 1 and s >= 0
    if rule is None and not whole and share < -10 * n * eps:
        return replace(base, hopeless="indefinite")
    if s < 0 and kappa * eps * abs(float(s)) > 0.1 and not null:
        return replace(base, hopeless="singular or ill-conditioned")
    if whole and not null:
        f = [x ** int(s) for x in w]
    else:
        f = spectrum.powers(s, w)
    changed = spectrum.matrix(w) if rule is not None else A
    kept = spectrum.matrix([x**0 if x > 0 else 0 * x for x in w]) if null else identity(len(A.m))
    wanted = computed_goal(s)
    goal = None if wanted is None else spectrum.matrix(spectrum.powers(wanted, w))
    X = spectrum.matrix(f)

    def true_residual(x: np.ndarray) -> float:
        return residual(changed, Exact.of(real_form(x)), s, goal, kept)

    excess = max(1.0, float(top / largest)) if largest else 1.0
    cond = conditioning(kappa, s)
    if null and used and len(used) < n and s < 1:  # whatever s, it jumps from 0 between what is dropped and kept
        low = min(used)
        gap = low - max(x for x in spectrum.w if x < low)
        cond = max(cond, float(low / gap) * kappa ** (1.0 if s < 0 else 1 - float(s)))
    return replace(base, X=X, cond=cond, excess=excess, residual=true_residual)

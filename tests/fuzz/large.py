"""Large matrices of every layout, alone and in mixed batches; references by LAPACK in float64.

A decomposition in float64 is exact beside float32, and beside float64 as good as the bars, which are of its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

import mpmath
import numpy as np
from table import EPS, conditioning

from matroot import Floor, PseudoInverse, gallery

from .case import DECADES, Case, Known, Matrix, numpy_dtype
from .draw import rules

DTYPES = ("float64", "float32", "complex128", "complex64")
METHODS = ("auto", "tridiagonal", "eigen", "minimax", "coupled_newton")


def draw(seed: int, index: int) -> Case:
    """The case of this seed and index, whatever was drawn before."""
    rng = np.random.default_rng([11, seed, index])
    dtype = DTYPES[rng.choice(4, p=[0.35, 0.35, 0.15, 0.15])]
    n = int(rng.choice([rng.integers(33, 65), rng.integers(65, 130), rng.integers(130, 260)], p=[0.3, 0.5, 0.2]))
    B = int(rng.choice([0, 1, 2, 3, 5, 9], p=[0.45, 0.1, 0.15, 0.1, 0.1, 0.1])) if n < 130 else int(rng.integers(0, 3))
    sign = int(rng.choice([-1, 1], p=[0.65, 0.35]))
    s: Fraction | float = sign * Fraction(1, int(rng.integers(1, 9)))
    if rng.random() < 0.2:
        s = sign * (Fraction(int(rng.integers(2, 5)), int(rng.integers(3, 8))) if rng.random() < 0.7 else rng.random())
    rtol = float(10 ** -rng.uniform(1, 7)) if rng.random() < 0.5 else None
    options = {"regularization": rule(rng, EPS[dtype]), "rtol": rtol, "method": "auto"}
    if rng.random() < 0.25:
        options["method"] = named(rng, s, options["regularization"])
    if rng.random() < 0.1 and options["method"] != "tridiagonal":
        options["compute_dtype"] = "float32"
    kinds = [kind for kind in KINDS if B or kind != "uneven"]  # alone, that is an error
    some = [matrix(rng, n, dtype, abs(float(s)), str(rng.choice(kinds))) for _ in range(max(B, 1))]
    layout = str(rng.choice([*LAYOUTS]))
    return Laid(some, (B,) if B else (), dtype, s, options, layout)


def named(rng: np.random.Generator, s: Fraction | float, chosen: Any) -> str:
    """A method that serves the exponent and the rule."""
    if not isinstance(s, Fraction):
        return "eigen"
    method = str(rng.choice(METHODS[1:3] if isinstance(chosen, Floor | PseudoInverse) else METHODS[1:]))
    return "eigen" if method == "tridiagonal" and abs(s) > 1 else method


def rule(rng: np.random.Generator, eps: float) -> Any:
    if rng.random() < 0.5:
        return None
    return rules(float(10 ** rng.uniform(np.log10(eps), -1)))[rng.integers(6)]


@dataclass(frozen=True)
class Laid(Case):
    """A case whose array lies in memory in one of several ways."""

    layout: str = "C"

    @property
    def a(self) -> np.ndarray:
        return LAYOUTS[self.layout](super().a)

    def __str__(self) -> str:
        return f"{super().__str__()} {self.layout}"


def strided(a: np.ndarray) -> np.ndarray:
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def frozen(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a


def unaligned(a: np.ndarray) -> np.ndarray:
    room = np.empty(a.nbytes + 1, np.uint8)
    moved = room[1:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": lambda a: a,
    "F": np.asfortranarray,
    "strided": strided,
    "backwards": lambda a: np.ascontiguousarray(a[..., ::-1, ::-1])[..., ::-1, ::-1],
    "read-only": frozen,
    "unaligned": unaligned,
    "other bytes": lambda a: a.astype(a.dtype.newbyteorder()),
}


def matrix(rng: np.random.Generator, n: int, dtype: str, size: float, kind: str) -> Matrix:
    """A matrix in `dtype`, scaled so that its powers up to `size` stay in range."""
    A = KINDS[kind](rng, n, dtype)
    most = DECADES[dtype] * 0.8 / max(1.0, size)
    exponent = int(3.3 * rng.uniform(-most, most)) if rng.random() < 0.3 else 0
    with np.errstate(all="ignore"):
        A = np.ldexp(A.real, exponent) + (1j * np.ldexp(A.imag, exponent) if A.dtype.kind == "c" else 0)
        A = A.astype(numpy_dtype(dtype))
    return Matrix(A, kind, partial(known, Spectrum(A), EPS[dtype]))


def with_eigenvalues(rng: np.random.Generator, w: np.ndarray, dtype: str) -> np.ndarray:
    Q = gallery.orthogonal(len(w), dtype=complex if dtype.startswith("complex") else float, rng=rng)
    A = (Q * w) @ Q.conj().T
    return (A + A.conj().T) / 2 if rng.random() < 0.5 else A  # the other half of them as products leave them


def spectrum(rng: np.random.Generator, n: int, dtype: str) -> np.ndarray:
    cond = 10 ** rng.uniform(0, 1.2 * -np.log10(EPS[dtype]))
    return gallery.eigenvalues(n, cond, str(rng.choice(["geometric", "two_cluster", "power_law", "arithmetic"])))


def regular(rng, n, dtype):
    return with_eigenvalues(rng, spectrum(rng, n, dtype), dtype)


def tail(rng, n, dtype):
    """Some eigenvalues at the level of rounding, of either sign."""
    w = rng.uniform(0.1, 1, n)
    small = rng.random(n) < rng.random()
    return with_eigenvalues(rng, np.where(small, w * EPS[dtype] * 10 ** rng.uniform(-3, 5), w), dtype)


def cluster(rng, n, dtype):
    k = int(rng.integers(2, 4))
    w = 10 ** rng.uniform(np.log10(EPS[dtype]), 0, k)[rng.integers(0, k, n)]
    return with_eigenvalues(rng, w * (1 + 10 ** rng.uniform(-16, -2) * rng.standard_normal(n)), dtype)


def outlier(rng, n, dtype):
    """One eigenvalue far from all the others."""
    w = rng.uniform(0.5, 1, n)
    w[0] = 10 ** (rng.choice([-1, 1]) * rng.uniform(0, -np.log10(EPS[dtype])))
    return with_eigenvalues(rng, w, dtype)


def indefinite(rng, n, dtype):
    w = rng.uniform(0.1, 1, n)
    w[: rng.integers(1, n)] *= -(10 ** rng.uniform(np.log10(EPS[dtype]) - 1, 0))
    return with_eigenvalues(rng, w, dtype)


def samples(rng, n, dtype):
    """The covariance of few samples, or of many."""
    G = rng.standard_normal((n, int(rng.integers(1, 2 * n))))
    if dtype.startswith("complex"):
        G = G + 1j * rng.standard_normal(G.shape)
    return G @ G.conj().T / G.shape[1]


def blocks(rng, n, dtype):
    """Blocks on the diagonal, in any order."""
    A, i = np.zeros((n, n), complex if dtype.startswith("complex") else float), 0
    w = spectrum(rng, n, dtype)
    rng.shuffle(w)
    while i < n:
        k = min(int(rng.integers(1, 9)), n - i)
        A[i : i + k, i : i + k] = with_eigenvalues(rng, w[i : i + k], dtype)
        i += k
    if rng.random() < 0.5:
        order = rng.permutation(n)
        A = A[order][:, order]
    return A


def diagonal(rng, n, dtype):
    w = spectrum(rng, n, dtype)
    rng.shuffle(w)
    w[rng.random(n) < 0.1 * rng.integers(0, 2)] = 0
    return np.diag(w)


def tridiagonal(rng, n, dtype):
    """The second difference, graded, or with some couplings cut."""
    e = -np.ones(n - 1)
    e[rng.random(n - 1) < 0.3 * rng.integers(0, 2)] = 0
    A = 2.0 * np.eye(n) + np.diag(e, 1) + np.diag(e, -1)
    D = np.diag(10 ** np.linspace(0, -rng.uniform(0, 3), n))
    return D @ A @ D


def constant(rng, n, dtype):
    J = np.ones((n, n))
    return (np.eye(n), J, n * np.eye(n) - J, np.eye(n) + J, 0 * J, -np.eye(n))[rng.integers(6)]


def arrow(rng, n, dtype):
    """A diagonal with one full row and column."""
    A = np.diag(rng.uniform(1, 2, n))
    A[0, 1:] = A[1:, 0] = 10 ** rng.uniform(-8, 0) * rng.standard_normal(n - 1) / n**0.5
    return A


def kernel(rng, n, dtype):
    x = np.sort(rng.uniform(0, 10 ** rng.uniform(0, 3), n))
    A = np.exp(-(np.subtract.outer(x, x) ** 2)) if rng.random() < 0.5 else np.exp(-abs(np.subtract.outer(x, x)))
    return A + 10 ** rng.uniform(np.log10(EPS[dtype]) - 1, 0) * np.eye(n)


def broken(rng, n, dtype):
    """NaN or infinity somewhere."""
    A = np.eye(n)
    i, j = rng.integers(0, n, 2)
    A[i, j] = A[j, i] = rng.choice([np.nan, np.inf, -np.inf])
    return A


def uneven(rng, n, dtype):
    """Far from symmetric in one entry."""
    A = regular(rng, n, dtype)
    i = int(rng.integers(1, n))
    A[i, rng.integers(0, i)] += rng.choice([1.0, -1.0, 1e3])
    return A


KINDS = {
    f.__name__: f
    for f in (
        regular, tail, cluster, outlier, indefinite, samples, blocks, diagonal, tridiagonal, constant, arrow, kernel,
        broken, uneven,
    )
}  # fmt: skip


@dataclass
class Spectrum:
    """Eigenvalues and vectors of a matrix divided by 2^exponent, found when first asked for."""

    A: np.ndarray

    @cached_property
    def exponent(self) -> int:
        return int(np.frexp(float(abs(self.A).max()))[1])

    @cached_property
    def scaled(self) -> np.ndarray:
        wide = np.ascontiguousarray(self.A, np.result_type(self.A, np.float64))
        parts = np.ldexp(wide.view(float), -self.exponent)
        return parts.view(wide.dtype)

    @cached_property
    def eigen(self) -> tuple[np.ndarray, np.ndarray]:
        w, Q = np.linalg.eigh(self.scaled)
        return w, Q


def known(find: Spectrum, eps: float, s: Fraction | float, rule: Any, ridge: float) -> Known:
    """The power of A after a rule, and its residual in float64."""
    A = find.A
    n = len(A)
    if not np.isfinite(A).all():
        return Known(None, np.inf, np.inf, 0.0, np.inf, hopeless="not finite")
    if abs(A - A.conj().T).max() > 1e-2 * abs(A).max():
        return Known(None, np.inf, np.inf, 0.0, np.inf, hopeless="not symmetric")
    w, Q = find.eigen
    unit = np.ldexp(1.0, find.exponent)
    top = float(abs(w).max())
    share = float(w[0] / top) if top else 0.0
    noise, unclear = 4 * n * EPS["float64"], False
    before = w
    if isinstance(rule, Floor):
        w = np.maximum(w, rule.relative * w[-1])
    elif isinstance(rule, PseudoInverse):
        cut = n * 2 * eps if rule.rtol is None else rule.rtol
        unclear = bool((abs(w / top - cut) < 0.9 * cut + 10 * n * eps).any()) if top else False
        w = np.where(w > cut * top, w, 0)
    else:
        w = w + ridge / unit
    null = isinstance(rule, PseudoInverse)
    used = w[w > 0] if null else w
    largest = float(abs(w).max())
    kappa = float(largest / used.min()) if used.size and used.min() > 0 else np.inf
    base = Known(None, np.inf, kappa, share, top * float(unit), unclear=unclear)
    if rule is None and s != 1 and share < -10 * n * eps:
        return replace(base, hopeless="indefinite")
    if s < 0 and not null and kappa * eps * abs(float(s)) > 0.1:
        return replace(base, hopeless="singular or ill-conditioned")
    if s < 0 and not null and kappa * noise > 1:
        return replace(base, unclear=True)
    with np.errstate(all="ignore"):
        f = w if s == 1 else np.where(w > 0, np.where(w > 0, w, 1) ** float(s), 0)
    with mpmath.workdps(30):
        t = mpmath.mpf(s.numerator) / s.denominator if isinstance(s, Fraction) else mpmath.mpf(s)
        size = float(mpmath.mpf(2) ** (find.exponent * t))
    X = (Q * f) @ Q.conj().T * size
    kept = (Q * (w > 0)) @ Q.conj().T if null else np.eye(n)
    changed = (Q * w) @ Q.conj().T if rule is not None else find.scaled

    def true_residual(x: np.ndarray) -> float:
        a, b = (abs(s.numerator), s.denominator) if isinstance(s, Fraction) else (0, 1)
        R = np.linalg.matrix_power(x / size, b)
        if isinstance(s, Fraction) and s.numerator == -1:
            return float(np.linalg.norm(R @ changed - kept) / n**0.5)
        goal = np.linalg.matrix_power(changed, a) if a and s > 0 else X / size
        if a and s < 0:
            goal = (Q * np.where(w > 0, np.where(w > 0, w, 1) ** -float(a), 0)) @ Q.conj().T
        return float(np.linalg.norm(R - goal) / np.linalg.norm(goal))

    excess = max(1.0, top / largest) if largest else 1.0
    cond = conditioning(kappa, s)
    if null and used.size and len(used) < n and s < 1:
        low = float(used.min())
        gap = low - float(before[before < low].max())
        cond = max(cond, low / gap * kappa ** (1.0 if s < 0 else 1 - float(s)))
    return replace(base, X=X, cond=cond, excess=excess, residual=true_residual if X.any() else None)

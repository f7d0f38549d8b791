"""Matrices, m x n or symmetric, of every kind and scale, in every dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from table import EPS

from matroot import gallery

from ..case import DECADES, numpy_dtype

DTYPES = ("float64", "float32", "complex128", "complex64", "float16", "bfloat16")
BATCHES = ((), (0,), (1,), (2,), (3,), (2, 2), (5,), (2, 0))
#: Up to this m + n references have 120 digits.
SMALL = 9


def dtype_of(rng: np.random.Generator) -> str:
    return str(rng.choice(DTYPES, p=[0.4, 0.24, 0.12, 0.08, 0.08, 0.08]))


def batch_of(rng: np.random.Generator) -> tuple[int, ...]:
    return BATCHES[rng.choice(8, p=[0.5, 0.03, 0.07, 0.12, 0.1, 0.08, 0.07, 0.03])]


def shape_of(rng: np.random.Generator) -> tuple[int, int]:
    u = rng.random()
    if u < 0.6:
        m, n = rng.integers(1, 5, 2)
    elif u < 0.95:
        m, n = rng.integers(1, 41, 2)
    else:
        m, n = rng.integers(33, 100, 2)
    return (int(m), int(m)) if rng.random() < 0.3 else (int(m), int(n))


def orthonormal(rng: np.random.Generator, m: int, k: int, dtype: str) -> np.ndarray:
    return gallery.orthogonal(m, dtype=complex if dtype.startswith("complex") else float, rng=rng)[:, :k]


def values(rng: np.random.Generator, k: int, dtype: str) -> np.ndarray:
    """Singular values or eigenvalues: geometric, clustered, equal, at the level of rounding, or zero."""
    eps = EPS[dtype]
    kind = rng.integers(6)
    if kind == 0:
        return np.geomspace(1, 10 ** -rng.uniform(0, 1.2 * -np.log10(eps)), k)
    if kind == 1:
        few = 10 ** rng.uniform(np.log10(eps), 0, 2)
        return few[rng.integers(0, 2, k)] * (1 + 10 ** rng.uniform(-16, -2) * rng.standard_normal(k))
    if kind == 2:
        return np.ones(k)
    w = rng.uniform(0.1, 1, k)
    some = rng.random(k) < 0.5
    if kind == 3:
        return np.where(some, w * eps * 10 ** rng.uniform(-3, 4), w)
    return np.where(some, 0, w) if kind == 4 else w


def rectangular(rng: np.random.Generator, m: int, n: int, dtype: str) -> np.ndarray:
    kind, k = rng.random(), min(m, n)
    if kind < 0.6:
        A = (orthonormal(rng, m, k, dtype) * values(rng, k, dtype)) @ orthonormal(rng, n, k, dtype).conj().T
    elif kind < 0.75:
        A = rng.integers(-2, 3, (m, n)).astype(float)
    elif kind < 0.85:
        A = np.zeros((m, n))
        A[np.arange(k), rng.permutation(n)[:k]] = values(rng, k, dtype)
    elif kind < 0.93:
        A = rng.standard_normal((m, n)) * 10 ** rng.uniform(-6, 0, (m, 1))
    else:
        A = (np.zeros((m, n)), np.ones((m, n)), np.eye(m, n), -np.eye(m, n))[rng.integers(4)]
    return typed(rng, A, dtype)


def symmetric(rng: np.random.Generator, n: int, dtype: str, indefinite: float = 0.1) -> np.ndarray:
    kind = rng.random()
    if kind < 0.65:
        w = values(rng, n, dtype)
        if rng.random() < indefinite:
            w = w * rng.choice([-1, 1], n)
        Q = orthonormal(rng, n, n, dtype)
        A = (Q * w) @ Q.conj().T
    elif kind < 0.8:
        G = rng.integers(-2, 3, (n, int(rng.integers(1, 2 * n + 1))))
        A = (G @ G.T).astype(float)
    elif kind < 0.9:
        A = np.diag(values(rng, n, dtype)[rng.permutation(n)])
    else:
        J = np.ones((n, n))
        A = (np.eye(n), J, n * np.eye(n) - J, 0 * J, np.eye(n) + J)[rng.integers(5)]
    A = typed(rng, (A + A.conj().T) / 2, dtype)
    return A


def scale_of(rng: np.random.Generator, dtype: str) -> float:
    """A power of ten, moderate for most matrices."""
    return float(rng.uniform(-1, 1) * DECADES[dtype] if rng.random() < 0.4 else 0)


def typed(rng: np.random.Generator, A: np.ndarray, dtype: str) -> np.ndarray:
    """Scaled, rounded, and now and then not finite."""
    decades = scale_of(rng, dtype)
    with np.errstate(all="ignore"):
        A = A * 10 ** (decades / 2) * 10 ** (decades / 2)
        A = A.astype(numpy_dtype(dtype))
    if A.size and rng.random() < 0.03:
        i, j = int(rng.integers(len(A))), int(rng.integers(A.shape[1]))
        A[i, j] = rng.choice([np.nan, np.inf, -np.inf])
        if len(A) == A.shape[1]:
            A[j, i] = A[i, j]
    return A


def wide(A: np.ndarray) -> np.ndarray:
    return A.astype(complex if A.dtype.kind == "c" else float)


def text_of(**options: Any) -> str:
    return " ".join(f"{k}={v}" for k, v in options.items() if v is not None)

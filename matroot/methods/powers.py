"""Whole powers, and positive powers by way of the inverse root."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from matroot.engines.cpu import hermitian_part
from matroot.methods.base import Array, Raw
from matroot.methods.iteration import add_to_diagonal
from matroot.result import Status


def power(A: Array, k: int, engine: Any) -> Array:
    """A^k as a new stack, by `power_products(k)` products."""
    X = A.copy()
    if k == 0:
        X *= 0
        add_to_diagonal(X, 1)
    for bit in bin(k)[3:]:
        X = engine.matmul(X, X)
        if bit == "1":
            X = engine.matmul(X, A)
    return X


def power_products(k: int) -> int:
    """Products that `power` issues."""
    return k.bit_length() + k.bit_count() - 2 if k else 0


def positive_power(A: Array, s: Fraction, inverse_root: Callable[[Array], Raw], engine: Any) -> Raw:
    """A^s, s >= 0, from ``inverse_root(A)`` = A^(-1/p), which may overwrite A: A^k (A^(-1/p))^(-r), s = k + r/p.

    A^(k + 1) A^(s - k - 1) needs no inverse, and loses a digit more.
    """
    xp, n = engine.xp, A.shape[-1]
    k = math.floor(s)
    r = (s - k).numerator
    whole = power(A, k, engine) if k or s == 0 else None
    if r == 0:
        return Raw(whole, xp.zeros(len(A), xp.int8), np.zeros(len(A), np.int64), power_products(k))
    raw = inverse_root(A)
    usable = xp.asarray(raw.status) == int(Status.CONVERGED)
    safe = xp.where(usable[:, None, None], raw.x, xp.eye(n, dtype=A.dtype))
    raw.x = power(xp.linalg.inv(hermitian_part(safe)), r, engine)
    raw.n_products += 1 + power_products(r)
    if whole is not None:
        raw.x = engine.matmul(whole, raw.x)
        raw.n_products += 1 + power_products(k)
    return raw

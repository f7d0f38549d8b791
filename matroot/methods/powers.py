"""Integer powers, and positive powers from the inverse root."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from matroot._result import Status
from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal, hermitian_part
from matroot.methods.base import Array, Raw


def power(A: Array, k: int, backend: Backend) -> Array:
    """Compute A^k as a new stack, by `power_products(k)` products."""
    X = A.copy()
    if k == 0:
        X *= 0
        add_to_diagonal(X, 1)
    for bit in bin(k)[3:]:
        X = backend.matmul(X, X)
        if bit == "1":
            X = backend.matmul(X, A)
    return X


def power_products(k: int) -> int:
    """Return the number of products that `power` issues."""
    return k.bit_length() + k.bit_count() - 2 if k else 0


def positive_power(A: Array, s: Fraction, inverse_root: Callable[[Array], Raw], backend: Backend) -> Raw:
    """Compute A^s, s >= 0, from Z = ``inverse_root(A)`` = A^(-1/p); `inverse_root` may overwrite A.

    With k the integer part of s and h = ceil(k / 2), the result is A^h A^(s - 2h) A^h. The powers on both sides damp
    the errors of Z in the directions of the small eigenvalues. The factor in the middle is a power of Z for odd k, and
    of its inverse for even k.
    """
    xp, n = backend.xp, A.shape[-1]
    k, p = math.floor(s), s.denominator
    if p == 1:
        whole = power(A, k, backend)
        return Raw(whole, xp.zeros(len(A), xp.int8), np.zeros(len(A), np.int64), power_products(k))
    odd, h = k % 2 == 1, (k + 1) // 2
    side = power(A, h, backend) if h else None
    raw = inverse_root(A)
    usable = xp.asarray(raw.status) == int(Status.CONVERGED)
    middle = hermitian_part(xp.where(usable[:, None, None], raw.x, xp.eye(n, dtype=A.dtype)))
    r = ((s - k) if not odd else (k + 1 - s)).numerator
    raw.x = power(middle if odd else xp.linalg.inv(middle), r, backend)
    raw.n_products += power_products(r) + (0 if odd else 1)
    if side is not None:
        raw.x = backend.matmul(backend.matmul(side, raw.x), side)
        raw.n_products += power_products(h) + 2
    return raw

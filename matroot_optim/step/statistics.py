"""Stage 1: the statistics of every preconditioned dimension, packed.

A statistic is symmetric, so only its lower triangle is kept: n (n + 1) / 2 numbers. One gather extracts the triangles
of a whole stack of blocks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, by_numpy, is_cupy, is_jax, is_torch, lerp, like, namespace, to_host


def packed_size(n: int) -> int:
    """Return the number of entries in the packed form of a symmetric n x n matrix."""
    return n * (n + 1) // 2


@lru_cache(maxsize=64)
def _lower(n: int) -> Any:
    """Return the flat indices of the lower triangle, row by row."""
    rows, columns = np.tril_indices(n)
    return rows * n + columns


@lru_cache(maxsize=64)
def _full(n: int) -> Any:
    """Return the index in the packed form of every entry of the full matrix."""
    i, j = np.indices((n, n))
    low, high = np.minimum(i, j), np.maximum(i, j)
    return (high * (high + 1) // 2 + low).ravel()


_INDEX = {"lower": _lower, "full": _full}


@lru_cache(maxsize=64)
def _on_torch(kind: str, n: int, device: str) -> Any:
    return sys.modules["torch"].from_numpy(_INDEX[kind](n)).to(device)


@lru_cache(maxsize=64)
def _on_cupy(kind: str, n: int, device: int) -> Any:
    index = sys.modules["cupy"].asarray(_INDEX[kind](n))
    index.device.synchronize()  # once, because the next use may be on another stream
    return index


def _take(x: Array, kind: str, n: int) -> Array:
    if isinstance(x, np.ndarray):
        return x.take(_INDEX[kind](n), axis=-1)
    if is_torch(x):
        return x.index_select(x.ndim - 1, _on_torch(kind, n, str(x.device)))
    if is_cupy(x):
        return namespace(x).take(x, _on_cupy(kind, n, x.device.id), axis=-1)
    index = _INDEX[kind](n)
    return x[..., index] if is_jax(x) else namespace(x).take(x, like(index, x), axis=-1)


def pack(A: Array) -> Array:
    """Return the lower triangles (..., n (n + 1) / 2) of symmetric matrices (..., n, n).

    >>> pack(np.array([[1.0, 2.0], [2.0, 5.0]]))
    array([1., 2., 5.])
    """
    n = A.shape[-1]
    return _take(A.reshape((*A.shape[:-2], n * n)), "lower", n)


def unpack(packed: Array) -> Array:
    """Return symmetric matrices (..., n, n) from their packed form."""
    n = order_of(packed.shape[-1])
    return _take(packed, "full", n).reshape((*packed.shape[:-1], n, n))


def order_of(size: int) -> int:
    """Return n of a packed size n (n + 1) / 2."""
    return (math.isqrt(8 * size + 1) - 1) // 2


def unfold(G: Array, axis: int, xp: Any) -> Array:
    """Unfold stacked blocks along one of their dimensions, to (blocks, n, rest)."""
    n = G.shape[axis + 1]
    if G.ndim == 3:
        return G if axis == 0 else xp.matrix_transpose(G)
    order = (0, axis + 1, *(i for i in range(1, G.ndim) if i != axis + 1))
    rest = math.prod(G.shape[1:]) // n if n else 0
    return xp.permute_dims(G, order).reshape((G.shape[0], n, rest))


def gram(G: Array, axis: int, xp: Any) -> Array:
    """Compute the packed G_(i) G_(i)^T of the unfolding of every block of a stack.

    numpy sees that a matrix is multiplied by its own transpose, and does half of the work.
    """
    if by_numpy(G):
        return like(gram(to_host(G.contiguous()), axis, np), G)
    U = unfold(G, axis, xp)
    return pack(xp.matmul(U, xp.matrix_transpose(U)))


def grams(blocks: Sequence[Array], axis: int, xp: Any) -> Array:
    """Compute `gram` of several stacks, as one."""
    if by_numpy(blocks[0]):
        return like(grams([to_host(G.contiguous()) for G in blocks], axis, np), blocks[0])
    unfolded = [unfold(G, axis, xp) for G in blocks]
    return pack(xp.concat([xp.matmul(U, xp.matrix_transpose(U)) for U in unfolded], axis=0))


def accumulate(old: Array, new: Array, beta: float, donate: bool) -> Array:
    """Compute ``beta * old + w * new`` with w = 1 - beta, or 1 for the sum (beta = 1).

    `new` may be overwritten; `old` is overwritten only if `donate`.
    """
    if beta < 1.0:
        return lerp(old, new, beta, donate)
    if not donate:
        new += old
        return new
    old += new
    return old

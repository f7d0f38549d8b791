"""Blocked products that are known to be Hermitian, at little more than half the cost of a product."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from matroot.backends.base import Backend
from matroot.methods.base import Array

#: Tile size of code that reads both rows and columns, so that a tile stays in the first-level cache. The rows of a
#: copied tile are padded, since rows at a distance of a power of two would evict each other.
TILE, PADDING = 128, 5
#: Square blocks of a Hermitian product are halved until their size is between one and two times this.
LEAST = 64


def asymmetry(a: Array) -> float:
    """Return max |a - a^H| of a square matrix; 0 if it is Hermitian to the last bit, NaN if it holds NaN."""
    n, gap = len(a), 0.0
    space = np.empty((TILE, TILE + PADDING), a.dtype)
    for i in range(0, n, TILE):
        for j in range(i, n, TILE):
            upper, lower = a[i : i + TILE, j : j + TILE], a[j : j + TILE, i : i + TILE]
            copy = space[: lower.shape[0], : lower.shape[1]]
            np.conjugate(lower, out=copy)
            if not (upper == copy.T).all():
                gap = float(np.maximum(gap, abs(upper - copy.T).max()))
    return gap


def blocks(i: int, j: int) -> Iterator[tuple[slice, slice]]:
    """Yield the diagonal blocks of rows and columns i to j, and square blocks that cover the upper triangle."""
    if j - i < 2 * LEAST:
        yield slice(i, j), slice(i, j)
    else:
        middle = (i + j) // 2
        yield from blocks(i, middle)
        yield slice(i, middle), slice(middle, j)
        yield from blocks(middle, j)


def upper(Y: Array, Z: Array, backend: Backend) -> Iterator[tuple[slice, slice, Array]]:
    """Yield the `blocks` of the Hermitian product Y Z, for large n at little more than half the cost."""
    for rows, cols in blocks(0, len(Y)):
        block = backend.matmul(Y[rows], Z[:, cols])
        yield rows, cols, (block + block.conj().T) / 2 if rows == cols else block


def hermitian_product(Y: Array, Z: Array, backend: Backend) -> Array:
    """Compute Y Z, which must be Hermitian in exact arithmetic; the result is Hermitian to the last bit."""
    H = np.empty((len(Y), len(Y)), Y.dtype)
    for rows, cols, block in upper(Y, Z, backend):
        H[cols, rows] = block.conj().T
        H[rows, cols] = block
    return H


def hermitian_sum(X: Array, Y: Array, Z: Array, factor: float, backend: Backend, out: Array) -> None:
    """Write factor * (X + Y Z) to `out` for Hermitian X and Y Z; sum in the precision of X, scale in that of `out`."""
    with np.errstate(over="ignore", under="ignore"):
        for rows, cols, block in upper(Y, Z, backend):
            part = (X[rows, cols] + block).astype(np.result_type(X, out), copy=False)
            if factor != 1:
                part *= factor
            out[cols, rows] = part.conj().T
            out[rows, cols] = part

"""Hermitian matrices by blocks: a product known to be Hermitian costs little more than half a product."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from matroot.backends.base import Backend
from matroot.methods.base import Array

#: Tiles for what reads rows beside columns stay in the nearest cache. The row of a tile's copy is longer, since rows
#: at a distance of a power of two would push each other out.
TILE, PADDING = 128, 5
#: A square block of a Hermitian product is halved down to between one and two times this.
LEAST = 64


def asymmetry(a: Array) -> float:
    """max |a - a^H| of a square matrix; 0 where it is Hermitian to the last bit, NaN where it holds NaN."""
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
    """The diagonal blocks of rows and columns i to j, and square blocks over them that cover the upper triangle."""
    if j - i < 2 * LEAST:
        yield slice(i, j), slice(i, j)
    else:
        middle = (i + j) // 2
        yield from blocks(i, middle)
        yield slice(i, middle), slice(middle, j)
        yield from blocks(middle, j)


def upper(Y: Array, Z: Array, backend: Backend) -> Iterator[tuple[slice, slice, Array]]:
    """The `blocks` of the Hermitian product Y Z: for large n, little more than half of it."""
    for rows, cols in blocks(0, len(Y)):
        block = backend.matmul(Y[rows], Z[:, cols])
        yield rows, cols, (block + block.conj().T) / 2 if rows == cols else block


def hermitian_product(Y: Array, Z: Array, backend: Backend) -> Array:
    """Y Z, known to be Hermitian, and Hermitian to the last bit."""
    H = np.empty((len(Y), len(Y)), Y.dtype)
    for rows, cols, block in upper(Y, Z, backend):
        H[cols, rows] = block.conj().T
        H[rows, cols] = block
    return H


def hermitian_sum(X: Array, Y: Array, Z: Array, factor: float, backend: Backend, out: Array) -> None:
    """out <- factor * (X + Y Z), summed in the precision of X, scaled in that of `out`, for Hermitian X and Y Z."""
    with np.errstate(over="ignore", under="ignore"):
        for rows, cols, block in upper(Y, Z, backend):
            part = (X[rows, cols] + block).astype(np.result_type(X, out), copy=False)
            if factor != 1:
                part *= factor
            out[cols, rows] = part.conj().T
            out[rows, cols] = part

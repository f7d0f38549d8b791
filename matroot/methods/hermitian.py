"""Hermitian matrices by blocks: a product known to be Hermitian costs little more than half a product."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from matroot.methods.base import Array

#: Tiles for what reads rows beside columns stay in the nearest cache. The row of a tile's copy is longer, since rows
#: at a distance of a power of two would push each other out.
TILE, PADDING = 128, 5
#: A product that is Hermitian is made in so many row blocks, of at least so many rows.
BLOCKS, LEAST = 8, 64


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


def upper_rows(Y: Array, Z: Array, engine: Any) -> Iterator[tuple[int, int, Array]]:
    """Block rows i:j of the Hermitian product Y Z, from column i on."""
    n = len(Y)
    blocks = max(1, min(BLOCKS, n // LEAST))
    for i, j in pairwise(n * k // blocks for k in range(blocks + 1)):
        block = engine.matmul(Y[i:j], Z[:, i:])
        corner = block[:, : j - i]
        corner[...] = (corner + corner.conj().T) / 2
        yield i, j, block


def hermitian_product(Y: Array, Z: Array, engine: Any) -> Array:
    """Y Z, known to be Hermitian, and Hermitian to the last bit; 9/16 of a product."""
    H = np.empty((len(Y), len(Y)), Y.dtype)
    for i, j, block in upper_rows(Y, Z, engine):
        H[i:j, i:] = block
        H[j:, i:j] = H[i:j, j:].conj().T
    return H


def hermitian_sum(X: Array, Y: Array, Z: Array, factor: float, engine: Any, out: Array) -> None:
    """out <- factor * (X + Y Z), summed in the precision of X, for Hermitian X and Y Z."""
    with np.errstate(over="ignore", under="ignore"):
        for i, j, block in upper_rows(Y, Z, engine):
            part = X[i:j, i:] + block
            if factor != 1:
                part *= factor
            out[i:j, i:] = part
            out[j:, i:j] = out[i:j, j:].conj().T

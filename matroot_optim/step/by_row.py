"""Products with the roots or bases of stacks whose rows ranks may share: a row has the same bits beside any others.

BLAS has kernels of its own for few rows and for what is left of a tile. So rows are multiplied in tiles, the last one
filled up with zeros: by numpy in chunks of one size, where its BLAS gives a row the same bits in every place of a
chunk, as OpenBLAS does with AVX-512; elsewhere by torch, which takes two to four times as long on an AMD processor.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, by_numpy, is_torch, like, namespace, to_host
from matroot_optim.step.precondition import precondition, rotated

#: Rows in a chunk: whole tiles of the kernels of OpenBLAS, and enough that a copy of the root for each is little.
CHUNK = 96
#: Rows in a tile of MKL, or a multiple. Of one to three rows, and in float64 of any that are left, it has other bits.
TILE = 16


def precondition_by_row(G: Array, roots: Sequence[Array], axes: Sequence[int]) -> Array:
    """Multiply the stack G by its roots as `precondition`; rows are what lies along a dimension with a root."""
    if not (is_torch(G) and G.is_cpu):
        return precondition(G, roots, axes, namespace(G))
    for axis, X in zip(axes, roots, strict=True):
        G = rows_times(G, X, axis)
    return G


def rotated_by_row(G: Array, bases: Sequence[Array], axes: Sequence[int], *, back: bool) -> Array:
    """Return the coordinates of the stack G in bases, or go `back` from them, as `rotated`."""
    if not (is_torch(G) and G.is_cpu):
        return rotated(G, bases, axes, namespace(G), back=back)
    for axis, Q in zip(axes, bases, strict=True):
        G = rows_times(G, Q.mT.contiguous() if back else Q, axis)
    return G


def rows_times(G: Any, X: Any, axis: int) -> Any:
    """Multiply the rows of tensors (blocks, *shape) along one dimension by X (blocks, n, n), from the right."""
    rows = G.movedim(axis + 1, -1)
    P = rows.reshape(len(G), -1, rows.shape[-1]).contiguous()
    if by_numpy(G) and same_in_every_place(P.shape[-1], to_host(P).dtype.char):
        found = like(in_chunks(to_host(P), to_host(X)), G)
    else:
        found = in_tiles(P, X)
    return found.reshape(rows.shape).movedim(-1, axis + 1)


def in_chunks(P: Any, X: Any) -> Any:
    """Compute P X for numpy arrays (blocks, rows, n) and (blocks, n, n)."""
    n, whole = P.shape[2], P.shape[1] // CHUNK * CHUNK
    product = np.empty_like(P)
    for rows, root, found in zip(P, X, product, strict=True):
        np.matmul(rows[:whole].reshape(-1, CHUNK, n), root, out=found[:whole].reshape(-1, CHUNK, n))
        if whole < len(rows):
            last = np.zeros((CHUNK, n), P.dtype)
            last[: len(rows) - whole] = rows[whole:]
            found[whole:] = (last @ root)[: len(rows) - whole]
    return product


def in_tiles(P: Any, X: Any) -> Any:
    """Compute P X for tensors (blocks, rows, n) and (blocks, n, n)."""
    torch, rows = sys.modules["torch"], P.shape[1]
    whole = rows // TILE * TILE
    parts = [torch.bmm(P[:, :whole], X)] if whole else []
    if whole < rows or not rows:
        last = P.new_zeros((len(P), TILE, P.shape[2]))
        last[:, : rows - whole] = P[:, whole:]
        parts.append(torch.bmm(last, X)[:, : rows - whole])
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


@cache
def same_in_every_place(n: int, dtype: str) -> bool:
    """Return True if equal rows of a chunk have equal products with a matrix of order n, as far as examples tell."""
    rng = np.random.default_rng(n)
    X = rng.standard_normal((n, n)).astype(dtype)
    products = (np.tile(row, (CHUNK, 1)) @ X for row in rng.standard_normal((4, n)).astype(dtype))
    return all(bool((product == product[0]).all()) for product in products)

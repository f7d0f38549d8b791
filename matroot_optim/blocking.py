"""How a tensor is seen by Shampoo: small dimensions merged, large ones cut into blocks.

A dimension larger than the block size is cut into equal blocks and one smaller remainder, so a tensor of order k
falls into at most 2^k regions of equal-shaped blocks. A region is stacked, and put back, by one reshape and one
transposition, whatever the number of its blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Array = Any
Shape = tuple[int, ...]


def merge_dims(shape: Sequence[int], limit: int) -> Shape:
    """Merge neighbouring dimensions, from the left, while their product is at most `limit`.

    Dimensions of size 1 vanish. A tensor with a dimension of size 0 is left alone.

    Examples
    --------
    >>> from matroot_optim.blocking import merge_dims
    >>> merge_dims([1, 2, 512, 1, 2048, 1, 3, 4], 1024)
    (1024, 2048, 12)
    >>> merge_dims([3, 3, 128, 128], 1024)
    (9, 128, 128)
    """
    if 0 in shape:
        return tuple(shape)
    merged: list[int] = []
    product = 1
    for size in shape:
        if product * size <= limit or product == 1:
            product *= size
        elif size > 1:
            merged.append(product)
            product = size
    if product > 1:
        merged.append(product)
    return tuple(merged)


@dataclass(frozen=True)
class Region:
    """A box of equal-shaped blocks of a tensor: `count` blocks of `size` from `start`, per dimension."""

    start: Shape
    count: Shape
    size: Shape

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return math.prod(self.count)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where the box lies in the tensor."""
        parts = zip(self.start, self.count, self.size, strict=True)
        return tuple(slice(a, a + c * s) for a, c, s in parts)

    def origins(self) -> list[Shape]:
        """First index of every block, in the order of the stack."""
        steps = zip(self.start, self.count, self.size, strict=True)
        return list(itertools.product(*([a + j * s for j in range(c)] for a, c, s in steps)))


def regions(shape: Shape, block_size: int, axes: Sequence[int]) -> tuple[Region, ...]:
    """The regions of a tensor whose dimensions `axes` are cut at `block_size`; the other dimensions stay whole."""
    pieces = [_pieces(n, block_size if i in axes else max(n, 1)) for i, n in enumerate(shape)]
    boxes = itertools.product(*pieces)
    return tuple(Region(*(tuple(part[k] for part in box) for k in range(3))) for box in boxes)


def _pieces(n: int, size: int) -> list[tuple[int, int, int]]:
    whole, rest = divmod(n, size)
    pieces = [(0, whole, size)] if whole else []
    if rest or not whole:
        pieces.append((whole * size, 1, rest))
    return pieces


def stack(x: Array, region: Region, xp: Any) -> Array:
    """The blocks of a region as one array (blocks, *size)."""
    if region.blocks == 1 and x.shape == region.size:
        return xp.reshape(x, (1, *region.size))
    k = x.ndim
    box = x[region.slices]
    grid = [n for pair in zip(region.count, region.size, strict=True) for n in pair]
    order = (*range(0, 2 * k, 2), *range(1, 2 * k, 2))
    return xp.reshape(xp.permute_dims(xp.reshape(box, tuple(grid)), order), (region.blocks, *region.size))


def unstack(blocks: Array, region: Region, xp: Any) -> Array:
    """The box of the tensor that `stack` cut into these blocks."""
    k = len(region.size)
    order = tuple(i for j in range(k) for i in (j, k + j))
    box = xp.permute_dims(xp.reshape(blocks, (*region.count, *region.size)), order)
    return xp.reshape(box, tuple(c * s for c, s in zip(region.count, region.size, strict=True)))


def assemble(boxes: Sequence[Array], parts: Sequence[Region], shape: Shape, xp: Any) -> Array:
    """The tensor from the boxes of all its regions."""
    if len(boxes) == 1:
        return xp.reshape(boxes[0], shape)
    at = {region.start: box for region, box in zip(parts, boxes, strict=True)}
    for axis in reversed(range(len(shape))):
        joined: dict[Shape, list[Array]] = {}
        for start in sorted(at):
            joined.setdefault(start[:axis], []).append(at[start])
        at = {start: xp.concat(row, axis=axis) if len(row) > 1 else row[0] for start, row in joined.items()}
    return at[()]

"""Merging of small dimensions and cutting of large dimensions into blocks.

A dimension larger than the block size is cut into equal blocks and one smaller remainder, so a tensor of order k
has at most 2^k regions of equal-shaped blocks. One reshape and one transposition stack or unstack a region with any
number of blocks.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Array = Any
Shape = tuple[int, ...]


def merge_dims(shape: Sequence[int], limit: int) -> Shape:
    """Merge neighbouring dimensions, from the left, while their product is at most `limit`.

    Dimensions of size 1 are removed. The shape of a tensor with a dimension of size 0 does not change.

    >>> merge_dims([1, 2, 512, 1, 2048, 1, 3, 4], 1024), merge_dims([3, 3, 128, 128], 1024)
    ((1024, 2048, 12), (9, 128, 128))
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


def as_matrix(shape: Sequence[int]) -> Shape:
    """Return the shape of the matrix nearest to square that keeps the order of the elements; vectors stay vectors.

    The dimensions are split into two groups, left and right, whose products are nearest to each other. A convolution
    becomes (out, in * kernel) in torch's order and (kernel * in, out) in that of jax and keras; heads are merged with
    each other or with their features. Dimensions of size 1 are removed.

    >>> as_matrix((64, 32, 3, 3)), as_matrix((3, 3, 32, 64)), as_matrix((768, 12, 64)), as_matrix((1, 16, 64))
    ((64, 288), (288, 64), (768, 768), (16, 64))
    """
    if 0 in shape:
        return tuple(shape)
    sizes = [n for n in shape if n > 1]
    if len(sizes) < 2:
        return tuple(sizes)
    cuts = [(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, len(sizes))]
    return min(cuts, key=lambda cut: (max(cut) / min(cut), cut))


@dataclass(frozen=True)
class Region:
    """A box of equal-shaped blocks of a tensor: per dimension, `count` blocks of `size` from `start`."""

    start: Shape
    count: Shape
    size: Shape

    @cached_property
    def blocks(self) -> int:
        """Number of blocks."""
        return math.prod(self.count)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Slices of the box in the tensor."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.box, strict=True))

    @cached_property
    def box(self) -> Shape:
        """Shape of the box."""
        return tuple(c * s for c, s in zip(self.count, self.size, strict=True))

    @cached_property
    def grid(self) -> tuple[Shape, Shape, Shape]:
        """Shape of the box with each dimension as (count, size), and the orders of these to a stack and back."""
        k = len(self.size)
        shape = tuple(n for pair in zip(self.count, self.size, strict=True) for n in pair)
        return shape, (*range(0, 2 * k, 2), *range(1, 2 * k, 2)), tuple(i for j in range(k) for i in (j, k + j))

    def origins(self) -> list[Shape]:
        """Return the first index of every block, in the order of the stack."""
        steps = zip(self.start, self.count, self.size, strict=True)
        return list(itertools.product(*([a + j * s for j in range(c)] for a, c, s in steps)))


@functools.lru_cache(1024)
def numbered(parts: tuple[Region, ...]) -> tuple[list[tuple[Shape, Shape]], dict[Shape, int], list[list[int]]]:
    """Return (origin, size) of every block in the order of the tensor, numbers by origin, and numbers by region."""
    origins = [part.origins() for part in parts]
    blocks = sorted((origin, part.size) for part, mine in zip(parts, origins, strict=True) for origin in mine)
    number = {origin: k for k, (origin, _) in enumerate(blocks)}
    return blocks, number, [[number[origin] for origin in mine] for mine in origins]


def block_sizes(shape: Shape, limit: int, aspect: float | None, axes: Sequence[int]) -> Shape:
    """Return the block size per dimension: at most `limit`, and `aspect` times the shortest of the dimensions `axes`.

    With an aspect, blocks are equal if a dimension has a divisor nearly as large as allowed, and nearly equal
    otherwise; without an aspect, all have size `limit` except the last. Dimensions not in `axes` stay whole.

    >>> block_sizes((96, 384), 1024, 2.0, (0, 1)), block_sizes((3000, 3000), 1024, 2.0, (0, 1))
    ((96, 192), (1000, 1000))
    >>> block_sizes((64, 576), 1024, 2.0, (0, 1)), block_sizes((64, 147), 1024, 2.0, (0, 1))
    ((64, 96), (64, 49))
    """
    if aspect is None:
        return tuple(limit if i in axes else max(n, 1) for i, n in enumerate(shape))
    longest = min(
        limit, int(aspect * min((min(shape[i], limit) for i in axes), default=limit)) if len(axes) > 1 else limit
    )
    return tuple(_equal(n, max(1, longest)) if i in axes else max(n, 1) for i, n in enumerate(shape))


def _equal(n: int, longest: int) -> int:
    """Return a block size of at most `longest` for n; the last block may be smaller."""
    if n <= longest:
        return max(n, 1)
    fewest = -(-n // longest)
    equal = [n // count for count in range(fewest, fewest + fewest // 2 + 1) if n % count == 0]
    return equal[0] if equal else -(-n // fewest)


@functools.lru_cache(1024)
def regions(shape: Shape, sizes: Shape) -> tuple[Region, ...]:
    """Return the regions of a tensor whose dimensions are cut into blocks of these sizes."""
    pieces = [_pieces(n, size) for n, size in zip(shape, sizes, strict=True)]
    boxes = itertools.product(*pieces)
    return tuple(Region(*(tuple(part[k] for part in box) for k in range(3))) for box in boxes)


def _pieces(n: int, size: int) -> list[tuple[int, int, int]]:
    whole, rest = divmod(n, size)
    pieces = [(0, whole, size)] if whole else []
    if rest or not whole:
        pieces.append((whole * size, 1, rest))
    return pieces


def stack(x: Array, region: Region, xp: Any) -> Array:
    """Stack the blocks of a region into one array (blocks, *size)."""
    if region.blocks == 1 and x.shape == region.size:
        return x.reshape((1, *region.size))
    shape, order, _ = region.grid
    box = x if x.shape == region.box else x[region.slices]
    return xp.permute_dims(box.reshape(shape), order).reshape((region.blocks, *region.size))


def unstack(blocks: Array, region: Region, xp: Any) -> Array:
    """Join blocks that `stack` has cut into the box of the tensor."""
    if region.blocks == 1:
        return blocks.reshape(region.size)
    order = region.grid[2]
    return xp.permute_dims(blocks.reshape((*region.count, *region.size)), order).reshape(region.box)


def assemble(boxes: Sequence[Array], parts: Sequence[Region], xp: Any) -> Array:
    """Join the boxes of all regions into the tensor."""
    if len(boxes) == 1:
        return boxes[0]
    at = {region.start: box for region, box in zip(parts, boxes, strict=True)}
    for axis in reversed(range(len(parts[0].start))):
        joined: dict[Shape, list[Array]] = {}
        for start in sorted(at):
            joined.setdefault(start[:axis], []).append(at[start])
        at = {start: xp.concat(row, axis=axis) if len(row) > 1 else row[0] for start, row in joined.items()}
    return at[()]

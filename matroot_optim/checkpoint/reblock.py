"""Conversion of statistics from one cutting of a tensor to another.

On every index range that lay in one old block, a new block's statistic has the old numbers. If the other dimensions
are cut finer, the old sum over them is split in proportion to their energy, which is on the diagonals of the old
statistics of those dimensions; if they are cut coarser, sums are added. Products between the ranges of two old blocks
are unknown and set to zero. Traces, summed over the blocks, are preserved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matroot_optim.layout.blocking import Shape
from matroot_optim.step.statistics import pack, packed_size, unpack

Block = tuple[Shape, Shape]  # origin and size


def reblock(
    old: Sequence[Block], statistics: Mapping[tuple[int, int], Any], new: Sequence[Block], axes: Sequence[int]
) -> dict[tuple[int, int], Any]:
    """Compute packed statistics of the blocks `new` from those of the blocks `old` of the same tensor, in float64.

    Blocks are (origin, size), statistics have keys (block number, axis), and `axes` are the preconditioned dimensions.
    """
    result = {}
    matrices = {key: unpack(np.asarray(packed, np.float64)) for key, packed in statistics.items()}
    for number, block in enumerate(new):
        sums = {i: np.zeros((block[1][i], block[1][i])) for i in axes}
        for k, other in enumerate(old):
            common = _overlap(block, other)
            if common is None:
                continue
            shares = {j: _share(matrices[k, j], _local(common, other, j)) for j in axes}
            for i in axes:
                weight = np.prod([shares[j] for j in axes if j != i])
                inside, source = _local(common, block, i), _local(common, other, i)
                sums[i][inside, inside] += weight * matrices[k, i][source, source]
        for i in axes:
            result[number, i] = pack(sums[i]).reshape(packed_size(block[1][i]))
    return result


def _overlap(a: Block, b: Block) -> Block | None:
    start = tuple(max(x, y) for x, y in zip(a[0], b[0], strict=True))
    stop = tuple(min(x + m, y + n) for x, m, y, n in zip(*a, *b, strict=True))
    size = tuple(t - s for s, t in zip(start, stop, strict=True))
    return (start, size) if all(n > 0 for n in size) else None


def _local(common: Block, block: Block, axis: int) -> slice:
    """Return the common index range along one dimension, relative to a block."""
    start = common[0][axis] - block[0][axis]
    return slice(start, start + common[1][axis])


def _share(A: Any, part: slice) -> float:
    """Return the fraction of the trace of A that lies in an index range."""
    total = float(np.trace(A))
    return float(np.trace(A[part, part])) / total if total > 0 else 0.0

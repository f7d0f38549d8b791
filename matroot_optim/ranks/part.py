"""The part of a layout that one rank owns: a pure function of the layout and the shares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from matroot_optim.layout.blocking import Region, Shape
from matroot_optim.layout.layout import Layout, stacked
from matroot_optim.layout.parts import Among, At, Leaf
from matroot_optim.ranks.blocks import Box, Shares, view
from matroot_optim.step.statistics import packed_size


class Part:
    """The layout of what one rank owns: a leaf for every region of a parameter, of its owned blocks one over another.

    A parameter of which the rank owns nothing has an empty leaf, for its counts.

    Attributes
    ----------
    layout : Layout
    leaf_of : list of int
        Number of the parameter of every leaf of the layout.
    boxes : list of list of Box
        The parts in every leaf, in their order.
    spread : set of int
        Leaves whose statistics are sums over the ranks.
    """

    def __init__(self, shares: Shares, rank: int) -> None:
        mine: dict[tuple[int, int], list[Box]] = {}
        for box in shares.boxes:
            if box.owner == rank:
                mine.setdefault((box.leaf, box.region), []).append(box)
        there = {i for i, _ in mine}
        mine.update({(i, 0): [] for i in range(len(shares.layout.leaves)) if i not in there})
        self.leaf_of, self.boxes, leaves = [], [], []
        for (i, region), boxes in sorted(mine.items()):
            self.leaf_of.append(i)
            self.boxes.append(boxes)
            leaves.append(_owned(shares.layout.leaves[i], region, boxes))
        self.spread = {k for k, i in enumerate(self.leaf_of) if i in shares.spread}
        self.layout = _among(shares.layout, stacked(leaves), self.leaf_of, self.boxes)


def _owned(leaf: Leaf, region: int, boxes: Sequence[Box]) -> Leaf:
    """Return the leaf of these blocks of a region, or of this range of elements."""
    dims = len(view(leaf))
    size = boxes[0].size if boxes else (0,) * dims
    shape = (len(boxes) * size[0], *size[1:])
    parts = (Region((0,) * dims, (len(boxes), *(1,) * (dims - 1)), size),) if boxes and leaf.regions else ()
    path = f"{leaf.path}:{region}"
    return replace(leaf, path=path, shape=shape, merged=shape, regions=parts, whole=leaf.shape)


def _among(whole: Layout, part: Layout, leaf_of: Sequence[int], boxes: Sequence[Sequence[Box]]) -> Layout:
    """Return the part with the numbers of its roots among those of the whole layout, and the places of its arrays."""
    numbers: dict[tuple[int, int, int], tuple[int, str, int]] = {}
    count = itertools.count()
    for stack, axis in whole.factors:
        for member in stack.members:
            leaf = whole.leaves[member.leaf]
            for row, origin in enumerate(leaf.regions[member.region].origins(), member.start):
                numbers[member.leaf, leaf.block_number[origin], axis] = next(count), stack.axis_name(axis), row
    rows: list[int] = []
    places: dict[str, At] = {}
    for stack, axis in part.factors:
        mine = [
            numbers[leaf_of[member.leaf], box.number, axis] for member in stack.members for box in boxes[member.leaf]
        ]
        rows += [number for number, _, _ in mine]
        size = packed_size(stack.shape[axis])
        starts = tuple(row * size for _, _, row in mine)
        places[f"{stack.axis_name(axis)}/statistic"] = At(f"{mine[0][1]}/statistic", starts, (0, 1))
    for leaf, i, owned in zip(part.leaves, leaf_of, boxes, strict=True):
        strides = _strides(view(whole.leaves[i]))
        starts = tuple(sum(a * n for a, n in zip(box.origin, strides, strict=True)) for box in owned)
        for name in ("momentum", "moment"):
            places[leaf.name(name)] = At(whole.leaves[i].name(name), starts, strides)
    return replace(part, among=Among(whole.orders, whole.alike, tuple(rows), places))


def _strides(shape: Shape) -> tuple[int, ...]:
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))

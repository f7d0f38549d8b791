"""Owners of blocks, and the part of a layout that one rank owns: pure functions of the layout."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from matroot_optim.layout.blocking import Region, Shape
from matroot_optim.layout.layout import Layout, is_table, stacked
from matroot_optim.layout.parts import Among, At, Leaf
from matroot_optim.refresh.phases import cost, first_marks
from matroot_optim.refresh.shares import deal_blocks
from matroot_optim.step.spectral import operations
from matroot_optim.step.statistics import packed_size

#: Cost of a floating-point operation of a product, in the unit of the cost of roots.
OPERATION = 0.1

#: Ranges of rows, one for every rank: the shards of a parameter along dimension 0. None: each rank has all rows.
Rows = tuple[tuple[int, int], ...] | None


def even_rows(n: int, ranks: int) -> Rows:
    """Return the rows of every rank, cut as `torch.chunk` cuts."""
    chunk = -(-n // ranks)
    return tuple((min(rank * chunk, n), min((rank + 1) * chunk, n)) for rank in range(ranks))


@dataclass(frozen=True)
class Box:
    """A part of a parameter that one rank owns: a block, some rows of a block, or a range of elements without blocks.

    Attributes
    ----------
    leaf : int
    origin, size : tuple of int
        In the `view` of the parameter.
    owner : int
    number, region : int
        Of the block, and of its region; 0 without blocks.
    """

    leaf: int
    origin: Shape
    size: Shape
    owner: int
    number: int = 0
    region: int = 0


def view(leaf: Leaf) -> Shape:
    """Return the shape in which a parameter is cut: the merged shape, or flat if it has no blocks."""
    return leaf.merged if leaf.regions else (math.prod(leaf.shape),)


def rows_of_view(leaf: Leaf, rows: Rows) -> Rows:
    """Return the ranges of every rank in dimension 0 of the view."""
    if rows is None:
        return None
    shape = view(leaf)
    inner = math.prod(shape[1:])
    outer = math.prod(leaf.shape[1:])
    return tuple((a * outer // max(inner, 1), b * outer // max(inner, 1)) for a, b in rows)


@dataclass(frozen=True)
class Shares:
    """The parts of all parameters with their owners.

    Blocks are dealt by the costs of their roots, each in its step of an interval, and of their products. Parameters
    without blocks stay where they are, or are cut evenly if every rank has them whole; so do the rows of tables whose
    rows have no statistic.

    Parameters
    ----------
    layout : Layout
        Of whole parameters.
    rows : tuple
        `Rows` of every parameter.
    ranks : int
    interval : int
        Steps between two roots.
    schedule : str
    lag : int
        With a lag, a rank has an interval for all of its roots; without, every step waits for its own.
    """

    layout: Layout
    rows: tuple[Rows, ...]
    ranks: int
    interval: int
    schedule: str = "staggered"
    lag: int = 0

    @cached_property
    def boxes(self) -> list[Box]:
        """All parts, by parameter and by number of the block."""
        found: list[Box] = []
        dealt: list[int] = []
        for i, leaf in enumerate(self.layout.leaves):
            ranges = self._ranges(i)
            if not leaf.regions:
                found += [Box(i, (a,), (b - a,), rank) for rank, (a, b) in enumerate(ranges)]
                continue
            if i in self.spread:
                found += [
                    Box(i, (a, *origin[1:]), (b - a, *region.size[1:]), rank, leaf.block_number[origin], r)
                    for r, region in enumerate(leaf.regions)
                    for origin in region.origins()
                    for rank, (a, b) in enumerate(ranges)
                ]
                continue
            blocks = [
                Box(i, origin, region.size, 0, leaf.block_number[origin], r)
                for r, region in enumerate(leaf.regions)
                for origin in region.origins()
            ]
            for box in sorted(blocks, key=lambda box: box.number):
                dealt.append(len(found))
                found.append(box)
        roots = self._costs_of_roots()
        costs = [self._costs_of_products(found[k]) | roots.get((found[k].leaf, found[k].number), {}) for k in dealt]
        for k, rank in zip(dealt, deal_blocks(costs, self.ranks).tolist(), strict=True):
            found[k] = replace(found[k], owner=rank)
        return found

    @cached_property
    def spread(self) -> set[int]:
        """The tables of whose blocks every rank has some rows, and computes the statistic and the root itself."""
        return {
            i
            for i, leaf in enumerate(self.layout.leaves)
            if leaf.axes == (1,)
            and is_table(leaf.merged)
            and all(region.size[0] == leaf.merged[0] for region in leaf.regions)
            and (leaf.by_row or not (leaf.options.graft_per_block or leaf.options.statistics_of == "whitened"))
            and all(a < b for a, b in self._ranges(i))
        }

    @cached_property
    def stored(self) -> list[Rows]:
        """Rows of every parameter in dimension 0 of its view."""
        return [rows_of_view(leaf, rows) for leaf, rows in zip(self.layout.leaves, self.rows, strict=True)]

    def _ranges(self, i: int) -> tuple[tuple[int, int], ...]:
        """Return the ranges of every rank in dimension 0 of the view of a parameter."""
        return self.stored[i] or _evenly(view(self.layout.leaves[i])[0], self.ranks)

    def holders(self, box: Box) -> list[tuple[int, int, int]]:
        """Return the ranks that store rows of a box, each with the first of these rows, and the one after the last.

        Of a parameter that each rank has whole, these are all ranks, with all rows of the box.
        """
        first, last = box.origin[0], box.origin[0] + box.size[0]
        rows = self.stored[box.leaf]
        if rows is None:
            return [(rank, first, last) for rank in range(self.ranks)]
        found = []
        for rank in range(bisect_right(rows, first, key=lambda pair: pair[1]), self.ranks):
            a, b = max(first, rows[rank][0]), min(last, rows[rank][1])
            if rows[rank][0] >= last:
                break
            if a < b:
                found.append((rank, a, b))
        return found

    @property
    def owners_of_roots(self) -> list[int]:
        """The owner of every root, in the order of the stacks; a root that every rank computes is that of rank 0."""
        owner = {(box.leaf, box.number): box.owner for box in reversed(self.boxes)}
        return [owner[block] for block in self._blocks_of_roots()]

    @property
    def roots_of_all(self) -> list[bool]:
        """True for every root that each rank computes for itself, in the order of the stacks."""
        return [leaf in self.spread for leaf, _ in self._blocks_of_roots()]

    def _blocks_of_roots(self) -> Iterator[tuple[int, int]]:
        """Iterate over (leaf, number) of the block of every root, in the order of the stacks."""
        leaves = self.layout.leaves
        for stack, _ in self.layout.factors:
            for member in stack.members:
                for origin in leaves[member.leaf].regions[member.region].origins():
                    yield member.leaf, leaves[member.leaf].block_number[origin]

    @cached_property
    def sent_bytes(self) -> list[int]:
        """Bytes of gradients and directions that every rank sends to others in a step."""
        found = [0] * self.ranks
        for box in self.boxes:
            width = math.prod(box.size[1:]) * (8 if self.layout.leaves[box.leaf].dtype == "float64" else 4)
            if self.stored[box.leaf] is None:  # its owner has the gradient, and all others want the direction
                found[box.owner] += (self.ranks - 1) * box.size[0] * width
                continue
            for rank, a, b in self.holders(box):
                if rank != box.owner:
                    found[rank] += (b - a) * width
                    found[box.owner] += (b - a) * width
        return found

    @property
    def bytes(self) -> list[int]:
        """Bytes of momentum, moments, statistics and roots of every rank."""
        found = [0] * self.ranks
        for box in self.boxes:
            leaf = self.layout.leaves[box.leaf]
            wide = 8 if leaf.dtype == "float64" else 4
            narrow = 2 if leaf.options.state_dtype == "bfloat16" else wide
            found[box.owner] += narrow * math.prod(box.size) * (leaf.has_momentum + leaf.has_moment)
            for n in (box.size[axis] for axis in leaf.axes):
                packed = n * (n + 1) // 2
                statistic = packed * (narrow if leaf.in_basis else wide)
                found[box.owner] += statistic + narrow * (packed if narrow == 2 and not leaf.in_basis else n * n)
        return found

    def _costs_of_roots(self) -> dict[tuple[int, int], dict[int, float]]:
        """Return the costs of the roots of every block, by the step of the interval."""
        orders, found = self.layout.orders, dict[tuple[int, int], dict[int, float]]()
        steps = 0 * np.array(orders) if self.lag else first_marks(orders, self.interval, self.schedule) + self.interval
        for block, n, step in zip(self._blocks_of_roots(), orders, steps.tolist(), strict=True):
            mine = found.setdefault(block, {})
            mine[step] = mine.get(step, 0.0) + cost(n)
        return found

    def _costs_of_products(self, box: Box) -> dict[int, float]:
        """Return the cost of the products of a block; as they come in every step, they are a part of their own."""
        leaf = self.layout.leaves[box.leaf]
        each = 8.0 if leaf.in_basis else 4.0
        products = each * math.prod(box.size) * sum(box.size[axis] for axis in leaf.axes)
        return {self.interval + 1: OPERATION * (operations(box.size) if leaf.spectral else products)}

    def part(self, rank: int) -> Part:
        """Return the part of a rank."""
        return Part(self, rank)


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
    orders: list[int] = []
    for stack, axis in whole.factors:
        for member in stack.members:
            leaf = whole.leaves[member.leaf]
            for row, origin in enumerate(leaf.regions[member.region].origins(), member.start):
                numbers[member.leaf, leaf.block_number[origin], axis] = len(orders), stack.axis_name(axis), row
                orders.append(stack.shape[axis])
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
    return replace(part, among=Among(tuple(orders), tuple(rows), places))


def _strides(shape: Shape) -> tuple[int, ...]:
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


def _evenly(count: int, ranks: int) -> tuple[tuple[int, int], ...]:
    return tuple((count * rank // ranks, count * (rank + 1) // ranks) for rank in range(ranks))

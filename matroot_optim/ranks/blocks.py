"""Owners of blocks and of roots: pure functions of the layout."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from matroot_optim.layout.axes import is_table
from matroot_optim.layout.blocking import Shape
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf
from matroot_optim.refresh.phases import cost, first_marks
from matroot_optim.refresh.shares import deal_blocks
from matroot_optim.step.spectral import operations

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
    solver : int
        The rank that computes its roots: the owner of a block, one of the owners of the rows of a block.
    """

    leaf: int
    origin: Shape
    size: Shape
    owner: int
    number: int = 0
    region: int = 0
    solver: int = 0


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
    rows have no statistic, of which the roots alone are dealt.

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
        for i, leaf in enumerate(self.layout.leaves):
            if not leaf.regions:
                found += [Box(i, (a,), (b - a,), rank) for rank, (a, b) in enumerate(self._ranges(i))]
                continue
            region_of = {number: r for r, numbers in enumerate(leaf.numbers) for number in numbers}
            for number, (origin, size) in enumerate(leaf.blocks):
                solver, region = self.solvers[i, number], region_of[number]
                if i not in self.spread:
                    found.append(Box(i, origin, size, solver, number, region, solver))
                    continue
                found += [
                    Box(i, (a, *origin[1:]), (b - a, *size[1:]), rank, number, region, solver)
                    for rank, (a, b) in enumerate(self._ranges(i))
                ]
        return found

    @cached_property
    def solvers(self) -> dict[tuple[int, int], int]:
        """The rank that computes the roots of each block, by parameter and number; it owns the block, if one does."""
        roots, costs = self._costs_of_roots(), dict[tuple[int, int], dict[int, float]]()
        for i, leaf in enumerate(self.layout.leaves):
            for number, (_, size) in enumerate(leaf.blocks):
                products = {} if i in self.spread else self._costs_of_products(leaf, size)
                costs[i, number] = products | roots.get((i, number), {})
        return dict(zip(costs, deal_blocks(list(costs.values()), self.ranks).tolist(), strict=True))

    @cached_property
    def spread(self) -> set[int]:
        """The tables of whose blocks every rank has some rows, and the statistic, which is a sum over the ranks."""
        return {
            i
            for i, leaf in enumerate(self.layout.leaves)
            if leaf.axes == (1,)
            and is_table(leaf.merged)
            and all(region.size[0] == leaf.merged[0] for region in leaf.regions)
            and (leaf.by_row or not leaf.options.graft_per_block)
            and not (leaf.options.statistics_of == "whitened" and leaf.options.graft == "none")
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
    def solvers_of_roots(self) -> list[int]:
        """The rank that computes each root, in the order of the stacks."""
        return [self.solvers[block] for block in self._blocks_of_roots()]

    @property
    def roots_of_tables(self) -> list[bool]:
        """True for every root that goes from its solver to all ranks, in the order of the stacks."""
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

    def _costs_of_products(self, leaf: Leaf, size: Shape) -> dict[int, float]:
        """Return the cost of the products of a block; as they come in every step, they are a part of their own."""
        each = 8.0 if leaf.in_basis else 4.0
        products = each * math.prod(size) * sum(size[axis] for axis in leaf.axes)
        return {self.interval + 1: OPERATION * (operations(size) if leaf.spectral else products)}


def _evenly(count: int, ranks: int) -> tuple[tuple[int, int], ...]:
    return tuple((count * rank // ranks, count * (rank + 1) // ranks) for rank in range(ranks))

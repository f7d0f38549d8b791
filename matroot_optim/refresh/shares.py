"""The deal of roots and of blocks to the ranks of a run, and the part of a batch that one rank computes."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, is_jax, like
from matroot_optim.refresh.jobs import RootBatch
from matroot_optim.refresh.phases import cost

#: Share of the time of all roots that a move of a block must save.
WORTH = 1e-3


class Deal:
    """Owners of roots, by longest processing time first; a pure function of the orders of all roots dealt so far.

    Parameters
    ----------
    ranks : int
    lag : int
        With a lag, a rank works on the roots of several steps, so the sum of its costs decides. Without a lag, every
        step waits for its own roots: the costs of the step decide, and the sum only between equals.

    Examples
    --------
    >>> from matroot_optim.refresh.shares import Deal
    >>> deal = Deal(2)
    >>> deal([512, 512, 256, 1024]).tolist()
    [1, 1, 1, 0]
    >>> deal([512]).tolist()
    [1]
    """

    def __init__(self, ranks: int, lag: int = 0) -> None:
        self.total = [0.0] * ranks
        self._at_once = lag == 0

    def __call__(self, orders: Sequence[int]) -> Any:
        """Return the owner of each root of one step, an int array."""
        owners = np.zeros(len(orders), np.int64)
        loads = [(0.0, total, rank) if self._at_once else (total, total, rank) for rank, total in enumerate(self.total)]
        heapq.heapify(loads)
        for k in sorted(range(len(orders)), key=lambda k: (-orders[k], k)):
            load, total, rank = loads[0]
            mine = cost(orders[k])
            owners[k], self.total[rank] = rank, total + mine
            heapq.heapreplace(loads, (load + mine, total + mine, rank))
        return owners


def deal_blocks(costs: Sequence[Mapping[int, float]], ranks: int) -> Any:
    """Return the owner of each block, an int array: every part of an interval gets even loads, not only the sum.

    The largest block goes first, each to the rank where it meets the least load: the sum over the parts of its cost
    times the load there. Then single blocks move where that makes the parts shorter. The arithmetic is that of single
    entries, whose bits no library changes: all ranks agree.

    Parameters
    ----------
    costs : sequence of mappings
        The cost of each block, by the number of the part.
    ranks : int

    Examples
    --------
    >>> from matroot_optim.refresh.shares import deal_blocks
    >>> deal_blocks([{0: 2.0}, {1: 2.0}, {0: 2.0}, {1: 2.0}], 2).tolist()
    [0, 1, 1, 0]
    """
    owners, sums = np.zeros(len(costs), np.int64), [sum(cost.values()) for cost in costs]
    load = np.zeros((1 + max((part for cost in costs for part in cost), default=0), ranks))
    total = np.zeros(ranks)
    for k in sorted(range(len(costs)), key=lambda k: (-sums[k], k)):
        met = np.zeros(ranks)
        for part, mine in costs[k].items():
            met += mine * load[part]
        rank = owners[k] = np.lexsort((total, met))[0]
        total[rank] += sums[k]
        for part, mine in costs[k].items():
            load[part, rank] += mine
    _shorten(costs, owners, load)
    return owners


def _shorten(costs: Sequence[Mapping[int, float]], owners: Any, load: Any) -> None:
    """Move blocks from the heaviest rank of a part to others while all parts together end so much earlier."""
    least = load.max(1).sum() * WORTH
    for loads in load:
        gain = np.inf
        while gain > least:
            heaviest = loads.argmax()
            gain, block, rank = 0.0, 0, 0
            for k in np.flatnonzero(owners == heaviest).tolist():
                parts, mine = list(costs[k]), np.array([*costs[k].values()])[:, None]
                others = load[parts]
                ends = others.max(1, keepdims=True)
                others[:, heaviest] -= mine[:, 0]
                gains = (ends - np.maximum(others.max(1, keepdims=True), others + mine)).sum(0)
                if gains.max() > gain:
                    gain, block, rank = float(gains.max()), k, int(gains.argmax())
            if gain > least:
                owners[block] = rank
                for part, cost_there in costs[block].items():
                    load[part, heaviest] -= cost_there
                    load[part, rank] += cost_there


def part_of(batch: RootBatch, rows: Any) -> RootBatch:
    """Return the batch of these rows."""
    return replace(batch, matrix=rows_of(batch.matrix, rows))


def rows_of(x: Array, rows: Any) -> Array:
    """Return a copy of these rows."""
    return x[rows] if is_jax(x) else x[like(rows, x)]

"""How evenly roots are dealt to ranks: by cost as here, and by the rules of others, on known networks.

``python asv_benchmarks/deals.py`` prints the table of docs/guide/ranks. Nothing is measured: the makespan of all roots
of an interval over that of equal shares, with the cost a + b n^2 + c n^3 of a root of order n. The rules of others are
replayed on the same blocks: "bytes": whole blocks, greedily by their bytes, as Distributed Shampoo does; "parameters":
whole parameters, greedily by their numbers, as optimizers do that own whole matrices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from matroot_optim import Shampoo
from matroot_optim.layout.layout import Layout, make_layout
from matroot_optim.planning.deal import plan_ranks
from matroot_optim.planning.networks import NETWORKS
from matroot_optim.planning.shapes import parameters_of
from matroot_optim.refresh.phases import assign, cost

RANKS = (8, 64, 256)


def by(jobs: list[tuple[float, float]], ranks: int) -> float:
    """Makespan over equal shares of jobs (weight for the deal, cost)."""
    costs = np.array([cost for _, cost in jobs])
    owners = assign([weight for weight, _ in jobs], ranks)
    return float(np.bincount(owners, costs, ranks).max() / (costs.sum() / ranks))


def blocks(layout: Layout) -> list[tuple[float, float]]:
    """Weight and cost of every block."""
    return [
        (math.prod(size), sum(cost(size[axis]) for axis in leaf.axes))
        for leaf in layout.leaves
        for _, size in leaf.blocks
    ]


def parameters(layout: Layout) -> list[tuple[float, float]]:
    """Weight and cost of every parameter with roots."""
    return [
        (math.prod(leaf.shape), sum(cost(size[axis]) for _, size in leaf.blocks for axis in leaf.axes))
        for leaf in layout.leaves
        if leaf.axes
    ]


def row(name: str) -> list[Any]:
    opt = Shampoo(1e-3, schedule="interval")
    layout = make_layout(opt, parameters_of(name))
    found: list[Any] = [name]
    for ranks in RANKS:
        plan = plan_ranks(opt, layout, ranks)
        values = (plan.bound, plan.makespan, by(blocks(layout), ranks), by(parameters(layout), ranks))
        found += [f"{value:.2f}" for value in values]
    return found


if __name__ == "__main__":
    print(
        "network",
        *(f"{ranks}: {what}" for ranks in RANKS for what in ("bound", "here", "bytes", "parameters")),
        sep=" | ",
    )
    for name in NETWORKS:
        print(*row(name), sep=" | ")

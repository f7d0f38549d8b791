"""The deal of a layout's roots to ranks, simulated: what each rank computes, sends and holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from matroot_optim.entries import answer_size
from matroot_optim.layout.layout import Layout
from matroot_optim.options import Options
from matroot_optim.plan import make_plan
from matroot_optim.planning.table import table
from matroot_optim.ranks.blocks import Shares, even_rows
from matroot_optim.ranks.wire import FACT_BYTES, HEAD_BYTES
from matroot_optim.refresh.phases import cost, first_marks
from matroot_optim.refresh.shares import Deal
from matroot_optim.step.statistics import packed_size


@dataclass(frozen=True)
class RankPlan:
    """The share of each rank in the roots of one interval, with `RankEngine`, and in owned blocks.

    Costs are counted, not measured.

    Attributes
    ----------
    ranks, lag, interval : int
    schedule : str
    parameters, directed, roots, largest : int
        Numbers in the parameters, and in those with roots; roots, each computed once in an interval; the order of the
        largest.
    roots_per_rank : (int, int)
        Least and most in an interval.
    makespan : float
        Time until all roots of the interval are there, divided by that of equal shares that could be cut anywhere.
        Without a lag every step waits for its slowest rank; with a lag the ranks meet once in an interval.
    bound : float
        The least makespan that whole roots allow, by the same measure.
    busy : float
        Share of the ranks that have a root to compute, the mean over the steps with roots.
    sent_bytes, received_bytes : float
        Bytes that the busiest rank gives to each other rank, and that each rank gets, per step.
    state_bytes, adam_bytes : int
        Bytes of the optimizer's state on every rank, and of Adam's.
    owned_state_bytes, owned_sent_bytes : int
        With owned blocks and parameters whose rows are shared evenly: bytes of the largest share of the state, and
        bytes of gradients and directions that the busiest rank sends in a step.
    owned_makespan : float
        As `makespan`, where the owner of a block computes its roots.
    tables : int
        Roots of tables in place, whose statistics are sums over the ranks, and which every rank gets from one.
    summed_bytes, table_bytes : float
        Bytes of these statistics, summed in an all-reduce, and of these roots, received by each rank, per step.
    """

    ranks: int
    lag: int
    interval: int
    schedule: str
    parameters: int
    directed: int
    roots: int
    largest: int
    roots_per_rank: tuple[int, int]
    makespan: float
    bound: float
    busy: float
    sent_bytes: float
    received_bytes: float
    state_bytes: int
    adam_bytes: int
    owned_state_bytes: int
    owned_sent_bytes: int
    owned_makespan: float
    tables: int
    summed_bytes: float
    table_bytes: float

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dict."""
        return asdict(self)

    def __str__(self) -> str:
        return table([self])


def plan_ranks(options: Options, layout: Layout, ranks: int, lag: int = 0) -> RankPlan:
    """Simulate the deal of one interval of settled steps.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot_optim import Shampoo
    >>> from matroot_optim.layout.layout import make_layout
    >>> from matroot_optim.planning.deal import plan_ranks
    >>> opt = Shampoo(1e-3)
    >>> layout = make_layout(opt, {str(k): np.zeros((256, 256)) for k in range(40)})
    >>> plan = plan_ranks(opt, layout, 8)
    >>> plan.roots, plan.roots_per_rank, plan.makespan
    (80, (10, 10), 1.0)
    """
    interval = options.interval(options.settled_step)
    orders, widths, statistics = roots_of(layout)
    steps = first_marks(orders, interval, options.schedule) + interval if orders else np.zeros(0, np.int64)
    deal, owners = Deal(ranks, lag), np.zeros(len(orders), np.int64)
    for step in np.unique(steps):
        now = np.flatnonzero(steps == step)
        owners[now] = deal([orders[k] for k in now])
    costs = np.array([cost(n) for n in orders])

    def loads_of(owners: Any) -> list[Any]:
        return [np.bincount(owners[steps == step], costs[steps == step], ranks) for step in np.unique(steps)]

    def slowest(loads: list[Any]) -> float:
        return float(np.sum(loads, axis=0).max() if lag and loads else sum(load.max() for load in loads))

    loads = loads_of(owners)
    groups = [costs] if lag else [costs[steps == step] for step in np.unique(steps)]
    ideal = max(float(costs.sum()) / ranks, 1e-300)
    sent = np.bincount(owners, widths, ranks)
    exchanges = len(loads) / interval * HEAD_BYTES
    cuts = tuple(even_rows(leaf.shape[0], ranks) if leaf.shape else None for leaf in layout.leaves)
    shares = Shares(layout, cuts, ranks, interval, options.schedule, lag)
    of_table = np.asarray(shares.roots_of_tables, bool)
    table_exchanges = len(np.unique(steps[of_table])) / interval * HEAD_BYTES
    rows, counts = make_plan(layout, interval), np.bincount(owners, minlength=ranks)
    return RankPlan(
        ranks,
        lag,
        interval,
        options.schedule,
        sum(math.prod(leaf.shape) for leaf in layout.leaves),
        sum(math.prod(leaf.shape) for leaf in layout.leaves if leaf.directed),
        len(orders),
        max(orders, default=0),
        (int(counts.min()), int(counts.max())),
        slowest(loads) / ideal,
        float(sum(bound(group, ranks) for group in groups) / ideal),
        float(np.mean([(load > 0).mean() for load in loads])) if loads else 0.0,
        float(sent.max() / interval + exchanges),
        float(sent.sum() / interval + ranks * exchanges),
        rows.state_bytes,
        rows.adam_bytes,
        max(shares.bytes),
        max(shares.sent_bytes),
        slowest(loads_of(np.asarray(shares.solvers_of_roots, np.int64))) / ideal,
        int(of_table.sum()),
        float(np.sum(statistics, where=of_table) / options.statistics_every),
        float(np.sum(widths, where=of_table) / interval + ranks * table_exchanges),
    )


def roots_of(layout: Layout) -> tuple[list[int], list[int], list[int]]:
    """Return the order of every root, the bytes that are sent of it, and those of its statistic."""
    orders, widths, statistics = [], [], []
    for stack, axis in layout.factors:
        n, item = stack.shape[axis], np.dtype(stack.dtype).itemsize
        orders += [n] * stack.blocks
        widths += [answer_size(stack, axis) * item + FACT_BYTES] * stack.blocks
        statistics += [packed_size(n) * item] * stack.blocks
    return orders, widths, statistics


def bound(costs: Sequence[float] | Any, ranks: int) -> float:
    """Return a lower bound of the makespan of whole jobs: the mean, the largest, or k + 1 of the kR + 1 largest.

    Examples
    --------
    >>> from matroot_optim.planning.deal import bound
    >>> bound([3.0, 3.0, 3.0], 2)
    6.0
    """
    ordered = np.sort(np.asarray(costs, np.float64))[::-1]
    if not ordered.size:
        return 0.0
    together = max((k + 1) * ordered[k * ranks] for k in range(-(-len(ordered) // ranks)))
    return float(max(ordered.sum() / ranks, together))

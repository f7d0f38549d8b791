"""The deal of a layout's roots to ranks, simulated: what each rank computes, sends and holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from matroot_optim.layout.layout import Layout
from matroot_optim.options import Options
from matroot_optim.plan import make_plan
from matroot_optim.ranks.wire import FACT_BYTES, HEAD_BYTES
from matroot_optim.refresh.phases import cost, first_marks
from matroot_optim.refresh.shares import Deal
from matroot_optim.step.statistics import packed_size


@dataclass(frozen=True)
class RankPlan:
    """The share of each rank in the roots of one interval, with `RankEngine`; costs are counted, not measured.

    Attributes
    ----------
    ranks, lag, interval : int
    schedule : str
    parameters, roots, largest : int
        Numbers in the parameters; roots, each computed once in an interval; the order of the largest.
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
    """

    ranks: int
    lag: int
    interval: int
    schedule: str
    parameters: int
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

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dict."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.roots_per_rank
        lines = {
            "parameters": f"{self.parameters / 1e6:.4g} million numbers",
            "roots": f"{self.roots}, of orders up to {self.largest}, each in {self.interval} steps ({self.schedule})",
            "ranks": f"{self.ranks}, lag {self.lag}",
            "roots per rank": f"{low} to {high} in {self.interval} steps",
            "makespan": f"{self.makespan:.2f} of equal shares; whole roots allow {self.bound:.2f}",
            "ranks busy": f"{100 * self.busy:.0f} % on a step with roots",
            "sent": f"{_megabytes(self.sent_bytes)} per step by the busiest rank, to each other",
            "received": f"{_megabytes(self.received_bytes)} per step by each rank",
            "state per rank": f"{_megabytes(self.state_bytes)}, {self.state_bytes / self.adam_bytes:.1f} times Adam's",
        }
        return "\n".join(f"{name:15} {text}" for name, text in lines.items() if self.roots or name != "makespan")


def _megabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


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
    orders, widths = roots_of(layout)
    steps = first_marks(orders, interval, options.schedule) + interval if orders else np.zeros(0, np.int64)
    deal, owners = Deal(ranks, lag), np.zeros(len(orders), np.int64)
    for step in np.unique(steps):
        now = np.flatnonzero(steps == step)
        owners[now] = deal([orders[k] for k in now])
    costs = np.array([cost(n) for n in orders])
    loads = [np.bincount(owners[steps == step], costs[steps == step], ranks) for step in np.unique(steps)]
    groups = [costs] if lag else [costs[steps == step] for step in np.unique(steps)]
    slowest = np.sum(loads, axis=0).max() if lag and loads else sum(load.max() for load in loads)
    ideal = max(costs.sum() / ranks, 1e-300)
    sent = np.bincount(owners, widths, ranks)
    exchanges = len(loads) / interval * HEAD_BYTES
    rows, counts = make_plan(layout, interval), np.bincount(owners, minlength=ranks)
    return RankPlan(
        ranks,
        lag,
        interval,
        options.schedule,
        sum(int(np.prod(leaf.shape)) for leaf in layout.leaves),
        len(orders),
        max(orders, default=0),
        (int(counts.min()), int(counts.max())),
        float(slowest / ideal),
        float(sum(bound(group, ranks) for group in groups) / ideal),
        float(np.mean([(load > 0).mean() for load in loads])) if loads else 0.0,
        float(sent.max() / interval + exchanges),
        float(sent.sum() / interval + ranks * exchanges),
        rows.state_bytes,
        rows.adam_bytes,
    )


def roots_of(layout: Layout) -> tuple[list[int], list[int]]:
    """Return the order of every root, and the bytes that are sent of it."""
    orders, widths = [], []
    for stack, axis in layout.factors:
        n = stack.shape[axis]
        size = n**2 if stack.in_basis else packed_size(n)
        orders += [n] * stack.blocks
        widths += [size * np.dtype(stack.dtype).itemsize + FACT_BYTES] * stack.blocks
    return orders, widths


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

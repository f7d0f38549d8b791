"""When each root is renewed.

Every implementation that renews all roots on one step has a spike there. Here each root has its own phase of the
interval, and the phases carry equal cost: jobs are dealt by longest processing time first (Graham 1969) to the
phase that has the least, with the cost of one job a + b n^2 + c n^3.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from matroot_optim.options import Options

#: Cost of one root of order n, in units of n^3 at large n: a call, the traffic, the arithmetic.
A, B, C = 4e5, 300.0, 1.0


def cost(n: int) -> float:
    """Relative cost of one root of order n."""
    return A + B * n**2 + C * n**3


def assign(costs: Sequence[float], phases: int) -> Any:
    """Phase of each job, by longest processing time first; ties go to the lower phase.

    The heaviest phase is at most 4/3 of the best possible.

    Parameters
    ----------
    costs : sequence of float
    phases : int

    Returns
    -------
    phase : int array, (len(costs),)

    Examples
    --------
    >>> from matroot_optim.refresh.phases import assign
    >>> assign([5, 4, 3, 3, 3], 2).tolist()
    [0, 1, 1, 0, 1]
    """
    load = [(0.0, phase) for phase in range(min(phases, len(costs)))]
    result = np.zeros(len(costs), np.int64)
    for job in sorted(range(len(costs)), key=lambda job: (-costs[job], job)):
        least, phase = heapq.heappop(load)
        result[job] = phase
        heapq.heappush(load, (least + costs[job], phase))
    return result


def deal(sizes: Sequence[int], phases: int) -> Any:
    """Phase of each root, by its order: roots of one order stay together as far as a phase of mean cost holds them.

    One call for ten small roots costs little more than a call for one.

    Examples
    --------
    >>> from matroot_optim.refresh.phases import deal
    >>> deal([8, 8, 8, 256, 256, 256, 256], 2).tolist()
    [0, 0, 0, 0, 0, 1, 1]
    """
    mean = sum(cost(n) for n in sizes) / phases
    chunks: list[list[int]] = []
    for n in sorted(set(sizes), reverse=True):
        jobs = [j for j, size in enumerate(sizes) if size == n]
        pieces = min(len(jobs), max(1, round(len(jobs) * cost(n) / mean)))
        chunks += [list(part) for part in np.array_split(jobs, pieces)]
    result = np.zeros(len(sizes), np.int64)
    for jobs, phase in zip(chunks, assign([sum(cost(sizes[j]) for j in jobs) for jobs in chunks], phases), strict=True):
        result[jobs] = phase
    return result


def first_marks(sizes: Sequence[int], interval: int, schedule: str) -> Any:
    """The mark (last due step) each root starts with, so that a root is due when ``step - mark >= interval``.

    Under "interval" all are due at step 1; else root j is due first at phase j + 1 of the first interval.

    Parameters
    ----------
    sizes : sequence of int
        The order n of each root.
    """
    if schedule == "interval":
        return np.full(len(sizes), 1 - interval, np.int64)
    return 1 + deal(sizes, interval) - interval


def levels(options: Options) -> list[tuple[int, int]]:
    """The intervals between two roots of one matrix that there will be, each with the first step of it.

    For a `refresh_every` that is a number.

    Examples
    --------
    >>> from matroot_optim import Shampoo
    >>> from matroot_optim.refresh.phases import levels
    >>> levels(Shampoo(1e-3, refresh_every=10))
    [(1, 1), (20, 2), (50, 5), (100, 10)]
    """
    found, last = [(1, options.interval(1))], options.interval(options.settled_step)
    while (interval := found[-1][1]) < last:
        low, high = found[-1][0], found[-1][0] + 1
        while options.interval(high) == interval:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if options.interval(middle) == interval else (low, middle)
        found.append((high, options.interval(high)))
    return found


def due(marks: Any, step: int, interval: int) -> Any:
    """Which roots are due at `step`: those whose mark is an interval old."""
    return step - marks >= interval


def wanted(marks: Any, taken: Any, step: int, start: int, lag: int) -> Any:
    """Roots due whatever their phase: asked for (-1), or never sent (a mark below 1) though Shampoo will start."""
    asked = taken < 0
    return asked | (marks < 1) if step == max(1, start - lag) else asked

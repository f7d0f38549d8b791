"""Phases: the step within an interval at which each root is renewed.

If all roots are renewed on one step, this step takes much longer than the others. Here each root has its own phase of
the interval, and the phases have nearly equal cost: jobs are assigned by longest processing time first (Graham 1969)
to the phase with the least cost so far. The cost of one job is a + b n^2 + c n^3.
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
    """Return the relative cost of one root of order n."""
    return A + B * n**2 + C * n**3


def assign(costs: Sequence[float], phases: int) -> Any:
    """Assign a phase to each job, by longest processing time first; ties go to the lower phase.

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
    """Assign a phase to each root; roots of one order stay together while their cost fits a phase of mean cost.

    One call for ten small roots costs little more than a call for one root.

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
    """Return the first mark (last due step) of each root; a root is due when ``step - mark >= interval``.

    With "interval" all roots are due at step 1; otherwise a root of phase j is first due at step j + 1.

    Parameters
    ----------
    sizes : sequence of int
        The order n of each root.
    """
    if schedule == "interval":
        return np.full(len(sizes), 1 - interval, np.int64)
    return 1 + deal(sizes, interval) - interval


def levels(options: Options) -> list[tuple[int, int]]:
    """Return the successive intervals between two roots of one matrix, each with its first step.

    `refresh_every` must be a number.

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
    """Return a mask of the roots due at `step`: those with a mark at least an interval old."""
    return step - marks >= interval


def wanted(marks: Any, taken: Any, step: int, start: int, lag: int) -> Any:
    """Return a mask of the roots due regardless of phase: requested (-1), or never sent by the start of Shampoo."""
    asked = taken < 0
    return asked | (marks < 1) if step == max(1, start - lag) else asked

"""Phases: the step within an interval at which each root is renewed.

If all roots are renewed on one step, this step takes much longer than the others. Here each root has its own phase of
the interval, and the phases have nearly equal cost: jobs are assigned by longest processing time first (Graham 1969)
to the phase with the least cost so far. The cost of one job is a + b n^2 + c n^3.

Fewer roots than phases leave steps without one, and beside these a root is felt. Then each root takes two steps: a
first half in its phase and a second in the next, so that it is used one step later.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from matroot_optim.options import Options

#: Cost of one root of order n, in units of n^3 at large n: a call, the traffic, the arithmetic.
A, B, C = 4e5, 300.0, 1.0
#: Roots of this order and below have no halves.
WHOLE = 64


def cost(n: int) -> float:
    """Return the relative cost of one root of order n."""
    return A + B * n**2 + C * n**3


def assign(costs: Sequence[float], phases: int) -> Any:
    """Assign a phase to each job, by longest processing time first; ties go to the lower phase.

    The heaviest phase is at most 4/3 of the best possible.

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


def assign_pairs(costs: Sequence[tuple[float, float]], phases: int) -> Any:
    """Assign a phase to each job of two parts, the second of which falls on the next phase.

    >>> assign_pairs([(5, 5), (4, 4), (3, 0)], 5).tolist()
    [0, 2, 4]
    """
    load = np.zeros(phases)
    result = np.zeros(len(costs), np.int64)
    for job in sorted(range(len(costs)), key=lambda job: (-sum(costs[job]), job)):
        first, second = load + costs[job][0], np.roll(load, -1) + costs[job][1]
        k = result[job] = np.lexsort((first + second, np.maximum(first, second)))[0]
        load[[k, (k + 1) % phases]] += costs[job]
    return result


def deal(sizes: Sequence[int], phases: int) -> Any:
    """Assign a phase to each root; roots of one order stay together while their cost fits a phase of mean cost.

    One call for ten small roots costs little more than a call for one root. Where `takes_two_steps`, a root has its
    phase and the next.

    >>> deal([8, 8, 8, 256, 256, 256, 256], 2).tolist(), deal([512, 512], 5).tolist()
    ([0, 0, 0, 0, 0, 1, 1], [0, 2])
    """
    return _dealt(tuple(sizes), phases)[0].copy()


def takes_two_steps(sizes: Sequence[int], phases: int) -> bool:
    """Return True if half of the phases have less than half of the cost of the heaviest, which can be halved.

    >>> takes_two_steps([784, 512, 512, 512], 10), takes_two_steps([512] * 6, 10), takes_two_steps([64] * 4, 10)
    (True, False, False)
    """
    return _dealt(tuple(sizes), phases)[1]


@lru_cache(maxsize=64)
def _dealt(sizes: tuple[int, ...], phases: int) -> tuple[Any, bool]:
    """Return the phase of each root, and whether a root takes two."""
    if not sizes:
        return np.zeros(0, np.int64), False
    mean = sum(cost(n) for n in sizes) / phases
    chunks: list[list[int]] = []
    for n in sorted(set(sizes), reverse=True):
        jobs = [j for j, size in enumerate(sizes) if size == n]
        pieces = min(len(jobs), max(1, round(len(jobs) * cost(n) / mean)))
        chunks += [list(part) for part in np.array_split(jobs, pieces)]
    costs = [sum(cost(sizes[j]) for j in jobs) for jobs in chunks]
    found = assign(costs, phases)
    loads = np.sort(np.bincount(found, costs, phases))
    orders = [sizes[jobs[0]] for jobs in chunks]
    in_two = bool(orders[int(np.argmax(costs))] > WHOLE and loads[phases // 2] < loads[-1] / 2)
    if in_two:
        halves = [(c / 2, c / 2) if n > WHOLE else (c, 0.0) for c, n in zip(costs, orders, strict=True)]
        found = assign_pairs(halves, phases)
    result = np.zeros(len(sizes), np.int64)
    for jobs, phase in zip(chunks, found, strict=True):
        result[jobs] = phase
    return result, in_two


def first_marks(sizes: Sequence[int], interval: int, schedule: str) -> Any:
    """Return the first mark (last due step) of each root of these orders, due when ``step - mark >= interval``.

    With "interval" all roots are due at step 1; otherwise a root of phase j is first due at step j + 1.
    """
    if schedule == "interval":
        return np.full(len(sizes), 1 - interval, np.int64)
    return 1 + deal(sizes, interval) - interval


def levels(options: Options) -> list[tuple[int, int]]:
    """Return the successive intervals between two roots of one matrix, each with its first step; not for a function.

    >>> from matroot_optim import Shampoo
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

"""The method of each root: it follows from the whole run and the step, and not from the other roots of a call.

On a CPU the fastest method depends on how many matrices are in a call, and another method gives other last bits. A rank
that owns some blocks has fewer in a call than one process. So those roots of the whole run count, that the schedule
renews together.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from matroot import Tridiagonal, select_method
from matroot_optim.arrays import Array, on_host
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Stack
from matroot_optim.refresh.jobs import RootBatch
from matroot_optim.refresh.phases import first_marks
from matroot_optim.rules import Rule

#: Beyond these, roots count half, as if two ranks shared them. Against LAPACK, lanes with eight of order 256 take half
#: of the time in one process and twice on four ranks, which have two each; of order 512 two thirds, and three times.
FEW = 5


def crowds(layout: Layout, interval: int, schedule: str) -> dict[str, Any]:
    """Return for each root how many like it the schedule renews together in the whole run; above `FEW`, a half of them.

    Arrays of the roots of this layout, by the prefix of a dimension of a stack.

    >>> from matroot_optim import Shampoo
    >>> from matroot_optim.layout.layout import make_layout
    >>> layout = make_layout(Shampoo(1e-3), {name: np.zeros((64, 64)) for name in "abc"})
    >>> crowds(layout, 4, "staggered")[":stack0/axis0"]
    array([2, 2, 2])
    """
    counts = layout.own(_counts(layout.orders, layout.alike, interval, schedule))
    return {stack.axis_name(axis): mine for stack, axis, mine in layout.split(counts)}


@lru_cache(maxsize=64)
def _counts(orders: tuple[int, ...], alike: tuple[int, ...], interval: int, schedule: str) -> Any:
    together = np.stack([alike, first_marks(orders, interval, schedule)], axis=1)
    _, where, counts = np.unique(together, axis=0, return_inverse=True, return_counts=True)
    return np.minimum(counts, np.maximum(FEW, (counts + 1) // 2))[where.reshape(-1)]


def methods_of(stack: Stack, axis: int, rule: Rule, matrix: Array, crowd: Any) -> list[tuple[Any, Any]]:
    """Return the methods of the roots of some packed matrices, each with the positions of its roots.

    `crowd` holds their numbers of `crowds`. Elsewhere than on a CPU, the method depends on no number, and is left open.
    """
    o = stack.options
    if not on_host(matrix):
        return [(o.root_method, np.arange(len(crowd)))]
    found: dict[Any, Any] = {}
    for count in sorted(set(crowd.tolist())):
        method = _resolved(stack.shape[axis], count, stack.exponent(axis), rule, o.root_method, o.root_dtype)
        found[method] = found.get(method, False) | (crowd == count)
    return [(method, np.flatnonzero(mask)) for method, mask in found.items()]


def with_method(batch: RootBatch) -> RootBatch:
    """Resolve the method of a batch of its own, so that every part of the batch has the bits of the whole."""
    if batch.task != "root" or not on_host(batch.matrix):
        return batch
    how = (batch.exponent, batch.regularization, batch.method, batch.dtype)
    return replace(batch, method=_resolved(batch.n, len(batch.matrix), *how))


@lru_cache(maxsize=1024)
def _resolved(n: int, count: int, exponent: Fraction, rule: Rule, method: Any, dtype: str) -> Any:
    """Return the method that serves so many matrices of order n on a CPU, as an object that leaves nothing open."""
    alike = np.broadcast_to(np.zeros((), dtype), (count, n, n))  # of which the shape is read
    found = select_method(alike, exponent.denominator, method=method, regularization=rule, compute_dtype=dtype)
    if isinstance(found, Tridiagonal):
        found = replace(found, lanes=found.in_lanes(alike))
    return replace(found, reason="")

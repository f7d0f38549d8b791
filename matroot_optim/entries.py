"""The arrays of a state: names and initial values, and the pending root jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from matroot_optim.arrays import Array, cast, copy, like, zeros
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf, Stack
from matroot_optim.options import Options
from matroot_optim.refresh.engines import Failure
from matroot_optim.refresh.jobs import FACTS, RootAnswer, RootJob
from matroot_optim.refresh.phases import first_marks
from matroot_optim.step.betas import BETAS, betas_of
from matroot_optim.step.statistics import packed_size

#: Counters per root, on the host: the step at which it was last due, the step of its statistics (0: no root yet,
#: -1: a new root is requested), and counts.
BOOKS = {
    "mark": np.int64,
    "taken": np.int64,
    "failures": np.int32,  # since the last good root; each multiplies the ridge by ten
    "refreshes": np.int32,
    "skipped": np.int32,  # answers that were late, lost or bad
    "spared": np.int32,  # due, but the old root was still good
}
#: Entries of a root, without the statistic it is computed from.
OF_ROOT = ("root", *FACTS, *BOOKS)
#: Per leaf, on the host.
COUNTS = {
    "count": np.int64,
    "accumulated": np.int64,
    "skipped": np.int64,
}
#: Per leaf, on the host: the largest recent norm of a gradient, and the power of two that divides the gradients.
UNITS = {"peak": np.float64, "exponent": np.int32}
OF_LEAF = {**COUNTS, **UNITS, **BETAS}

#: Internal array and index in it, by name; None: the whole array.
Places = dict[str, tuple[str, int | None]]


@dataclass(frozen=True)
class Pending:
    """A pending batch: the step of its submission, its jobs without matrices, and a function that gives the answer.

    `answer` may need the other ranks of a run; `alone` gives the same answer without them, for a save or a copy.
    """

    submitted: int
    jobs: tuple[RootJob, ...]
    answer: Callable[[], RootAnswer | Failure]
    alone: Callable[[], RootAnswer | Failure] | None = None

    @property
    def due(self) -> int:
        """The step at which the roots are installed."""
        return self.jobs[0].due


@dataclass(frozen=True)
class Settled:
    """The answer of a finished batch; a save, a pickle or a load keeps only this."""

    value: RootAnswer | Failure

    def __call__(self) -> RootAnswer | Failure:
        return self.value


def settled(pending: Sequence[Pending]) -> tuple[Pending, ...]:
    """Wait for the answers of the batches and return the batches with them; no other rank is needed."""
    return tuple(Pending(p.submitted, p.jobs, Settled((p.alone or p.answer)())) for p in pending)


def places(layout: Layout) -> list[Places]:
    """Return, for every parameter, the internal array and the index in it by name without the path."""
    found: list[Places] = []
    for i, leaf in enumerate(layout.leaves):
        counts: Places = {part: (part, i) for part in OF_LEAF}
        found.append({**counts, **{part: (leaf.name(part), None) for part in leaf.parts}})
    for stack in layout.stacks:
        parts = ("statistic", *OF_ROOT)
        arrays = [f"{stack.axis_name(axis)}/{part}" for axis in stack.axes for part in parts]
        names: dict[int, list[str]] = {}  # the same for many parameters
        for b, (i, number) in enumerate(layout.blocks_of(stack)):
            if number not in names:
                names[number] = [f"block{number}/axis{axis}/{part}" for axis in stack.axes for part in parts]
            found[i].update(zip(names[number], zip(arrays, repeat(b)), strict=True))
    return found


def fresh_arrays(
    options: Options, layout: Layout, params: Sequence[Array], known: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Return the arrays before the first step: zero statistics, roots I; of the parameters' parts, those `known`."""
    arrays: dict[str, Array] = {"step": np.zeros((), np.int64)}
    arrays.update({name: np.zeros(len(layout.leaves), kind) for name, kind in OF_LEAF.items()})
    arrays.update(betas_of(layout))
    known = known or {}
    for leaf, x in zip(layout.leaves, params, strict=True):
        for part in leaf.parts:
            name = leaf.name(part)
            arrays[name] = known[name] if name in known else fresh_part(leaf, part, x)
    for stack in layout.stacks:
        x = params[stack.members[0].leaf]
        for axis in stack.axes:
            arrays.update(fresh_factor(stack, axis, x))
    arrays.update(fresh_marks(layout, options.interval(1), options.schedule))
    return arrays


def fresh_part(leaf: Leaf, part: str, x: Array) -> Array:
    """Return one of the arrays of a parameter x before the first step."""
    if part == "weights":
        return np.zeros(2)
    return cast(copy(x), leaf.dtype) if part == "average" else zeros(leaf.shape, leaf.dtype, x)


def fresh_factor(stack: Stack, axis: int, x: Array) -> dict[str, Array]:
    """Return the initial arrays of one dimension of a stack, on the device of x."""
    n, B, name = stack.shape[axis], stack.blocks, stack.axis_name(axis)
    eye = np.broadcast_to(np.eye(n, dtype=stack.dtype), (B, n, n)).copy()
    arrays = {
        f"{name}/statistic": zeros((B, packed_size(n)), stack.dtype, x),
        f"{name}/root": like(eye, x),
    }
    arrays.update({f"{name}/{part}": np.zeros(B, kind) for part, kind in {**FACTS, **BOOKS}.items()})
    return arrays


def answer_size(stack: Stack, axis: int) -> int:
    """Return the length of a root of one dimension in an answer: packed, or n^2 for a basis."""
    n = stack.shape[axis]
    return n**2 if stack.in_basis else packed_size(n)


def fresh_marks(layout: Layout, interval: int, schedule: str) -> dict[str, Array]:
    """Return the first mark of every root, with phases distributed over the roots of all stacks."""
    marks = layout.own(first_marks(layout.orders, interval, schedule))
    return {f"{stack.axis_name(axis)}/mark": mine.copy() for stack, axis, mine in layout.split(marks)}

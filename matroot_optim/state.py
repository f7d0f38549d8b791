"""The state: arrays by name, immutable, and the root jobs that are under way.

At work, blocks of one shape lie stacked in one array. To the outside a `State` is a flat mapping of names to
arrays, one per block: "layer/kernel/block0/axis1/statistic".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, like, zeros
from matroot_optim.layout.layout import Layout, Leaf, Stack
from matroot_optim.options import Options
from matroot_optim.refresh.engines import Failure
from matroot_optim.refresh.jobs import FACTS, RootAnswer, RootJob
from matroot_optim.refresh.phases import first_marks
from matroot_optim.step.statistics import packed_size

#: Per root, on the host: when it was last due, the step of its statistics (0: none yet, -1: wanted), and counts.
BOOKS = {
    "mark": np.int64,
    "taken": np.int64,
    "failures": np.int32,  # since the last good root; each is ten times more ridge
    "refreshes": np.int32,
    "skipped": np.int32,  # answers that were late, lost or bad
    "spared": np.int32,  # due, but the old root was still good
}
#: What is kept of a root, beside the statistic it is made from.
OF_ROOT = ("root", *FACTS, *BOOKS)
#: Per leaf, on the host.
COUNTS = {
    "count": np.int64,
    "accumulated": np.int64,
    "skipped": np.int64,
}
#: Per leaf, on the host: the largest norm of a gradient, of late, and the power of two that gradients are divided by.
UNITS = {"peak": np.float64, "exponent": np.int32}
OF_LEAF = {**COUNTS, **UNITS}

#: By name, the array at work and the index in it; None: all of it.
Places = dict[str, tuple[str, int | None]]


@dataclass(frozen=True)
class Pending:
    """A batch under way: the step it was submitted, its jobs (without their matrices), and the way to its answer."""

    submitted: int
    jobs: tuple[RootJob, ...]
    answer: Callable[[], RootAnswer | Failure]

    @property
    def due(self) -> int:
        """The step at which it is installed."""
        return self.jobs[0].due


@dataclass(frozen=True)
class Settled:
    """The answer of a batch that has come: what a save, a pickle or a load leaves of it."""

    value: RootAnswer | Failure

    def __call__(self) -> RootAnswer | Failure:
        return self.value


def settled(pending: Sequence[Pending]) -> tuple[Pending, ...]:
    """The same batches with their answers, waited for."""
    return tuple(Pending(p.submitted, p.jobs, Settled(p.answer())) for p in pending)


@dataclass(frozen=True, eq=False)
class State(Mapping[str, Array]):
    """State of `Shampoo`: a flat mapping of names to arrays, one entry per block and per parameter.

    Notes
    -----
    ``step``
        Steps done.
    ``PATH/momentum``, ``PATH/moment``
        Momentum buffer and second moment of the first-order method, of the parameter's shape.
    ``PATH/count``, ``PATH/accumulated``, ``PATH/skipped``
        Steps that counted, gradients in the statistics, gradients that were not finite.
    ``PATH/peak``, ``PATH/exponent``
        Largest norm of late, and e where momentum, moment and statistics are of gradients divided by 2^e.
    ``PATH/blockK/axisI/statistic``
        Packed statistic, n (n + 1) / 2.
    ``PATH/blockK/axisI/root``
        Its root, (n, n).
    ``PATH/blockK/axisI/residual``, ``cond``, ``status``, ``taken``, ...
        What is known of the root; see `FACTS` and `BOOKS`.
    """

    layout: Layout
    arrays: dict[str, Array]
    pending: tuple[Pending, ...] = field(default=())

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.arrays["step"])

    @cached_property
    def _places(self) -> Places:
        """For every outside name, the array at work and the index in it."""
        found = zip(self.layout.leaves, places(self.layout), strict=True)
        mine = {leaf.name(part): place for leaf, parts in found for part, place in parts.items()}
        return {"step": ("step", None), **mine}

    def __getitem__(self, name: str) -> Array:
        where, index = self._places[name]
        return self.arrays[where] if index is None else self.arrays[where][index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def of_root(self, name: str) -> bool:
        """Whether an entry belongs to a root and not to what the root is made from."""
        part = self._places[name][0].rsplit("/", 1)[-1]
        return name not in self._leaf_names and part in OF_ROOT

    @cached_property
    def _leaf_names(self) -> set[str]:
        return {leaf.name(part) for leaf in self.layout.leaves for part in (*OF_LEAF, *leaf_parts(leaf))}

    def save(self, path: str | os.PathLike[str], *, roots: bool = True) -> None:
        """Write the state to a file; `Shampoo.load` reads it in any framework.

        A ".safetensors" or ".npz" file by its suffix; otherwise safetensors when that package is installed. Every
        array has a checksum, which a load compares. The write is atomic: a full disk or a kill leaves the old file,
        and the next save removes what a killed one left. The mode of an old file is kept, and so is a symbolic link.
        Root jobs under way are waited for and saved.

        Parameters
        ----------
        path : path
        roots : bool
            Without them the file is smaller, and they are computed at the first step after the load.
        """
        from matroot_optim.checkpoint.exchange import export
        from matroot_optim.checkpoint.files import write

        write(path, *export(self, roots=roots))

    def __repr__(self) -> str:
        stacks = self.layout.stacks
        return (
            f"State(step={self.step}, {len(self.layout.leaves)} parameters, {sum(s.blocks for s in stacks)} blocks in "
            f"{len(stacks)} stacks, {len(self.pending)} batches under way)"
        )

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: what is under way is waited for, since a future belongs to one process."""
        return {"layout": self.layout, "arrays": self.arrays, "pending": settled(self.pending)}

    def __setstate__(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def places(layout: Layout) -> list[Places]:
    """For every parameter and each of its names without the path, the array at work and the index in it."""
    found: list[Places] = []
    for i, leaf in enumerate(layout.leaves):
        counts: Places = {part: (part, i) for part in OF_LEAF}
        found.append({**counts, **{part: (leaf.name(part), None) for part in leaf_parts(leaf)}})
    for stack in layout.stacks:
        for member in stack.members:
            leaf, mine = layout.leaves[member.leaf], found[member.leaf]
            for b, origin in enumerate(leaf.regions[member.region].origins(), member.start):
                for axis in stack.axes:
                    block, array = f"block{leaf.block_number[origin]}/axis{axis}", stack.axis_name(axis)
                    mine.update({f"{block}/{part}": (f"{array}/{part}", b) for part in ("statistic", *OF_ROOT)})
    return found


def leaf_parts(leaf: Leaf) -> list[str]:
    """Names of the arrays of a parameter's shape."""
    return ["momentum"] * leaf.has_momentum + ["moment"] * leaf.has_moment


def fresh(options: Options, layout: Layout, params: Sequence[Array]) -> State:
    """The state before the first step: zero statistics, roots I."""
    arrays: dict[str, Array] = {"step": np.zeros((), np.int64)}
    arrays.update({name: np.zeros(len(layout.leaves), kind) for name, kind in OF_LEAF.items()})
    for leaf, x in zip(layout.leaves, params, strict=True):
        for part in leaf_parts(leaf):
            arrays[leaf.name(part)] = zeros(leaf.shape, leaf.dtype, x)
    for stack in layout.stacks:
        x = params[stack.members[0].leaf]
        for axis in stack.axes:
            arrays.update(fresh_factor(stack, axis, x))
    arrays.update(fresh_marks(layout, options.interval(1), options.schedule))
    return State(layout, arrays)


def fresh_factor(stack: Stack, axis: int, x: Array) -> dict[str, Array]:
    """The arrays of one dimension of a stack, beside x."""
    n, B, name = stack.shape[axis], stack.blocks, stack.axis_name(axis)
    eye = np.broadcast_to(np.eye(n, dtype=stack.dtype), (B, n, n)).copy()
    arrays = {
        f"{name}/statistic": zeros((B, packed_size(n)), stack.dtype, x),
        f"{name}/root": like(eye, x),
    }
    arrays.update({f"{name}/{part}": np.zeros(B, kind) for part, kind in {**FACTS, **BOOKS}.items()})
    return arrays


def fresh_marks(layout: Layout, interval: int, schedule: str) -> dict[str, Array]:
    """The phase of every root, dealt over all stacks together."""
    sizes = [stack.shape[axis] for stack, axis in layout.factors for _ in range(stack.blocks)]
    marks = first_marks(sizes, interval, schedule)
    arrays, start = {}, 0
    for stack, axis in layout.factors:
        arrays[f"{stack.axis_name(axis)}/mark"] = marks[start : start + stack.blocks].copy()
        start += stack.blocks
    return arrays

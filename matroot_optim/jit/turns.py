"""The schedule of roots as a table, for compiled jax steps, in which the step number is traced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Stack
from matroot_optim.options import Options
from matroot_optim.refresh.due import steps_to_use
from matroot_optim.refresh.phases import first_marks, levels

#: Blocks that are due together: for each dimension of a stack, their indices.
Due = list[tuple[Stack, int, Any]]


@dataclass(frozen=True)
class Turns:
    """A table that gives the set of roots due at a step, over the phases of every interval."""

    #: the different sets of roots
    sets: list[Due]
    #: the set of every phase, interval after interval; then the sets of the step at which Shampoo starts, of no roots,
    #: and of all roots
    which: list[int]
    #: the roots of every set, (sets, roots)
    masks: Any
    #: for every interval: its first step, a step of phase 0, its length, and the index of its first phase in `which`
    begins: list[int]
    bases: list[int]
    intervals: list[int]
    offsets: list[int]

    @property
    def all(self) -> int:
        """Number of the set of all roots."""
        return self.which[-1]

    def at(self, t: Any, start: int, everything: Any = False) -> Any:
        """Return the number of the set that is due at step t; if `everything`, that of all roots."""
        level = jnp.searchsorted(jnp.asarray(self.begins), t, side="right") - 1
        base, interval, offset = (jnp.asarray(x)[level] for x in (self.bases, self.intervals, self.offsets))
        place = jnp.where(t == start, len(self.which) - 3, offset + (t - base) % interval)
        # A root whose next turn comes before Shampoo starts would never be used.
        place = jnp.where(t > start - interval, place, len(self.which) - 2)
        place = jnp.where(everything, len(self.which) - 1, place)
        return jnp.asarray(self.which)[place]


def turns(options: Options, layout: Layout, *, late: bool = False) -> Turns:
    """Return the core's schedule as a table, of the roots used one step after their turn if `late`, else of others."""
    sizes = layout.orders
    masks: list[Any] = []
    begins: list[int] = []
    bases: list[int] = []
    intervals: list[int] = []
    offsets: list[int] = []
    for begin, interval, level in _sections(options):
        base = level
        if options.schedule == "interval" and bases:  # one interval after the last refresh
            base = bases[-1] + (begin - 1 - bases[-1]) // intervals[-1] * intervals[-1] + interval
        marks = first_marks(sizes, interval, options.schedule)
        begins, bases = [*begins, begin], [*bases, base]
        intervals, offsets = [*intervals, interval], [*offsets, len(masks)]
        waits = [steps_to_use(options, layout, s, begin) for s, _ in layout.factors for _ in range(s.blocks)]
        masks += [((j + 1 - marks) % interval == 0) & (np.array(waits) == late) for j in range(interval)]
    start, seen = options.first_root_step, np.zeros(len(sizes), bool)
    for t in range(1, start + 1):  # roots without a turn before Shampoo starts are due at the start
        k = int(np.searchsorted(begins, t, side="right")) - 1
        mask = masks[offsets[k] + (t - bases[k]) % intervals[k]]
        first, seen = mask | ~seen, seen | mask
    sets: dict[bytes, int] = {}
    found: list[Due] = []
    which = []
    none, everything = np.zeros(len(sizes), bool), np.ones(len(sizes), bool)
    if late:  # first roots are never late
        first, everything = none, np.any([none, *masks], axis=0)
    for mask in [*masks, first, none, everything]:
        key = mask.tobytes()
        if key not in sets:
            sets[key] = len(found)
            found.append([(s, axis, np.flatnonzero(mine)) for s, axis, mine in layout.split(mask) if mine.any()])
        which.append(sets[key])
    different = np.array([np.frombuffer(key, bool) for key in sets]).reshape(len(sets), len(sizes))
    return Turns(found, which, different, begins, bases, intervals, offsets)


def marks(options: Options, layout: Layout, step: int) -> dict[str, Any]:
    """Return the core's marks, the last due step of every root, after so many steps.

    A root that is used one step later has not been computed at its turn yet, and is due again.
    """
    table = turns(options, layout)
    level = max(int(np.searchsorted(table.begins, step, side="right")) - 1, 0)
    base, interval = table.bases[level], table.intervals[level]
    first = first_marks(layout.orders, interval, options.schedule)
    found = step - (step - base + 1 - first) % interval
    arrays, start = {}, 0
    for stack, axis in layout.factors:
        mine = found[start : start + stack.blocks]
        wait = steps_to_use(options, layout, stack, step)
        arrays[f"{stack.axis_name(axis)}/mark"] = np.where((mine == step) & (wait > 0), step - interval, mine)
        start += stack.blocks
    return arrays


def _sections(options: Options) -> list[tuple[int, int, int]]:
    """Return steps with their interval and its first step; `steps_to_use` is constant from one to the next."""
    found: list[tuple[int, int, int]] = []
    for begin, interval in levels(options):
        settled = options.first_root_step + interval
        if found and found[-1][0] > begin:
            found.pop()
        found.append((begin, interval, begin))
        if settled > begin:
            found.append((settled, interval, begin))
    return found

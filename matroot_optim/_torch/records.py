"""Conversion of the state to one record per parameter, independent of the layout, and back.

A record holds the entries of `optimizer.state_dict()` for one parameter. Their names are those of `matroot_optim.State`
without the path, and "step". A record may also hold entries of other code, for example of wrappers of optimizers.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from matroot_optim.arrays import Array, to_host
from matroot_optim.checkpoint.columns import on_host
from matroot_optim.checkpoint.exchange import SMALL, describe, restore_entries
from matroot_optim.checkpoint.metadata import FORMAT
from matroot_optim.entries import OF_LEAF, Pending, Places, answer_size, places, settled
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf
from matroot_optim.options import Options
from matroot_optim.refresh.jobs import FACTS, RootAnswer
from matroot_optim.state import State, fresh
from matroot_optim.step.narrow import widen

Entries = dict[str, Any]
#: Cuts of parameters, by shape.
Cuts = dict[tuple[int, ...], Any]

_OWN = re.compile(r"step|momentum|moment|average|weights|block\d+/axis\d+/.+|" + "|".join(OF_LEAF))
#: Length of the head of a row of "pending", before the facts and the packed root: submitted at, due at, has a root.
_HEAD = 3


@dataclass
class Record:
    """The entries of a parameter, and the parameter's cut when they were taken; None: the current cut."""

    entries: Entries
    cut: Leaf | Mapping[str, Any] | None = None

    @property
    def others(self) -> Entries:
        """Entries that do not belong to the optimizer."""
        own = self.own
        return {name: x for name, x in self.entries.items() if name not in own} if len(own) < len(self.entries) else {}

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the entries that belong to the optimizer."""
        return _own(tuple(self.entries))


@functools.lru_cache(64)
def _own(names: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if _OWN.fullmatch(str(name)))


@functools.lru_cache(64)
def _split(own: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the names of entries of a checkpoint, and those of tables of root jobs."""
    tables = [name for name in own if name.endswith("/pending")]
    return [name for name in own if name not in {*tables, "step"}], tables


# To records.


def take_apart(state: State, found: Sequence[Places], slots: int) -> list[Entries]:
    """Copy the entries of every parameter to the host; `slots` as for `pending_entries`.

    The entries are views of a few tensors, so a save writes only these few.
    """
    arrays = widen(state.layout, state.arrays)
    copies = _copies({name: x for name, x in arrays.items() if name not in ("step", "graft_ratio")})
    rows = {name: x.unbind() for name, x in copies.items() if name in OF_LEAF or name.startswith(":")}
    step = {"step": torch.tensor(state.step, device="cpu")}
    jobs = pending_entries(state, found, slots)
    return [
        {**{name: copies[array] if k is None else rows[array][k] for name, (array, k) in mine.items()}, **more, **step}
        for mine, more in zip(found, jobs, strict=True)
    ]


def _copies(arrays: Mapping[str, Array]) -> Entries:
    """Copy arrays to the host; small tensors of one shape are fetched together, which is ten times as fast."""
    alike: dict[Any, list[str]] = {}
    for name, x in arrays.items():
        together = isinstance(x, torch.Tensor) and x.numel() <= SMALL
        alike.setdefault((x.shape, x.dtype, x.device) if together else name, []).append(name)
    copies: Entries = {}
    for names in alike.values():
        found = [arrays[name] for name in names]
        values = to_host(torch.stack(found)) if len(found) > 1 else map(to_host, found)
        copies.update({name: torch.from_numpy(np.array(x)) for name, x in zip(names, values, strict=True)})
    return copies


def pending_entries(state: State, places: Sequence[Places], slots: int) -> list[Entries]:
    """Wait for the pending root jobs and return, for each root, one tensor of `slots` rows; free rows are zero.

    The shape does not depend on the number of jobs, because `torch.distributed.checkpoint` loads into the tensors of a
    new optimizer.
    """
    jobs = _answers(state.pending)
    slots = max(slots, *map(len, jobs.values()), 0)
    found: list[Entries] = [{} for _ in places]
    sizes = {stack.axis_name(axis): answer_size(stack, axis) for stack, axis in state.layout.factors}
    if not slots:
        return found
    for entries, mine in zip(found, places, strict=True):
        for name in pending_names(mine):
            array, k = mine[name.replace("/pending", "/statistic")]
            size = sizes[array.removesuffix("/statistic")]
            table = np.zeros((slots, _HEAD + len(FACTS) + size))
            for row, job in zip(table, jobs.get((array.removesuffix("/statistic"), k), []), strict=False):
                row[: len(job)] = job
            entries[name] = torch.from_numpy(table)
    return found


def pending_names(places: Places) -> list[str]:
    """Return the names of the entries of pending root jobs, one for each root."""
    return [name.replace("/statistic", "/pending") for name in places if name.endswith("/statistic")]


def _answers(pending: Sequence[Pending]) -> dict[tuple[str, int | None], list[Any]]:
    """Return the rows of the pending jobs for every (stack and dimension, block)."""
    found: dict[tuple[str, int | None], list[Any]] = {}
    for batch in settled(pending):
        answer, start = batch.answer(), 0
        for job in batch.jobs:
            for j, b in enumerate(job.index, start):
                there = isinstance(answer, RootAnswer)
                row = [batch.submitted, job.due, there]
                if isinstance(answer, RootAnswer):
                    row += [*(answer.facts[fact][j] for fact in FACTS), *to_host(answer.root[j])]
                found.setdefault((job.key, int(b)), []).append(row)
            start += len(job.index)
    return found


# From records.


def put_together(
    options: Options,
    layout: Layout,
    params: Sequence[Array],
    records: Sequence[Record | None],
) -> State:
    """Build the state from records; a parameter without a record starts afresh.

    Raises
    ------
    ValueError
        A record does not fit its parameter.
    """
    if all(record is None for record in records):
        return fresh(options, layout, params)
    if any(record is None for record in records):
        new = take_apart(fresh(options, layout, params), places(layout), 0)
        records = [Record(start) if record is None else record for record, start in zip(records, new, strict=True)]
    whole = [record for record in records if record is not None]
    entries: dict[str, Entries] = {}
    steps: dict[int, tuple[str, Any]] = {}  # of one tensor for all, mostly
    jobs = 0
    for leaf, record in zip(layout.leaves, whole, strict=True):
        given, (own, tables) = record.entries, _split(record.own)
        step = given.get("step")
        steps[id(step)] = (leaf.path, step)
        entries[leaf.path] = mine = {name: given[name] for name in own}
        for name in tables:
            found = _jobs(leaf.name(name), given[name])
            jobs += sum(part.endswith("/due") for part in found)
            mine.update({f"{name}{part}": x for part, x in found.items()})
    meta = {"format": FORMAT, "leaves": _cuts(layout.leaves, whole), "roots": True, "jobs": jobs}
    last = np.asarray(max(_step(*step) for step in steps.values()), np.int64)
    return State(layout, *restore_entries(options, layout, params, last, entries, meta))


def _step(path: str, step: Any) -> int:
    unread = step is None or getattr(step, "is_meta", False)  # of a dict that was loaded without its numbers
    if unread or np.shape(step) != () or np.asarray(step).dtype.kind != "i":
        raise ValueError(f"the state of parameter {path!r} must have its step, an integer, got {step!r}")
    return int(step)


def _jobs(name: str, table: Any) -> Entries:
    """Convert the table `name` of the jobs of one root to entries of a checkpoint, by what follows "pending"."""
    table = on_host(name, table)
    shape = table.shape
    if len(shape) != 2 or not shape[0] or shape[1] <= _HEAD + len(FACTS):
        raise ValueError(f"the state must have a table of root jobs as {name!r}, got shape {shape}")
    found: Entries = {}
    for row in table:
        submitted, due, there = map(int, row[:_HEAD])
        if submitted:
            found[f"{submitted}/due"] = np.asarray(due, np.int64)
        if submitted and there:
            facts = zip(FACTS.items(), row[_HEAD:], strict=False)
            found.update({f"{submitted}/{fact}": np.asarray(value, kind) for (fact, kind), value in facts})
            found[f"{submitted}/root"] = row[_HEAD + len(FACTS) :]
    return found


def _cuts(leaves: Iterable[Leaf], records: Iterable[Record]) -> dict[str, Any]:
    """Return the metadata of every parameter by path, one dict for those that share their cut."""
    alike: dict[Any, Any] = {}
    found: dict[str, Any] = {}
    for leaf, record in zip(leaves, records, strict=True):
        cut = leaf if record.cut is None else record.cut
        parts = [part for part in leaf.parts if part in record.entries]
        of_cut = (cut.shape, cut.merged, cut.axes, cut.in_basis, id(cut.regions)) if isinstance(cut, Leaf) else id(cut)
        key = (of_cut, *parts, *(cut.kinds.values() if isinstance(cut, Leaf) else ()))
        if key not in alike:
            alike[key] = {"parts": parts, **(describe(cut) if isinstance(cut, Leaf) else cut)}
        found[leaf.path] = alike[key]
    return found


# Cuts of parameters. Within a group, the cut depends only on the shape.


def cuts_to_text(leaves: Sequence[Leaf | None], pending: bool) -> str:
    """Write the cuts of a group's parameters as JSON, one entry for each shape, with the flag `pending`.

    None is a parameter without a state; their numbers are written too.
    """
    alike = {leaf.shape: leaf for leaf in leaves if leaf is not None}
    cuts = [{**describe(leaf), "pending": pending} for leaf in alike.values()]
    without = [i for i, leaf in enumerate(leaves) if leaf is None]
    return json.dumps({"format": FORMAT, "leaves": cuts, "without": without})

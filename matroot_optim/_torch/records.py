"""Conversion of the state to one record per parameter, independent of the layout, and back.

A record holds the entries of `optimizer.state_dict()` for one parameter. Their names are those of `matroot_optim.State`
without the path, and "step". A record may also hold entries of other code, for example of wrappers of optimizers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from matroot_optim._torch.groups import META
from matroot_optim.arrays import Array, to_host
from matroot_optim.checkpoint.exchange import describe, restore
from matroot_optim.checkpoint.metadata import FORMAT
from matroot_optim.entries import OF_LEAF, UNITS, Pending, Places, answer_size, leaf_parts, settled
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
        return {name: x for name, x in self.entries.items() if not _OWN.fullmatch(str(name))}


# To records.


def take_apart(state: State, places: Sequence[Places], slots: int) -> list[Entries]:
    """Copy the entries of every parameter to the host; `slots` as for `pending_entries`.

    The entries are views of a few tensors, so a save writes only these few.
    """
    copies = {
        name: torch.from_numpy(np.array(to_host(x)))
        for name, x in widen(state.layout, state.arrays).items()
        if name not in ("step", "graft_ratio")
    }
    rows = {name: x.unbind() for name, x in copies.items() if name in OF_LEAF or name.startswith(":")}
    step = {"step": torch.tensor(state.step)}
    jobs = pending_entries(state, places, slots)
    return [
        {**{name: copies[array] if k is None else rows[array][k] for name, (array, k) in mine.items()}, **more, **step}
        for mine, more in zip(places, jobs, strict=True)
    ]


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
    places: Sequence[Places],
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
        new = take_apart(fresh(options, layout, params), places, 0)
        records = [Record(start) if record is None else record for record, start in zip(records, new, strict=True)]
    whole = [record for record in records if record is not None]
    names: Entries = {}
    steps = []
    for leaf, record in zip(layout.leaves, whole, strict=True):
        for name, x in record.entries.items():
            if _OWN.fullmatch(str(name)):
                names.update(_saved(leaf.name(name), x))
        steps.append(_step(leaf.path, names.pop(leaf.name("step"), None)))
    names["step"] = np.asarray(max(steps), np.int64)
    cuts = {leaf.path: _cut(leaf, record) for leaf, record in zip(layout.leaves, whole, strict=True)}
    jobs = sum(name.endswith("/due") for name in names)
    meta = {"format": FORMAT, "leaves": cuts, "roots": True, "jobs": jobs}
    return State(layout, *restore(options, layout, params, names, meta))


def _step(path: str, step: Any) -> int:
    if step is None or np.shape(step) != () or np.asarray(step).dtype.kind != "i":
        raise ValueError(f"the state of parameter {path!r} must have its step, an integer, got {step!r}")
    return int(step)


def _saved(name: str, x: Any) -> Entries:
    """Convert an entry of a record to entries of a checkpoint."""
    if not isinstance(x, torch.Tensor | np.ndarray):
        raise ValueError(f"the state must have a tensor as {name!r}, got {type(x).__name__}")
    try:
        x = to_host(x)
    except (TypeError, RuntimeError) as wrong:
        raise ValueError(f"the state must have numbers as {name!r}, got {type(x).__name__}: {wrong}") from wrong
    if not name.endswith("/pending"):
        return {name: x}
    shape = np.shape(x)
    if len(shape) != 2 or not shape[0] or shape[1] <= _HEAD + len(FACTS):
        raise ValueError(f"the state must have a table of root jobs as {name!r}, got shape {shape}")
    found: Entries = {}
    for row in np.asarray(x):
        submitted, due, there = map(int, row[:_HEAD])
        if submitted:
            found[f"{name}{submitted}/due"] = np.asarray(due, np.int64)
        if submitted and there:
            facts = zip(FACTS.items(), row[_HEAD:], strict=False)
            found.update({f"{name}{submitted}/{fact}": np.asarray(value, kind) for (fact, kind), value in facts})
            found[f"{name}{submitted}/root"] = row[_HEAD + len(FACTS) :]
    return found


def _cut(leaf: Leaf, record: Record) -> dict[str, Any]:
    parts = [part for part in leaf_parts(leaf) if part in record.entries]
    cut = leaf if record.cut is None else record.cut
    return {"parts": parts, **(describe(cut) if isinstance(cut, Leaf) else cut)}


# Cuts of parameters. Within a group, the cut depends only on the shape.


def cuts_to_text(leaves: Iterable[Leaf], pending: bool) -> str:
    """Write the cuts of a group's parameters as JSON, one entry for each shape, with the flag `pending`."""
    alike = {leaf.shape: {**describe(leaf), "pending": pending} for leaf in leaves}
    return json.dumps({"format": FORMAT, "leaves": list(alike.values())})


def cuts_from_text(text: Any) -> Cuts | None:
    """Read the cuts of a group's parameters, by shape; None if they were not written.

    Raises
    ------
    ValueError
        The text is not what `cuts_to_text` writes.
    """
    if text == "":
        return None
    try:
        found = json.loads(text)
        cuts = {tuple(cut["shape"]): cut for cut in found["leaves"]}
    except (TypeError, ValueError, LookupError) as wrong:
        raise ValueError(f"{META!r} of a group must be what state_dict wrote there, got {text!r:.200}") from wrong
    _check_format(found)
    return cuts


def cuts_from_leaves(meta: Any, groups: int) -> list[Cuts | None]:
    """Read the cuts of every group from metadata that name the parameters.

    Raises
    ------
    ValueError
        The metadata are not those of `matroot_optim.checkpoint.exchange.export`.
    """
    found: list[Cuts] = [{} for _ in range(groups)]
    try:
        for path, cut in meta["leaves"].items():
            found[int(path.partition("/")[0])][tuple(cut["shape"])] = cut
    except (TypeError, ValueError, LookupError, AttributeError) as wrong:
        raise ValueError(f"{META!r} must be what state_dict wrote there, got {meta!r:.200}") from wrong
    _check_format(meta)
    return [*found]


def _check_format(meta: Any) -> None:
    if type(meta.get("format")) is not int or not 1 <= meta["format"] <= FORMAT:
        raise ValueError(f"the state_dict must be of format 1 to {FORMAT}, got {meta.get('format')!r}")


def record_of(
    path: str, shape: Iterable[int], entries: Any, cuts: Cuts | None, *, units: bool, whole: bool = True
) -> Record | None:
    """Return the record of a parameter from its entries in a dict; None without entries.

    Dicts of format 1 have no `units`: gradients were not divided. Without `whole`, blocks may be missing.

    Raises
    ------
    ValueError
        The dict does not fit the parameter.
    """
    if not entries:
        return None
    if not isinstance(entries, Mapping):
        raise ValueError(f"the state of parameter {path!r} must be a dict, got {type(entries).__name__}")
    shape = tuple(shape)
    if cuts is not None and shape not in cuts:
        raise ValueError(f"the state_dict must have shape {shape} for parameter {path!r}, got {list(cuts)}")
    cut = dict(cuts[shape]) if cuts is not None else None
    for name in _pending_of(cut) if cut is not None and cut.pop("pending", False) is True else ():
        if whole and name not in entries:
            raise ValueError(f"the state of parameter {path!r} must have the entry {name!r}")
    plain = {} if units else {part: np.zeros((), kind) for part, kind in UNITS.items()}
    return Record({**plain, **entries}, cut)


def _pending_of(cut: Mapping[str, Any]) -> list[str]:
    """Return the names of the entries of pending root jobs from the metadata of a parameter."""
    try:
        return [f"block{k}/axis{axis}/pending" for k in range(len(cut["blocks"])) for axis in cut["axes"]]
    except (TypeError, KeyError):
        return []  # `restore` raises for wrong metadata


def check_outline(found: Mapping[str, Any]) -> None:
    """Raise if a dict lacks the containers of an optimizer's state dict.

    Raises
    ------
    ValueError
    """
    if not isinstance(found.get("state"), Mapping):
        raise ValueError(f"the state_dict must have a dict as 'state', got {found.get('state')!r:.200}")
    groups = found.get("param_groups")
    if not isinstance(groups, list) or not all(
        isinstance(group, dict) and isinstance(group.get("params"), list) and "lr" in group for group in groups
    ):
        raise ValueError(f"the state_dict must have dicts with params and lr as 'param_groups', got {groups!r:.200}")

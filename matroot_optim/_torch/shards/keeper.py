"""The state of a run whose ranks own blocks, and its records, in which every parameter has its own layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from matroot_optim._torch.groups import META
from matroot_optim._torch.keeper import Groups, Keeper, Params, slots
from matroot_optim._torch.naming import names_of
from matroot_optim._torch.records import Entries, Record, put_together, take_apart
from matroot_optim._torch.shards.averages import fresh_or_saved, saved
from matroot_optim._torch.shards.totals import RankTotals, StoredTotals
from matroot_optim._torch.shards.transfer import Transfer
from matroot_optim._torch.storage import local, placed_like, rows_of, stored_like
from matroot_optim.checkpoint.exchange import describe
from matroot_optim.checkpoint.kinds import of_another
from matroot_optim.checkpoint.metadata import read_kinds
from matroot_optim.entries import OF_LEAF, Places, places
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf
from matroot_optim.ranks.blocks import Box, Shares
from matroot_optim.ranks.tables import Tables
from matroot_optim.shampoo import Shampoo
from matroot_optim.step.averaging import average_of

#: Entries of the shape of the parameter that go to the owners of its blocks.
PARTS = ("momentum", "moment")
#: Entries that stay with the weights.
STORED = ("average", "weights")


class ShardedKeeper(Keeper):
    """A keeper whose state is that of the blocks that this rank owns.

    Parameters
    ----------
    group : process group

    Attributes
    ----------
    transfer : Transfer
    totals : RankTotals
    stored : StoredTotals
    averages : dict
        The averages of the rows that this rank stores, by name.
    """

    def __init__(self, group: Any) -> None:
        super().__init__()
        self.group = group
        self.transfer: Transfer
        self.totals: RankTotals
        self.stored: StoredTotals
        self.averages: dict[str, Any] = {}
        self._leaves: list[list[int]] = []  # of the part, for every parameter
        self._by_path: dict[str, int] = {}

    def empty(self) -> Keeper:
        return ShardedKeeper(self.group)

    def install(self, core: Shampoo, layout: Layout, groups: Groups, params: Params, records: Any) -> None:
        rank, ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        rows = tuple(rows_of(p, ranks) for p in params.values())
        device = next((local(p).device for p in params.values()), torch.device("cpu"))
        shares = Shares(layout, rows, ranks, core.interval(core.settled_step), core.schedule, core.lag)
        self.transfer = Transfer(shares, rank, self.group)
        part = self.transfer.part
        tables, names = Tables(shares, part.layout), names_of(groups)
        self.totals = RankTotals(layout, part.leaf_of, part.spread, tables, names, self.group, device)
        step = next((str(record.entries.get("step")) for record in records if record is not None), "")
        text = repr((layout, rows, core.schedule, core.lag, core.interval(1), core.clip_norm, step))
        self.totals.check(re.sub(" at 0x[0-9a-f]+", "", text))  # functions have other addresses on every rank
        self.stored = StoredTotals(rows, self.group)
        self.averages = {}
        for leaf, p, record, own in zip(layout.leaves, params.values(), records, rows, strict=True):
            other = of_another(leaf, _kinds(leaf.path, record))
            entries = {} if record is None else {name: x for name, x in record.entries.items() if name not in other}
            self.averages.update(fresh_or_saved(leaf, p, entries, own, rank, core.on_nonfinite))
        here = [local(p) for p in params.values()]
        mine = [here[i] for i in part.leaf_of]
        found = places(part.layout)
        if any(record is not None for record in records):
            local_records = self._to_parts(layout, params, records, rows, rank)
            self.state = put_together(core, part.layout, mine, local_records)
        else:
            self.state = put_together(core, part.layout, mine, [None] * len(mine))
        self.hold(layout, params, records)
        self._leaves = [[] for _ in self.tensors]
        for k, i in enumerate(part.leaf_of):
            self._leaves[i].append(k)
        self._by_path = {leaf.path: k for k, leaf in enumerate(part.layout.leaves)}
        self._places = [self._places_of(i, found) for i in range(len(self.tensors))]

    def _places_of(self, i: int, found: Sequence[Places]) -> Places:
        """Return the places of the counts and the owned blocks of a parameter, by the names of whole parameters."""
        merged: Places = {}
        for k in self._leaves[i]:
            numbers = {j: box.number for j, box in enumerate(self.transfer.part.boxes[k])}
            for name, place in found[k].items():
                if name in OF_LEAF:
                    merged.setdefault(name, place)
                elif name.startswith("block"):
                    merged[_renamed(name, numbers)] = place
        return merged

    def parts(self, number: int) -> dict[str, Any]:
        """Return what this rank owns of the momentum and the moment of a parameter, flat, and the average."""
        assert self.state is not None and self.layout is not None
        leaves, whole = self.state.layout.leaves, self.layout.leaves[number]
        mine = [leaves[k] for k in self._leaves[number]]
        owned = {
            part: torch.cat([self.state[leaf.name(part)].reshape(-1) for leaf in mine])
            for part in whole.parts
            if part in PARTS
        }
        return {**owned, **saved(whole, self.tensors[number], self.averages)}

    def average(self, leaf: Leaf, p: Any) -> Any:
        return placed_like(p, average_of(leaf, self.averages, local(p).clone()))

    def has_pending(self, core: Shampoo, entries: Iterable[Entries]) -> bool:
        # on all ranks alike, also on those without a block
        return self.layout is not None and slots(core, self.layout) > 0

    def whole_name(self, path: str) -> str:
        group, number, *rest = path.split("/", 2)
        k = self._by_path.get(f"{group}/{number}")
        if k is None or self.layout is None:
            return path
        numbers = {j: box.number for j, box in enumerate(self.transfer.part.boxes[k])}
        whole = self.layout.leaves[self.transfer.part.leaf_of[k]].path
        return "/".join([whole, *(_renamed(name, numbers) for name in rest)])

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("an optimizer with owned blocks cannot be copied or pickled; save its state_dict")

    # Records.

    def take_apart(self, core: Shampoo) -> list[Entries]:
        """Copy the entries of all tensors; all ranks together, for momentum and moment return to the storage."""
        if self.state is None or self.layout is None:
            return []
        own = take_apart(self.state, places(self.state.layout), slots(core, self.layout))
        found: list[Entries] = [{} for _ in self.tensors]
        for k, (i, boxes) in enumerate(zip(self.transfer.part.leaf_of, self.transfer.part.boxes, strict=True)):
            numbers = {j: box.number for j, box in enumerate(boxes)}
            found[i].update({_renamed(name, numbers): x for name, x in own[k].items() if name not in PARTS})
        for part in PARTS:
            there = [part in leaf.parts for leaf in self.layout.leaves]
            if not any(there):
                continue
            arrays = [
                self.state[leaf.name(part)] if part in leaf.parts else _zeros(leaf, x)
                for leaf, x in zip(self.state.layout.leaves, self._examples(), strict=True)
            ]
            for i, stored in enumerate(self.transfer.to_storage(arrays)):
                if there[i]:
                    found[i][part] = placed_like(self.tensors[i], stored)
        for entries, leaf, p in zip(found, self.layout.leaves, self.tensors, strict=True):
            entries.update({name: x.clone() for name, x in saved(leaf, p, self.averages).items()})
        return found

    def _examples(self) -> list[Any]:
        return [local(self.tensors[i]) for i in self.transfer.part.leaf_of]

    def _to_parts(
        self, layout: Layout, params: Params, records: Sequence[Record | None], rows: Sequence[Any], rank: int
    ) -> list[Record | None]:
        """Return the records of the parts that this rank owns; all ranks together."""
        part = self.transfer.part
        given: list[dict[str, Any]] = [{} if record is None else dict(record.entries) for record in records]
        for record, leaf in zip(records, layout.leaves, strict=True):
            _check_cut(record, leaf)
        found: list[dict[str, Any]] = [
            _own_entries(given[i], boxes) for i, boxes in zip(part.leaf_of, part.boxes, strict=True)
        ]
        for name in PARTS:
            stored = []
            for i, (leaf, p) in enumerate(zip(layout.leaves, params.values(), strict=True)):
                x = given[i].get(name)
                here = None if x is None else stored_like(p, x, rows[i], rank)
                stored.append(None if here is None else here.to(local(p).device, getattr(torch, leaf.dtype)))
            for k, x in enumerate(self.transfer.to_owners(stored)):
                if name in given[part.leaf_of[k]]:
                    found[k][name] = x
        return [
            None if records[i] is None else Record(entries, _described(leaf, entries, records[i]))
            for i, entries, leaf in zip(part.leaf_of, found, part.layout.leaves, strict=True)
        ]


def _renamed(name: str, numbers: Mapping[int, int]) -> str:
    """Return a name with the number of the block among all of its parameter."""
    head, mark, rest = name.partition("/")
    return f"block{numbers[int(head.removeprefix('block'))]}/{rest}" if mark and head.startswith("block") else name


def _own_entries(entries: Mapping[str, Any], boxes: Sequence[Box]) -> dict[str, Any]:
    """Return the counts, and the entries of these blocks by their numbers in the part."""
    where = {box.number: j for j, box in enumerate(boxes)}
    found = {}
    for name, x in entries.items():
        head, mark, rest = str(name).partition("/")
        if not mark:
            if name not in (*PARTS, *STORED):
                found[name] = x
        elif head.startswith("block") and int(head.removeprefix("block")) in where:
            found[f"block{where[int(head.removeprefix('block'))]}/{rest}"] = x
    return found


def _check_cut(record: Record | None, leaf: Any) -> None:
    """Raise if a record has other blocks: ranks have only theirs, and could not cut them again."""
    cut = None if record is None else record.cut
    if cut is None or cut == leaf:
        return
    blocks = describe(leaf)["blocks"]
    theirs = describe(cut)["blocks"] if isinstance(cut, Leaf) else cut.get("blocks")
    if [[list(a), list(b)] for a, b in theirs or []] != blocks:
        raise ValueError(
            f"with owned blocks, the state of parameter {leaf.path!r} must have the blocks of its options; load it in "
            f"one process to cut it again ({META} has {len(theirs or [])} blocks, and {len(blocks)} are wanted)"
        )


def _kinds(path: str, record: Record | None) -> Mapping[str, str]:
    """Return the kinds of the arrays of a record, as far as they are known."""
    cut = None if record is None else record.cut
    return cut.kinds if isinstance(cut, Leaf) else read_kinds(path, cut or {})


def _described(leaf: Leaf, entries: Entries, record: Record | None) -> dict[str, Any]:
    """Return the metadata of a part of a parameter with this record."""
    there = [part for part in PARTS if part in entries]
    return {**describe(leaf), "parts": there, "kinds": _kinds(leaf.path, record)}


def _zeros(leaf: Any, x: Any) -> Any:
    return torch.zeros(leaf.shape, dtype=getattr(torch, leaf.dtype), device=x.device)

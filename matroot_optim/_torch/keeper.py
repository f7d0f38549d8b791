"""The state of the torch adapter, which belongs to tensors and is fitted to their places in the groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

from matroot_optim._torch.groups import OF_LAYOUT, plain
from matroot_optim._torch.naming import naming
from matroot_optim._torch.records import Entries, Record, put_together, take_apart
from matroot_optim._torch.storage import is_dtensor
from matroot_optim.entries import Places, places
from matroot_optim.layout.layout import Layout, make_layout
from matroot_optim.layout.parts import Leaf
from matroot_optim.refresh.due import steps_to_use
from matroot_optim.shampoo import Shampoo
from matroot_optim.state import State
from matroot_optim.step.averaging import average_of

Groups = Sequence[Mapping[str, Any]]
Params = dict[str, Any]


def parameters(groups: Groups) -> Params:
    """Return every parameter by its path "group/index"."""
    return {f"{g}/{i}": p for g, group in enumerate(groups) for i, p in enumerate(group["params"])}


class Keeper:
    """The state of the parameters in the groups at the last fit, and the records of other tensors.

    A frozen parameter has no state until it is thawed or gets a gradient, and keeps its state from then on.

    Attributes
    ----------
    state : State, optional
        None before the first fit.
    layout : Layout, optional
        Of whole parameters.
    tensors : list of tensors
        The parameters of the state's leaves.
    records : mapping of tensors to Record or None
        Records of tensors that have left the groups, and records that parameters get at the next fit; None: the
        parameter starts afresh.
    others : mapping of tensors to dict
        Entries of other code, beside those of the optimizer.
    """

    def __init__(self) -> None:
        self.state: State | None = None
        self.layout: Layout | None = None
        self.tensors: list[Any] = []
        self._places: list[Places] | None = None
        self.records: MutableMapping[Any, Record | None] = WeakTensorKeyDictionary()
        self.others: MutableMapping[Any, dict[str, Any]] = WeakTensorKeyDictionary()
        self._planned: Any = None
        self._numbers: dict[int, int] = {}

    @property
    def places(self) -> list[Places]:
        """For every leaf, the places of its entries in the state; found when they are first asked for."""
        if self._places is None:
            self._places = places(self.state.layout) if self.state is not None else []
        return self._places

    @property
    def params(self) -> Params:
        """The parameters of the state's leaves, by path."""
        return dict(zip(self.layout.index, self.tensors, strict=True)) if self.layout is not None else {}

    def served(self, groups: Groups) -> Params:
        """Return the parameters that have a state or will get one at the next fit, by path."""
        return {path: p for path, p in parameters(groups).items() if p.requires_grad or _trained(p) or self._holds(p)}

    def _holds(self, p: Any) -> bool:
        return self.records[p] is not None if p in self.records else id(p) in self._numbers

    def fit(self, core: Shampoo, groups: Groups) -> State:
        """Fit the state to groups and options: new tensors start afresh, all others keep their entries."""
        params = self.served(groups)
        plan = _plan(groups, params.values())
        if self.state is not None and self._planned == plan and self._is_of(params):
            return self.state
        with torch.inference_mode(False):  # a tensor made in that mode cannot be modified outside of it
            layout = layout_of(core, params)
            old, records = self.state, WeakTensorKeyDictionary(dict(self.records))
            come = any(p in records for p in params.values())
            if old is None or come or layout != self.layout or not self._is_of(params):
                leaves = self.layout.leaves if self.layout is not None else ()
                for p, leaf, entries in zip(self.tensors, leaves, self.take_apart(core), strict=True):
                    records.setdefault(p, Record(entries, leaf))
                try:
                    self.install(core, layout, groups, params, [records.pop(p, None) for p in params.values()])
                except ValueError as wrong:
                    if come:  # entries that were set
                        raise
                    raise ValueError(
                        f"the options of a group must fit the state: {wrong}; change them back, or begin afresh by "
                        "del optimizer.state[p]"
                    ) from wrong
            self.records, self._planned = records, plan
        assert self.state is not None
        return self.state

    def load(self, core: Shampoo, groups: Groups, records: Sequence[Record | None]) -> None:
        """Load the records of all parameters in the groups.

        Raises
        ------
        ValueError
            The records do not fit the parameters, or have different steps.
        """
        params: Params = {}
        kept: list[Record | None] = []
        for (path, p), record in zip(parameters(groups).items(), records, strict=True):
            if record is not None and not record.own:  # entries of other code alone
                self.others[p], record = record.entries, None
            if record is not None or _trained(p):
                params[path] = p
                kept.append(record)
        # For a frozen parameter, torch may have put in the entries of a new optimizer.
        trained = [record for p, record in zip(params.values(), kept, strict=True) if record and p.requires_grad]
        several = {id(step): step for step in (record.entries.get("step") for record in trained)}
        steps = set(map(str, several.values()))  # of one tensor for all, mostly: making its text is slow
        if len(steps) > 1:
            raise ValueError(f"the state_dict must have one step for all parameters, got {', '.join(sorted(steps))}")
        with torch.inference_mode(False):
            self.install(core, layout_of(core, params), groups, params, kept)
        self._planned = _plan(groups, params.values())

    def empty(self) -> Keeper:
        """Return a keeper of the same kind, of nothing."""
        return Keeper()

    def install(
        self, core: Shampoo, layout: Layout, groups: Groups, params: Params, records: Sequence[Record | None]
    ) -> None:
        """Build the state of these parameters from their records."""
        self.state = put_together(core, layout, [p.detach() for p in params.values()], records)
        self._places = None
        self.hold(layout, params, records)

    def hold(self, layout: Layout, params: Params, records: Sequence[Record | None]) -> None:
        """Note the parameters of the state, and the entries of other code in their records."""
        self.layout, self.tensors = layout, list(params.values())
        self._numbers = {id(p): i for i, p in enumerate(self.tensors)}
        for p, record in zip(self.tensors, records, strict=True):
            others = record.others if record is not None else {}
            if others:
                self.others.setdefault(p, {}).update(others)

    def take_apart(self, core: Shampoo) -> list[Entries]:
        """Copy the entries of all tensors of the state."""
        if self.state is None or self.layout is None:
            return []
        return take_apart(self.state, self.places, slots(core, self.layout))

    def has_pending(self, core: Shampoo, entries: Iterable[Entries]) -> bool:
        """Return True if the entries of all parameters have those of pending root jobs, if they have roots."""
        leaves = self.layout.leaves if self.layout is not None else ()
        first = next((mine for mine, leaf in zip(entries, leaves, strict=True) if leaf.axes), {})
        return any(name.endswith("/pending") for name in first)

    def parts(self, number: int) -> dict[str, Any]:
        """Return entries of a parameter that are not in its places."""
        return {}

    def averages_of(self, params: Params) -> list[Any]:
        """Return the averages of all parameters in new tensors; copies of those without a state."""
        assert self.layout is not None
        leaves, index = self.layout.leaves, self.layout.index
        return [
            self.average(leaves[index[path]], p) if path in index else p.detach().clone() for path, p in params.items()
        ]

    def average(self, leaf: Leaf, p: Any) -> Any:
        """Return the average of a parameter in a new tensor."""
        assert self.state is not None
        return average_of(leaf, self.state.arrays, p.detach().clone())

    def whole_name(self, path: str) -> str:
        """Return a path of the state's layout as one of whole parameters."""
        return path

    def number(self, groups: Groups, p: Any) -> int | None:
        """Return the number of the leaf of a parameter; None if the state is not yet fitted to the parameter."""
        i = self._numbers.get(id(p))
        if self.layout is None or self._planned is None or i is None:
            return None
        g, k = map(int, self.layout.leaves[i].path.split("/"))
        here = groups[g]["params"][k : k + 1] if g < len(groups) else []
        return i if here and here[0] is p else None

    def give(self, p: Any, record: Record | None) -> None:
        """Give a tensor this record at the next fit."""
        self.records[p] = record
        self.others.pop(p, None)
        self._planned = None

    def _is_of(self, params: Params) -> bool:
        """Return True if the state is that of these tensors in these places; a frozen one may have moved another."""
        there = [] if self.layout is None else [*self.layout.index]
        return [id(p) for p in params.values()] == [id(p) for p in self.tensors] and [*params] == there

    def __getstate__(self) -> dict[str, Any]:
        weak = {name: list(getattr(self, name).items()) for name in ("records", "others")}
        return {"state": self.state, "layout": self.layout, "tensors": self.tensors, "_planned": self._planned, **weak}

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.state, self.layout = values["state"], values["layout"]
        self.tensors, self._planned = values["tensors"], values["_planned"]
        self.records = WeakTensorKeyDictionary(dict(values["records"]))
        self.others = WeakTensorKeyDictionary(dict(values["others"]))
        self._places = None
        self._numbers = {id(p): i for i, p in enumerate(self.tensors)}


def slots(core: Shampoo, layout: Layout) -> int:
    """Return the largest number of pending jobs of one root, of the layout of whole parameters."""
    if core.lag:
        return -(-core.lag // core.interval(1)) + 1
    settled = core.settled_step
    late = core.first_root_step + settled + core.interval(settled)
    return max((steps_to_use(core, layout, stack, late) for stack in layout.stacks), default=0)


def _trained(p: Any) -> bool:
    return p.requires_grad or p.grad is not None


def layout_of(core: Shampoo, params: Params) -> Layout:
    """Return the layout of parameters by path."""
    return make_layout(core, params, lambda path: path.partition("/")[0])


def check_last(core: Shampoo, groups: Groups, *, layout: bool) -> None:
    """Raise if the options of the last group are wrong or, for a `layout`, do not fit its parameters."""
    core.for_path(f"{len(groups) - 1}/0")
    mine = {f"{len(groups) - 1}/{i}": p for i, p in enumerate(groups[-1]["params"])}
    if layout and not any(is_lazy(p) or is_dtensor(p) for p in mine.values()):
        with naming(groups):
            layout_of(core, mine)


def _plan(groups: Groups, params: Iterable[Any]) -> Any:
    """Return the inputs of the layout: all options except the rate, the weight decay and the momentum's beta."""
    of_group = [(len(g["params"]), plain(g["betas"][1]), *map(g.get, OF_LAYOUT)) for g in groups]
    return of_group, [(p.device, p.dtype) for p in params]

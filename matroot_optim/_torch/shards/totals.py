"""Norms of whole tensors from the parts that the ranks own, and from the rows that they store."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from matroot_optim.arrays import namespace
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Stack
from matroot_optim.ranks.base import RankError
from matroot_optim.ranks.blocks import Rows
from matroot_optim.ranks.tables import TableEngine, Tables
from matroot_optim.ranks.torch_group import GroupRanks
from matroot_optim.refresh.jobs import RootJob
from matroot_optim.step.momentum import Rates, numbers_of
from matroot_optim.step.statistics import gram

#: Times that a leaf may come in one call of `squares`.
SECTIONS = {"graft": 4, "cautious": 1, "clip": 1}

#: In the place of a norm.
MISSING = -1.0


class RankTotals:
    """Sums over the ranks of a group, of owned parts; the protocol `Totals`.

    Parameters
    ----------
    whole : Layout
        Of whole parameters.
    leaf_of : sequence of int
        The parameter of every leaf of this rank.
    spread : collection of int
        Leaves of this rank whose statistics are sums over the ranks.
    tables : Tables
        The roots that one rank computes for all.
    names : mapping
        Names of the parameters by path, for messages.
    group : process group
    device : device
        Of the collectives.

    Attributes
    ----------
    weights : sequence
        Squared norms of the weights of every leaf, where the graft is their norm; given anew in every step.
    rates : sequence of Rates
        Of every parameter, which the ranks compare; given anew in every step.
    """

    weights: Sequence[Any] = ()
    rates: Sequence[Rates] = ()

    def __init__(
        self,
        whole: Layout,
        leaf_of: Sequence[int],
        spread: Collection[int],
        tables: Tables,
        names: Any,
        group: Any,
        device: Any,
    ) -> None:
        first = {i: k for k, i in reversed([*enumerate(leaf_of)])}
        self._firsts = [first[i] for i in range(len(whole.leaves))]
        self._leaf_of = np.asarray(leaf_of, np.int64)
        self._names = [names.get(leaf.path, leaf.path) for leaf in whole.leaves]
        self._spread, self._group, self._device = spread, group, device
        self._tables = tables
        self._solver: TableEngine | None = None
        self._count = len(whole.leaves)
        self._known: dict[str, tuple[tuple[int, ...], tuple[list[int], Any, int]]] = {}  # the last places
        options = [leaf.options for leaf in whole.leaves]
        self._used = {
            "graft": any(
                (leaf.directed and not leaf.in_basis) or leaf.options.graft in ("sqrt_n", "trust_ratio")
                for leaf in whole.leaves
            )
            and any(o.graft != "none" for o in options),
            "cautious": any(o.cautious_update for o in options),
            "clip": any(o.clip_rms is not None for o in options),
        }

    @property
    def firsts(self) -> Sequence[int]:
        return self._firsts

    def norms(self, own: Any, there: Sequence[int]) -> Any:
        mine = np.full(self._count, MISSING)
        for k in there:
            i = self._leaf_of[k]
            mine[i] = math.hypot(max(mine[i], 0.0), own[k]) if math.isfinite(own[k]) else math.inf
        everyone = self.gathered(mine)
        return np.array([math.hypot(*column) for column in everyone.T])[self._leaf_of]

    def gathered(self, mine: Any) -> Any:
        """Return a norm of every parameter from every rank, 0 where it is missing on all of them.

        Raises
        ------
        RankError
            A gradient is missing on some ranks only, or their rates differ.
        """
        rates = blake2b(numbers_of(self.rates).encode(), digest_size=6).digest()
        told = self._gather(torch.from_numpy(np.append(mine, float(int.from_bytes(rates))))).numpy()
        everyone, marks = told[:, :-1], told[:, -1].tolist()
        usual = Counter(marks).most_common(1)[0][0]
        wrong = [rank for rank, mark in enumerate(marks) if mark != usual]
        if wrong:
            raise RankError(
                f"all ranks must have one learning rate, weight decay and momentum; rank {wrong[0]} differs"
            )
        present = everyone >= 0
        odd = np.flatnonzero(present.any(0) != present.all(0))
        if odd.size:
            i = int(odd[0])
            lacking = ", ".join(str(rank) for rank in np.flatnonzero(~present[:, i]))
            raise RankError(
                f"the gradient of {self._names[i]!r} must be on all ranks or on none; it is missing on {lacking}"
            )
        return np.maximum(everyone, 0.0)

    def squares(self, what: str, leaves: Sequence[int], own: Sequence[Any]) -> list[Any]:
        if not self._used.get(what):  # parts have no weights, so the rules that need them are not here
            return list(own)
        at, where, width = self._places(what, tuple(leaves))
        # Parts of one tensor in columns, whose sum has a fixed order on every device; `index_add_` has none on a GPU.
        parts = torch.zeros(SECTIONS[what] * self._count, width, dtype=torch.float64, device=self._device)
        if own:
            parts[where] = torch.stack([x.to(self._device, torch.float64) for x in own])
        sums = parts.sum(1)
        dist.all_reduce(sums, group=self._group)
        each = sums.unbind()
        return [each[k].to(x.device, x.dtype) for k, x in zip(at, own, strict=True)]

    def _places(self, what: str, leaves: tuple[int, ...]) -> tuple[list[int], Any, int]:
        """Return the place of each part in the sums, its row and column on the device, and the number of columns."""
        known = self._known.get(what)
        if known is not None and known[0] == leaves:
            return known[1]
        seen: Counter[int] = Counter()
        of_tensor: Counter[int] = Counter()
        at, column = [], []
        for k in leaves:
            at.append(seen[k] * self._count + int(self._leaf_of[k]))
            column.append(of_tensor[at[-1]])
            seen[k] += 1
            of_tensor[at[-1]] += 1
        where = tuple(torch.from_numpy(np.array(x, np.int64)).to(self._device) for x in (at, column))
        found = at, where, max(column, default=0) + 1
        self._known[what] = leaves, found
        return found

    def grams(self, stacks: Sequence[Stack], gradients: Sequence[Any]) -> dict[str, Any]:
        if not self._spread:
            return {}
        found: dict[str, Any] = {}
        rows: dict[str, list[tuple[int, Any]]] = {}  # by dtype; the order is that of parameters and blocks
        for stack, G in zip(stacks, gradients, strict=True):
            mine = [member for member in stack.members if member.leaf in self._spread]
            for axis in stack.axes if mine else ():
                products = found[stack.axis_name(axis)] = gram(G, axis, namespace(G))
                rows.setdefault(stack.dtype, []).extend(
                    (member.leaf, products[member.start : member.stop]) for member in mine
                )
        for _, pieces in sorted(rows.items()):
            there = [piece for _, piece in sorted(pieces, key=lambda pair: pair[0])]
            flat = torch.cat([piece.reshape(-1) for piece in there])
            dist.all_reduce(flat, group=self._group)
            for piece, values in zip(there, flat.split([piece.numel() for piece in there]), strict=True):
                piece.copy_(values.view(piece.shape))
        return found

    def dealt(self, engine: Any, jobs: Sequence[RootJob]) -> list[tuple[Any, list[RootJob]]]:
        own, shared = self._tables.taken_from(jobs)
        if not shared:
            return [(engine, own)]
        if self._solver is None or self._solver.engine is not engine:
            self._solver = TableEngine(GroupRanks(self._group, self._device), engine, self._tables)
        return [(engine, own), (self._solver, shared)]

    def check(self, text: str) -> None:
        """Raise if a rank has another text, which describes parameters, options and the step.

        Raises
        ------
        RankError
        """
        digest = blake2b(text.encode(), digest_size=16).digest()
        everyone = self._gather(torch.from_numpy(np.frombuffer(digest, np.uint8).copy())).numpy()
        usual = Counter(map(bytes, everyone)).most_common(1)[0][0]
        wrong = [rank for rank, given in enumerate(everyone) if bytes(given) != usual]
        if wrong:
            raise RankError(f"all ranks must have the same parameters, options and step; rank {wrong[0]} has others")

    def _gather(self, mine: Any) -> Any:
        mine = mine.to(self._device)
        found = [torch.empty_like(mine) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(found, mine, group=self._group)
        return torch.stack(found).cpu()


class StoredTotals:
    """Sums over the ranks of a group, of the rows that they store; a tensor that each has whole needs none.

    Parameters
    ----------
    rows : sequence of Rows
        Of every parameter.
    group : process group
    """

    weights: Sequence[Any] = ()

    def __init__(self, rows: Sequence[Rows], group: Any) -> None:
        self._rows, self._group = rows, group

    @property
    def firsts(self) -> Sequence[int]:
        return range(len(self._rows))

    def norms(self, own: Any, there: Sequence[int]) -> Any:
        raise NotImplementedError

    def grams(self, stacks: Sequence[Stack], gradients: Sequence[Any]) -> dict[str, Any]:
        raise NotImplementedError

    def dealt(self, engine: Any, jobs: Sequence[RootJob]) -> list[tuple[Any, list[RootJob]]]:
        raise NotImplementedError

    def of_all(self, everyone: Any) -> Any:
        """Return the norms of whole tensors from those of the rows of every rank."""
        whole = [rows is None for rows in self._rows]
        sums = np.array([math.hypot(*column) for column in everyone.T])
        return np.where(whole, everyone.max(0), sums)

    def squares(self, what: str, leaves: Sequence[int], own: Sequence[Any]) -> list[Any]:
        at = [k for k, i in enumerate(leaves) if self._rows[i] is not None]
        found = list(own)
        if not at:
            return found
        sums = torch.stack([own[k].to(torch.float64) for k in at])
        dist.all_reduce(sums, group=self._group)
        for k, total in zip(at, sums, strict=True):
            found[k] = total.to(own[k].dtype)
        return found

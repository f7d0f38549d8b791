"""The exchange between storage, where the framework has the rows of parameters, and the owners of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from matroot_optim.ranks.blocks import Shares, view
from matroot_optim.ranks.part import Part

#: A piece: number of a tensor, and its slices there.
Piece = tuple[int, tuple[slice, ...]]


class Transfer:
    """One packed all-to-all from storage to owners, and one back, for each dtype of the state.

    Parameters
    ----------
    shares : Shares
    rank : int
    group : process group

    Attributes
    ----------
    part : Part
        What this rank owns.
    bytes_sent : int
        Bytes that went to other ranks so far.
    bytes_planned : list of int
        Bytes of momentum, moments, statistics and roots of every rank.
    """

    def __init__(self, shares: Shares, rank: int, group: Any) -> None:
        self.part = Part(shares, rank)
        self.bytes_sent = 0
        self.bytes_planned = shares.bytes
        self._rank, self._ranks, self._group = rank, shares.ranks, group
        self._whole = shares.layout
        self._shapes = [
            _stored(leaf, rows, rank) for leaf, rows in zip(shares.layout.leaves, shares.stored, strict=True)
        ]
        place = {
            (box.leaf, box.number, box.origin): (k, j)
            for k, boxes in enumerate(self.part.boxes)
            for j, box in enumerate(boxes)
        }
        self._dtypes = sorted({leaf.dtype for leaf in shares.layout.leaves})
        #: By dtype and rank: what the owners' tensors get from it, and what storage sends to it; and the other way.
        self._there: dict[str, tuple[list[list[Piece]], list[list[Piece]]]] = {}
        self._back: dict[str, tuple[list[list[Piece]], list[list[Piece]]]] = {}
        for dtype in self._dtypes:
            self._there[dtype] = ([[] for _ in range(self._ranks)], [[] for _ in range(self._ranks)])
            self._back[dtype] = ([[] for _ in range(self._ranks)], [[] for _ in range(self._ranks)])
        for box in shares.boxes:
            if 0 in box.size:
                continue
            leaf, rows = shares.layout.leaves[box.leaf], shares.stored[box.leaf]
            if rows is None and self._rank != box.owner:  # then the others do not matter
                there = [(self._rank, box.origin[0], box.origin[0] + box.size[0])]
            else:
                there = shares.holders(box)
            for holder, a, b in there:
                if self._rank not in (holder, box.owner):
                    continue
                first = 0 if rows is None else rows[holder][0]
                rest = tuple(slice(o, o + n) for o, n in zip(box.origin[1:], box.size[1:], strict=True))
                stored = (box.leaf, (slice(a - first, b - first), *rest))
                owned: Piece | None = None
                if self._rank == box.owner:
                    k, j = place[box.leaf, box.number, box.origin]
                    start = j * box.size[0] + a - box.origin[0]
                    owned = (k, (slice(start, start + b - a), *(slice(None) for _ in box.size[1:])))
                if rows is not None or holder == box.owner:  # an owner that has all rows asks nobody
                    _note(self._there[leaf.dtype], self._rank, holder, box.owner, stored, owned)
                _note(self._back[leaf.dtype], self._rank, box.owner, holder, owned, stored)

    def to_owners(self, stored: Sequence[Any]) -> list[Any]:
        """Return the owned parts of tensors, in the shapes of the leaves of `part`; None counts as zeros.

        Parameters
        ----------
        stored : sequence of tensors
            The rows of every parameter that this rank stores, in the dtype of the state.
        """
        device = next((x.device for x in stored if x is not None), torch.device("cpu"))
        views = [
            torch.zeros(shape, dtype=getattr(torch, leaf.dtype), device=device) if x is None else x.reshape(shape)
            for x, shape, leaf in zip(stored, self._shapes, self._whole.leaves, strict=True)
        ]
        found = [
            torch.empty(leaf.shape, dtype=getattr(torch, leaf.dtype), device=views[i].device)
            for leaf, i in zip(self.part.layout.leaves, self.part.leaf_of, strict=True)
        ]
        for given, sent in self._there.values():
            self._exchange(views, sent, found, given)
        return found

    def to_storage(self, owned: Sequence[Any]) -> list[Any]:
        """Return the rows that this rank stores, flat, from the owned parts."""
        first = {i: x for i, x in zip(self.part.leaf_of, owned, strict=True)}
        found = [
            torch.empty(shape, dtype=first[i].dtype, device=first[i].device) for i, shape in enumerate(self._shapes)
        ]
        for given, sent in self._back.values():
            self._exchange(owned, sent, found, given)
        return [x.reshape(-1) for x in found]

    def _exchange(
        self, source: Sequence[Any], sent: list[list[Piece]], target: Sequence[Any], given: list[list[Piece]]
    ) -> None:
        to = [[source[k][at].reshape(-1) for k, at in pieces] for pieces in sent]
        of = [[target[k][at] for k, at in pieces] for pieces in given]
        sizes_out, sizes_in = ([sum(x.numel() for x in pieces) for pieces in lists] for lists in (to, of))
        out, places = [x for pieces in to for x in pieces], [x for pieces in of for x in pieces]
        example = next(iter([*out, *places, *source]))
        mine = torch.cat(out) if out else torch.empty(0, dtype=example.dtype, device=example.device)
        theirs = torch.empty(sum(sizes_in), dtype=example.dtype, device=example.device)
        dist.all_to_all_single(theirs, mine, sizes_in, sizes_out, group=self._group)
        self.bytes_sent += (sum(sizes_out) - sizes_out[self._rank]) * mine.element_size()
        for place, values in zip(places, theirs.split([place.numel() for place in places]), strict=True):
            place.copy_(values.view(place.shape))


def _note(
    lists: tuple[list[list[Piece]], list[list[Piece]]],
    me: int,
    sender: int,
    receiver: int,
    out: Piece | None,
    into: Piece | None,
) -> None:
    """Note a piece that goes from one rank to another, where this rank is one of them."""
    given, sent = lists
    if me == sender and out is not None:
        sent[receiver].append(out)
    if me == receiver and into is not None:
        given[sender].append(into)


def _stored(leaf: Any, rows: Any, rank: int) -> tuple[int, ...]:
    """Return the shape of the stored part of a view."""
    shape = view(leaf)
    count = shape[0] if rows is None else rows[rank][1] - rows[rank][0]
    return (count, *shape[1:])

"""Norms of whole tensors from the parts that the ranks own."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from matroot_optim.layout.layout import Layout
from matroot_optim.ranks.base import RankError

#: Times that a leaf may come in one call of `squares`.
SECTIONS = {"normalize": 1, "graft": 4, "clip": 1}


class RankTotals:
    """Sums over the ranks of a group; the protocol `Totals`.

    Parameters
    ----------
    whole : Layout
        Of whole parameters.
    leaf_of : sequence of int
        The parameter of every leaf of this rank.
    names : mapping
        Names of the parameters by path, for messages.
    group : process group
    device : device
        Of the collectives.
    """

    def __init__(self, whole: Layout, leaf_of: Sequence[int], names: Any, group: Any, device: Any) -> None:
        self._firsts = [leaf_of.index(i) for i in range(len(whole.leaves))]
        self._leaf_of = np.asarray(leaf_of, np.int64)
        self._names = [names.get(leaf.path, leaf.path) for leaf in whole.leaves]
        self._group, self._device = group, device
        self._count = len(whole.leaves)
        options = [leaf.options for leaf in whole.leaves]
        self._used = {
            "normalize": any(o.graft_normalize for o in options),
            "graft": any(
                (leaf.directed and not leaf.in_basis) or leaf.options.graft == "sqrt_n" for leaf in whole.leaves
            )
            and any(o.graft != "none" for o in options),
            "clip": any(o.clip_rms is not None for o in options),
        }

    @property
    def firsts(self) -> Sequence[int]:
        return self._firsts

    def norms(self, own: Any, there: Sequence[int]) -> Any:
        mine = np.full(self._count, -1.0)  # no gradient
        for k in there:
            i = self._leaf_of[k]
            mine[i] = math.hypot(max(mine[i], 0.0), own[k]) if math.isfinite(own[k]) else math.inf
        everyone = self._gather(torch.from_numpy(mine)).numpy()
        present = everyone >= 0
        odd = np.flatnonzero(present.any(0) != present.all(0))
        if odd.size:
            i = int(odd[0])
            lacking = ", ".join(str(rank) for rank in np.flatnonzero(~present[:, i]))
            raise RankError(
                f"the gradient of {self._names[i]!r} must be on all ranks or on none; it is missing on {lacking}"
            )
        sums = np.array([math.hypot(*column) for column in np.maximum(everyone, 0.0).T])
        return sums[self._leaf_of]

    def squares(self, what: str, leaves: Sequence[int], own: Sequence[Any]) -> list[Any]:
        if not self._used[what]:
            return list(own)
        seen: Counter[int] = Counter()
        at = []
        for k in leaves:
            at.append(seen[k] * self._count + int(self._leaf_of[k]))
            seen[k] += 1
        sums = torch.zeros(SECTIONS[what] * self._count, dtype=torch.float64, device=self._device)
        if own:
            values = torch.stack([x.to(self._device, torch.float64) for x in own])
            sums.index_add_(0, torch.tensor(at, device=self._device), values)
        dist.all_reduce(sums, group=self._group)
        return [sums[k].to(x.device, x.dtype) for k, x in zip(at, own, strict=True)]

    def check(self, text: str) -> None:
        """Raise if a rank has another text, which describes parameters and options.

        Raises
        ------
        RankError
        """
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        everyone = self._gather(torch.tensor(list(digest), dtype=torch.uint8)).numpy()
        usual = Counter(map(bytes, everyone)).most_common(1)[0][0]
        wrong = [rank for rank, given in enumerate(everyone) if bytes(given) != usual]
        if wrong:
            raise RankError(f"all ranks must have the same parameters and options; rank {wrong[0]} has others")

    def _gather(self, mine: Any) -> Any:
        mine = mine.to(self._device)
        found = [torch.empty_like(mine) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(found, mine, group=self._group)
        return torch.stack(found).cpu()

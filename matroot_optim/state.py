"""The immutable state of the optimizer: arrays by name, and the pending root jobs.

Internally, blocks of one shape are stacked in one array. `State` shows them as a flat mapping of names to arrays,
one per block: "layer/kernel/block0/axis1/statistic".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from matroot_optim.arrays import Array
from matroot_optim.checkpoint.collecting import uncollected
from matroot_optim.checkpoint.exchange import export
from matroot_optim.checkpoint.files import write
from matroot_optim.entries import OF_LEAF, OF_ROOT, Pending, Places, fresh_arrays, places, settled
from matroot_optim.layout.layout import Layout
from matroot_optim.options import Options
from matroot_optim.step.narrow import narrow, widened


@dataclass(frozen=True, eq=False)
class State(Mapping[str, Array]):
    """State of `Shampoo`: a flat mapping of names to arrays, one entry per block and per parameter.

    Entries that are kept in bfloat16 are shown in float32.

    Notes
    -----
    ``step``
        Steps done.
    ``PATH/momentum``, ``PATH/moment``
        Momentum buffer and second moment of the first-order method, of the parameter's shape.
    ``PATH/average``, ``PATH/weights``
        Average of the weights; under schedule-free the weights z, with the sum of the squared rates and the largest.
    ``PATH/count``, ``PATH/accumulated``, ``PATH/skipped``
        Steps that counted, gradients in the statistics, gradients that were not finite.
    ``PATH/peak``, ``PATH/exponent``
        Largest recent norm, decayed, and e: momentum, moment and statistics are of gradients divided by 2^e.
    ``PATH/beta1``, ``PATH/beta2``, ``PATH/graft_beta``
        Decays of the momentum, the statistics and the moment at the last step.
    ``PATH/blockK/axisI/statistic``
        Packed statistic, n (n + 1) / 2.
    ``PATH/blockK/axisI/root``
        Root of the statistic, (n, n).
    ``PATH/blockK/axisI/residual``, ``cond``, ``status``, ``taken``, ...
        Facts and counters of the root; see `FACTS` and `BOOKS`.
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
        """The internal array, and the index in it, of every name."""
        found = zip(self.layout.leaves, places(self.layout), strict=True)
        mine = {leaf.name(part): place for leaf, parts in found for part, place in parts.items()}
        return {"step": ("step", None), **mine}

    def __getitem__(self, name: str) -> Array:
        where, index = self._places[name]
        x = widened(self.arrays[where], self.layout.narrow.get(where))
        return x if index is None else x[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def of_root(self, name: str) -> bool:
        """Return True if an entry belongs to a root, False if the root is computed from it."""
        part = self._places[name][0].rsplit("/", 1)[-1]
        return name not in self._leaf_names and part in OF_ROOT

    @cached_property
    def _leaf_names(self) -> set[str]:
        return {leaf.name(part) for leaf in self.layout.leaves for part in (*OF_LEAF, *leaf.parts)}

    @uncollected()
    def save(self, path: str | os.PathLike[str], *, roots: bool = True) -> None:
        """Write the state to a file; `Shampoo.load` reads it in any framework.

        The suffix ".safetensors" or ".npz" gives the format; with any other suffix it is safetensors if that package
        is installed, else npz. Every array has a checksum, which `Shampoo.load` compares. The write is atomic: after
        a full disk or a kill the old file is still there, and the next save removes the temporary file of a killed
        one. The mode of an old file and a symbolic link are kept. Pending root jobs are waited for and saved.

        Parameters
        ----------
        path : path
        roots : bool
            Save the roots. Without the roots the file is smaller, and the first step after the load computes them.
        """
        write(path, *export(self, roots=roots))

    def __repr__(self) -> str:
        stacks = self.layout.stacks
        return (
            f"State(step={self.step}, {len(self.layout.leaves)} parameters, {sum(s.blocks for s in stacks)} blocks in "
            f"{len(stacks)} stacks, {len(self.pending)} batches under way)"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Wait for pending jobs before a pickle or a copy, because a future belongs to one process."""
        return {"layout": self.layout, "arrays": self.arrays, "pending": settled(self.pending)}

    def __setstate__(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def fresh(options: Options, layout: Layout, params: Sequence[Array]) -> State:
    """Return the state before the first step: zero statistics, roots I."""
    return State(layout, narrow(layout, fresh_arrays(options, layout, params)))

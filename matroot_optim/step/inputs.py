"""The inputs of one step, and the leaves that one call can process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matroot_optim.arrays import Array, is_traced, namespace, squared_norm
from matroot_optim.layout.layout import Layout
from matroot_optim.step.momentum import Rates
from matroot_optim.step.totals import Totals


def same(x: Array) -> Array:
    """Return x."""
    return x


@dataclass
class Step:
    """The inputs of one step: a gradient, a weight and rates for every leaf, and the arrays of the state."""

    layout: Layout
    arrays: dict[str, Array]
    g: list[Array]  # zeros where not active
    weights: list[Array | None]
    active: Sequence[Any]
    rates: Sequence[Rates]
    number: Any  # of the step, counted from 1
    donate: bool  # arrays of the state may be overwritten
    whole: Callable[[Array], Array] = same  # brings a sharded gradient to every device, for its blocks
    totals: Totals | None = None  # where leaves are parts of parameters

    def squares(self, what: str, leaves: Sequence[int], arrays: Sequence[Array]) -> list[Any]:
        """Return the squared norm of the tensor of each of these leaves, whose part is in `arrays`."""
        own = [namespace(x).asarray(squared_norm(x)) for x in arrays]
        return own if self.totals is None else self.totals.squares(what, leaves, own)

    def squares_of_weights(self, leaves: Sequence[int]) -> list[Any]:
        """Return the squared norm of the weights of each of these leaves."""
        if self.totals is not None:
            return [self.totals.weights[i] for i in leaves]
        weights = [self.weights[i] for i in leaves]
        return [namespace(W).asarray(squared_norm(W)) for W in weights]

    def alike(self, indices: Sequence[int]) -> list[list[int]]:
        """Group the leaves that one call can process: one place, one dtype and the same options of stages 3 and 4."""
        found: dict[Any, list[int]] = {}
        for i in indices:
            found.setdefault((self.layout.kinds[i], self.rates[i].beta), []).append(i)
        return list(found.values())

    def count(self, i: int) -> Any:
        """Return the number of steps of leaf i that counted, this step included; 1 if none has."""
        count = self.arrays["count"][i]
        count = count + (count < 1)
        return count if is_traced(count) else int(count)


def choose(active: Any, new: Array, old: Array) -> Array:
    """Return `new` where active, else `old`."""
    if active is True:
        return new
    return old if active is False else namespace(new).where(active, new, old)

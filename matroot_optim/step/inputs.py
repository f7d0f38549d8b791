"""The inputs of one step, and the leaves that one call can process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matroot_optim.arrays import Array, is_traced, namespace, norms_in_place, scalars, squared_norm
from matroot_optim.layout.layout import Layout
from matroot_optim.step.grafting import bias_correction
from matroot_optim.step.momentum import Rates
from matroot_optim.step.totals import Totals

#: Smallest epsilon, in units of 2^e: the squares of smaller gradients underflow in float32, and this bounds their step.
UNDERFLOW = 2.0**-63


#: Smallest norm, in units of 2^e, that a gradient is divided by: that of a smaller one may be 0 in float32.
LEAST_NORM = 2.0**-126


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
    places: Any = None  # `Places` of a traced step
    recent: Any = None  # the peaks in units of 2^e, if they are known
    norms: Any = None  # of the gradients, in units of 2^e

    def squares(self, what: str, leaves: Sequence[int], arrays: Sequence[Array]) -> list[Any]:
        """Return the squared norm of the tensor of each of these leaves, whose part is in `arrays`."""
        own = [namespace(x).asarray(squared_norm(x)) for x in arrays]
        return own if self.totals is None else self.totals.squares(what, leaves, own)

    def norms_of(self, what: str, leaves: Sequence[int], arrays: Sequence[Array]) -> Sequence[Any]:
        """Return the norm of the tensor of each of these leaves, whose part is in `arrays`."""
        return norms_in_place(arrays) if self.totals is None else _roots(self.squares(what, leaves, arrays))

    def norms_of_weights(self, leaves: Sequence[int]) -> Sequence[Any]:
        """Return the norm of the weights of each of these leaves."""
        if self.totals is not None:
            return _roots([self.totals.weights[i] for i in leaves])
        return norms_in_place([self.weights[i] for i in leaves])

    def alike(self, indices: Sequence[int]) -> list[list[int]]:
        """Group the leaves that one call can process: one place, one dtype and the same options of stages 3 and 4."""
        found: dict[Any, list[int]] = {}
        for i in indices:
            found.setdefault((self.layout.kinds[i], self.rates[i].beta), []).append(i)
        return list(found.values())

    def chosen(self, group: Sequence[int], new: Sequence[Array], old: Sequence[Array]) -> Sequence[Array]:
        """Return the new arrays of leaves that may be active, and the old ones of those that jax finds not to be."""
        if all(self.active[i] is True for i in group):
            return new
        return [choose(self.active[i], x, y) for i, x, y in zip(group, new, old, strict=True)]

    def rows(self, x: Array, start: int, stop: int) -> Array:
        """Return some rows of an array over the blocks of a stack."""
        if stop - start == len(x):
            return x
        return self.places.rows(x, start, stop) if is_traced(x) else x[start:stop]

    def scalars(self, x: Array) -> list[Any]:
        """Return the entries of a vector as 0-d arrays (numpy: floats)."""
        return self.places.entries(x) if is_traced(x) else scalars(x)

    def _each(self, x: Any) -> Any:
        """Return a vector over all leaves as a list: of Python numbers, if it has values."""
        return self.places.entries(x) if is_traced(x) else x.tolist()

    @cached_property
    def exponents(self) -> Any:
        """The exponent of the units of every leaf."""
        return self._each(self.arrays["exponent"])

    @cached_property
    def counts(self) -> Any:
        """The number of steps of every leaf that counted, this step included; 1 if none has."""
        count = self.arrays["count"]
        count = count + (count < 1)
        return count if is_traced(count) else count.tolist()

    @cached_property
    def inputs(self) -> list[Array]:
        """The gradients of the first-order method: those of leaves that normalize are divided by their norms."""
        if not self.layout.normalized.any():
            return self.g
        norms = self._each(namespace(self.norms).where(self.norms >= LEAST_NORM, self.norms, 1.0))
        return [
            x / norms[i] if leaf.normalizes else x
            for i, (leaf, x) in enumerate(zip(self.layout.leaves, self.g, strict=True))
        ]

    def corrections(self, beta: Any, leaves: Sequence[int]) -> list[Any]:
        """Return the bias correction of a decayed mean for each of these leaves."""
        if not beta < 1.0:
            return [1.0] * len(leaves)
        if is_traced(self.counts):
            found = bias_correction(beta, self.counts)
            return [self.places.entry(found, i) for i in leaves]
        counts = [self.counts[i] for i in leaves]
        known = {count: bias_correction(beta, count) for count in set(counts)}
        return [known[count] for count in counts]

    @cached_property
    def floors(self) -> Any:
        """The epsilon of every leaf beside the root of the second moment.

        It is `graft_epsilon` times the largest recent root mean square of the gradients.
        """
        peak, e = self.arrays["peak"], self.arrays["exponent"]
        xp = namespace(peak)
        recent = xp.ldexp(peak, -e) if self.recent is None else self.recent
        size = xp.where(self.layout.normalized, 1.0, recent)
        return self._each(xp.maximum(self.layout.epsilons.astype(peak.dtype) * size, UNDERFLOW))


def _roots(squares: Sequence[Any]) -> list[Any]:
    return [x**0.5 for x in squares]


def choose(active: Any, new: Array, old: Array) -> Array:
    """Return `new` where active, else `old`."""
    if active is True:
        return new
    return old if active is False else namespace(new).where(active, new, old)

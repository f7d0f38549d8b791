"""Sums over all parts of a parameter, for a run whose ranks hold parts of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from matroot_optim.layout.parts import Stack


class Totals(Protocol):
    """Protocol of the sums over the parts of parameters. Every rank makes the same calls in the same order."""

    @property
    def firsts(self) -> Sequence[int]:
        """One leaf for every parameter."""

    @property
    def weights(self) -> Sequence[Any]:
        """Squared norms of the whole weights of every leaf, for the trust ratio."""

    def norms(self, own: Any, there: Sequence[int]) -> Any:
        """Return the norm of the whole gradient for every leaf, 0 for a missing one, from the norms on this rank.

        The leaves that are `there` have a gradient, on all ranks or on none.
        """

    def squares(self, what: str, leaves: Sequence[int], own: Sequence[Any]) -> list[Any]:
        """Return squared norms of whole tensors, from those of some leaves, which may come several times.

        `what` is "graft", "cautious", "clip", "hyperball" or "sphere".
        """

    def grams(self, stacks: Sequence[Stack], gradients: Sequence[Any]) -> dict[str, Any]:
        """Return the products of stacks whose blocks are spread over the ranks, summed, by the dimension's name."""

    def dealt(self, engine: Any, jobs: Sequence[Any]) -> list[tuple[Any, list[Any]]]:
        """Return the jobs of roots by engine: that of this rank, and one that gives the roots of a solver to all."""

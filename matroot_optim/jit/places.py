"""Entries and rows at places that the compiler does not know.

XLA compiles equal loops over arrays of equal shape once. A loop that reads entry 7 of a vector is not that which reads
entry 8, so a constant place costs a compilation for every parameter. Here a place is a number in memory.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from matroot_optim.arrays import Array
from matroot_optim.jit.members import any_of


class Places:
    """The places of one compiled step, from the number of a step and the number of leaves."""

    def __init__(self, step: Array, leaves: int) -> None:
        zero = any_of(step < 0).astype(jnp.int32)
        self._zeros = jnp.stack([zero, zero])  # two, because one constant would become a part of the loop
        self._leaves = [self._at(i) for i in range(leaves)]

    def _at(self, place: int) -> Array:
        return jax.lax.index_in_dim(self._zeros + np.array([place, 0], np.int32), 0, keepdims=False)

    def entry(self, x: Array, i: int) -> Array:
        """Return ``x[i]`` of a vector."""
        place = self._leaves[i] if i < len(self._leaves) else self._at(i)
        return jax.lax.dynamic_index_in_dim(x, place, keepdims=False, allow_negative_indices=False)

    def entries(self, x: Array) -> list[Any]:
        """Return all entries of a vector."""
        return [self.entry(x, i) for i in range(len(x))]

    def rows(self, x: Array, start: int, stop: int) -> Array:
        """Return ``x[start:stop]``."""
        return jax.lax.dynamic_slice_in_dim(x, self._at(start), stop - start, allow_negative_indices=False)

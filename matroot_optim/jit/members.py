"""Decisions that the members of a vmapped ensemble share, so that a branch stays a branch.

`jax.lax.cond` and `switch` with a predicate for every member run all branches for all members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from matroot_optim.arrays import Array


def _agreed(number: Array, other: Array) -> Array:
    """Return `number`; under vmap that of all members if it is the same, else `other`."""
    return number


def _agreed_of_members(size: int, batched: Any, number: Array, other: Array) -> tuple[Array, bool]:
    first, other = number[0], other[0] if batched[1] else other
    return agreed(jnp.where(jnp.all(number == first), first, other), other), False


agreed: Callable[[Array, Array], Array] = custom_vmap(_agreed)
agreed.def_vmap(_agreed_of_members)  # type: ignore[attr-defined]


def _any_of(condition: Array) -> Array:
    """Return `condition`; under vmap True if it holds for one member."""
    return condition


def _any_of_members(size: int, batched: Any, condition: Array) -> tuple[Array, bool]:
    return any_of(jnp.any(condition)), False


any_of: Callable[[Array], Array] = custom_vmap(_any_of)
any_of.def_vmap(_any_of_members)  # type: ignore[attr-defined]


def all_of(condition: Array) -> Array:
    """Return `condition`; under vmap True if it holds for all members."""
    return jnp.logical_not(any_of(jnp.logical_not(condition)))

"""Norms of gradients, and the change of their units, without reading a value on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from matroot_optim.arrays import SMALL_NORM, Array, squared_norm
from matroot_optim.jit.members import all_of, any_of
from matroot_optim.jit.places import Places
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Stack
from matroot_optim.step.scaling import factors_of, scaled_traced, wanted_again
from matroot_optim.step.whitening import share_of_units

Arrays = dict[str, Array]
#: Larger norms are reduced to this value.
LARGEST = 2.0**127


def norms_of(arrays: Sequence[Array | None], places: Places) -> Array:
    """Compute norms in float32 without overflow or underflow; a norm is not finite if an entry is not.

    That of a missing array is 0.
    """
    zero = jnp.zeros((), jnp.float32)
    empty = [x is None or x.size == 0 for x in arrays]
    squares = jnp.stack([zero if x is None else squared_norm(x) for x in arrays])
    usual = jnp.sqrt(squares).astype(jnp.float32)
    good = np.array(empty) | ((usual > SMALL_NORM) & (usual < LARGEST))

    def of_extremes() -> Array:
        largest = jnp.stack([zero if no else jnp.max(jnp.abs(x)) for x, no in zip(arrays, empty, strict=True)])
        powers = jnp.frexp(positive(largest))[1]
        factors = factors_of(-powers, jnp.float32, 2, jnp)
        small = [x if x is None else _scaled(x, i, factors, places) for i, x in enumerate(arrays)]
        roots = jnp.sqrt(jnp.stack([zero if x is None else jnp.sum(x * x) for x in small]))
        norms = jnp.minimum(jnp.ldexp(roots, powers), LARGEST)
        return jnp.where(jnp.isfinite(largest), norms, largest).astype(jnp.float32)

    return jax.lax.cond(all_of(jnp.all(good)), lambda: usual, of_extremes)


def positive(x: Array) -> Array:
    """Return x, with 1 for what is not finite or not positive."""
    return jnp.where((x > 0) & jnp.isfinite(x), x, 1)


def _scaled(x: Array, leaf: int, factors: Sequence[Array], places: Places) -> Array:
    """Multiply the array of a leaf by its entry of all factors."""
    for factor in factors:
        x = x * places.entry(factor, leaf).astype(x.dtype)
    return x


def in_units(
    layout: Layout, arrays: Arrays, g: Sequence[Array], peak: Array, units: Array, places: Places
) -> tuple[list[Array], Array, Arrays]:
    """Return gradients and peaks in these units, and what `matroot_optim.step.scaling.in_new_units` changes.

    There are no pending roots here.
    """
    shift = units - arrays["exponent"]
    powers = [(-units, 2), (-shift, 3), (-2 * shift, 6)]

    def factors() -> tuple[Array, list[list[Array]]]:  # in float32: they are exact for every dtype
        return jnp.ldexp(peak, -units), [factors_of(power, jnp.float32, chunks, jnp) for power, chunks in powers]

    def ones() -> tuple[Array, list[list[Array]]]:
        return peak, [[jnp.ones(power.shape, jnp.float32)] * chunks for power, chunks in powers]

    odd = any_of(jnp.any((units != 0) | (shift != 0)))
    recent, (of_gradients, once, twice) = jax.lax.cond(odd, factors, ones)
    new: Arrays = {"peak": peak, "exponent": units}
    for i, leaf in enumerate(layout.leaves):
        if leaf.averages_gradients:
            name = leaf.name("momentum")
            new[name] = _scaled(arrays[name], i, once, places)
        if leaf.has_moment and not leaf.options.graft_normalize:
            name = leaf.name("moment")
            new[name] = _scaled(arrays[name], i, twice, places)

    def converted() -> Arrays:
        found: Arrays = {}
        for stack, axis in layout.factors:
            found.update(_in_new_units(stack, axis, arrays, shift, twice))
        return found

    old = {name: arrays[name] for name in jax.eval_shape(converted)}
    new.update(jax.lax.cond(any_of(jnp.any(shift != 0)), converted, lambda: old))
    return [_scaled(x, i, of_gradients, places) for i, x in enumerate(g)], recent, new


def _in_new_units(stack: Stack, axis: int, old: Arrays, shift: Array, factors: Sequence[Array]) -> Arrays:
    """Convert the statistics and the roots of one dimension of a stack; `factors` are those of twice the shift."""
    key, leaf = stack.axis_name(axis), stack.leaf_of_block
    rows, statistic = shift[leaf], old[f"{key}/statistic"]
    if not stack.whitened:
        for factor in factors:
            statistic = statistic * factor[leaf].astype(statistic.dtype)[:, None]
    else:
        power = share_of_units(stack, axis, rows)
        statistic = scaled_traced(statistic, power, 6)
    new = {f"{key}/statistic": statistic}
    if stack.in_basis:
        return new
    taken, root = old[f"{key}/taken"], old[f"{key}/root"]
    new[f"{key}/taken"] = jnp.where(rows != 0, wanted_again(taken, jnp), taken)
    if stack.whitened:
        half = 2.0 ** (-power % 2 / 2).astype(root.dtype)[:, None, None]
        there = (taken != 0)[:, None, None]  # before that it is I
        new[f"{key}/root"] = jnp.where(there, scaled_traced(root * half, -power // 2, 6), root)
    elif stack.options.graft == "none":
        new[f"{key}/root"] = root * (rows == 0)[:, None, None]
    return new

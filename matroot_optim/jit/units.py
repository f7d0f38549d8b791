"""Norms of gradients, and the change of their units, without reading a value on the host."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from matroot_optim.arrays import SMALL_NORM, Array, squared_norm
from matroot_optim.jit.members import all_of, any_of
from matroot_optim.jit.places import Places
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Stack
from matroot_optim.step.scaling import scaled_traced, wanted_again, whitened_powers

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
        factors = _factors(-powers, "float32", 2)
        small = list(arrays)
        for i, x in enumerate(arrays):
            for factor in factors:
                small[i] = x if x is None else small[i] * places.entry(factor, i).astype(x.dtype)
        roots = jnp.sqrt(jnp.stack([zero if x is None else jnp.sum(x * x) for x in small]))
        norms = jnp.minimum(jnp.ldexp(roots, powers), LARGEST)
        return jnp.where(jnp.isfinite(largest), norms, largest).astype(jnp.float32)

    return jax.lax.cond(all_of(jnp.all(good)), lambda: usual, of_extremes)


def positive(x: Array) -> Array:
    """Return x, with 1 for what is not finite or not positive."""
    return jnp.where((x > 0) & jnp.isfinite(x), x, 1)


def in_units(
    layout: Layout, arrays: Arrays, g: Sequence[Array], peak: Array, norms: Array, units: Array, places: Places
) -> tuple[list[Array], Array, Arrays]:
    """Return gradients, their peaks and norms in these units, and what `step.scaling.in_new_units` changes.

    There are no pending roots here.
    """
    shift, both = units - arrays["exponent"], jnp.stack([peak, norms])
    kinds = sorted({leaf.dtype for leaf in layout.leaves})

    def odd() -> tuple[Array, dict[str, list[Array]]]:
        found = {dtype: [*_factors(-units, dtype, 2), *_factors(-shift, dtype, 1)] for dtype in kinds}
        return jnp.ldexp(both, -units), found

    def usual() -> tuple[Array, dict[str, list[Array]]]:
        return both, {dtype: [jnp.ones(peak.shape, dtype)] * 3 for dtype in kinds}

    # Computed apart, since XLA would make a long chain like that of ldexp a part of the loops of every parameter.
    sizes, factors = jax.lax.cond(any_of(jnp.any((units != 0) | (shift != 0))), odd, usual)
    new: Arrays = {"peak": peak, "exponent": units}
    found = []
    for i, leaf in enumerate(layout.leaves):
        first, second, change = (places.entry(x, i) for x in factors[leaf.dtype])
        found.append(g[i] * first * second)
        if leaf.averages_gradients and not leaf.normalizes:
            name = leaf.name("momentum")
            new[name] = arrays[name] * change
        if leaf.has_moment and not leaf.normalizes:
            name = leaf.name("moment")
            new[name] = arrays[name] * change * change

    def converted() -> Arrays:
        return dict(x for stack, axis in layout.factors for x in _in_new_units(stack, axis, arrays, shift).items())

    old = {name: arrays[name] for name in jax.eval_shape(converted)}
    new.update(jax.lax.cond(any_of(jnp.any(shift != 0)), converted, lambda: old))
    return found, sizes, new


def _factors(powers: Array, dtype: str, count: int) -> list[Array]:
    """Return factors whose product is 2 to these powers, or the nearest power that so many factors reach.

    One is enough for means in new units: what others would change is too small beside the gradient that asks for them.
    """
    largest = jnp.finfo(dtype).maxexp - 2
    found = []
    for _ in range(count):
        part = jnp.clip(powers, -largest, largest)
        found.append(jnp.ldexp(jnp.ones(part.shape, dtype), part))
        powers = powers - part
    return found


def _in_new_units(stack: Stack, axis: int, old: Arrays, shift: Array) -> Arrays:
    """Convert the statistics and the roots of one dimension of a stack."""
    key, rows = stack.axis_name(axis), shift[stack.leaf_of_block]
    power = -2 * rows
    if stack.whitened:
        power = whitened_powers(stack, axis, rows, old[f"{key}/statistic"], jnp)
    new = {f"{key}/statistic": scaled_traced(old[f"{key}/statistic"], power, 6)}
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

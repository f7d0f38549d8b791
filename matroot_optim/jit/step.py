"""One step of Shampoo for jax tracing: the core's stages on arrays without values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from matroot_optim.arrays import Array
from matroot_optim.jit.places import Places
from matroot_optim.jit.refresh import renewed
from matroot_optim.jit.shards import explicit, in_use
from matroot_optim.jit.start import Plan, parts_of_leaves
from matroot_optim.jit.units import in_units, norms_of, positive
from matroot_optim.layout.layout import Layout
from matroot_optim.options import Options
from matroot_optim.step.bases import moving
from matroot_optim.step.finish import check_weights
from matroot_optim.step.inputs import Step, same
from matroot_optim.step.momentum import Rates, with_l2
from matroot_optim.step.narrow import narrow, widen
from matroot_optim.step.scaling import exponents, forgetting
from matroot_optim.step.stages import stacked_gradients, update_statistics, updates

Arrays = dict[str, Array]


def advance(
    plan: Plan, arrays: Arrays, g: Sequence[Array | None], weights: Sequence[Array | None]
) -> tuple[list[Array], Arrays]:
    """Compute the directions (momentum included, rate 1) of one step, and the new arrays; shardings do not change."""
    shards = in_use(plan.shards)

    def work(arrays: Arrays, g: Any, weights: Any) -> tuple[list[Array], Arrays]:
        moves, arrays = _advance(replace(plan, shards=shards), arrays, g, weights)
        if shards is not None:
            of_leaf = parts_of_leaves(plan.layout)
            moves = [shards.fixed(x, i) for i, x in enumerate(moves)]
            arrays = {name: shards.fixed(x, of_leaf.get(name)) for name, x in arrays.items()}
        return moves, arrays

    moves, new = explicit(work, arrays, list(g), list(weights))
    return moves, new


def _advance(
    plan: Plan, arrays: Arrays, g: Sequence[Array | None], weights: Sequence[Array | None]
) -> tuple[list[Array], Arrays]:
    options, layout, shards = plan.options, plan.layout, plan.shards
    rates = [Rates(None, float(leaf.options.weight_decay), leaf.options.betas[0]) for leaf in layout.leaves]
    check_weights(layout, weights, rates)
    arrays = widen(layout, arrays)
    if plan.roots != "host":
        arrays.update(renewed(plan, arrays, arrays["step"], late=True))
    t = arrays["step"] + 1
    places = Places(t, len(layout.leaves))
    clean, active, good, bad, sizes = _screen(options, layout, g, weights, rates, arrays, places)
    accumulates = (t - 1) % options.statistics_every == 0
    soap = options.algorithm == "soap"
    moved = moving(layout, active, places.entries(arrays["accumulated"]), 0) if soap else active
    counted = jnp.stack([jnp.asarray(a) for a in moved]).astype(jnp.int32) if moved and soap else good
    arrays["count"] = arrays["count"] + counted
    arrays["accumulated"] = arrays["accumulated"] + good * accumulates
    arrays["skipped"] = arrays["skipped"] + bad
    whole = shards.fixed if shards is not None else same
    now = Step(layout, arrays, clean, list(weights), active, rates, t, False, whole, None, places, *sizes)
    stacks = stacked_gradients(now)
    if soap:  # whose bases have not seen the gradient of the step
        moves, changed = updates(replace(now, active=moved), stacks)
        arrays.update(changed)
        now = replace(now, arrays=arrays)
    arrays.update(_statistics(options, now, stacks, accumulates))
    if plan.roots != "host":
        arrays.update(renewed(plan, arrays, t))
    if not soap:
        moves, changed = updates(replace(now, arrays=arrays), stacks)
        arrays.update(changed)
    arrays["graft_ratio"] = jnp.asarray([jnp.asarray(r, jnp.float32) for r in changed["graft_ratio"]])
    arrays["step"] = t
    return moves, narrow(layout, arrays, t)


def _screen(
    options: Options,
    layout: Layout,
    g: Sequence[Array | None],
    weights: Sequence[Array | None],
    rates: Sequence[Rates],
    arrays: Arrays,
    places: Places,
) -> tuple[list[Array], list[Any], Array, Array, Array]:
    """Apply the core's screen without reading any value on the host; write units and peaks into `arrays`.

    Return the gradients, for every leaf whether it counts, vectors that are 1 where it counts and where it is not
    finite, and the peaks and the norms in the units.
    """
    if not g:
        none = jnp.zeros(0, jnp.int32)
        return [], [], none, none, jnp.stack([arrays["peak"]] * 2)
    norms = norms_of(g, places)
    there = np.array([x is not None for x in g], bool)
    bad, skip = there & ~jnp.isfinite(norms), options.on_nonfinite == "skip"
    good = there & ~bad if skip else jnp.asarray(there)
    active = [x is not None and (places.entry(good, i) if skip else True) for i, x in enumerate(g)]
    scale = None
    if options.clip_norm is not None:
        scale = jnp.minimum(1.0, options.clip_norm / positive(norms_of([jnp.where(good, norms, 0)], places)[0]))
    clean: list[Array] = []
    changed = False
    for i, leaf in enumerate(layout.leaves):
        x = g[i]
        if x is None:
            clean.append(jnp.zeros(leaf.shape, leaf.dtype))
            continue
        x = x if active[i] is True else jnp.where(active[i], x, 0)
        x = x if scale is None else x * scale.astype(x.dtype)
        clean.append(with_l2(leaf.options, x, weights[i], rates[i]))
        if scale is not None or clean[i] is not x:
            changed = True
    if changed:
        norms = norms_of(clean, places)
    forget = jnp.asarray(forgetting(layout, rates), jnp.float32)
    peak = jnp.fmax(jnp.where(jnp.isfinite(norms), norms, 0), arrays["peak"] * forget)
    units = exponents(peak, arrays["exponent"], jnp)
    clean, sizes, changes = in_units(layout, arrays, clean, peak, norms, units, places)
    arrays.update(changes)
    return clean, active, good.astype(jnp.int32), bad.astype(jnp.int32), sizes


def _statistics(options: Options, now: Step, stacks: Sequence[Array], accumulates: Any) -> Arrays:
    """Update the statistics (stage 1) on the steps that accumulate."""
    if options.statistics_every == 1:
        return update_statistics(now, stacks)
    names = [f"{stack.axis_name(axis)}/statistic" for stack, axis in now.layout.factors]
    old = {name: now.arrays[name] for name in names}
    return dict(jax.lax.cond(accumulates, lambda: update_statistics(now, stacks), lambda: old))

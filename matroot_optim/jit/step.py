"""One step of Shampoo for jax tracing: the core's stages on arrays without values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from matroot_optim.arrays import Array, squared_norm
from matroot_optim.jit.members import any_of
from matroot_optim.jit.refresh import renewed
from matroot_optim.jit.shards import explicit, in_use
from matroot_optim.jit.start import Plan, parts_of_leaves
from matroot_optim.layout.layout import Layout
from matroot_optim.options import Options
from matroot_optim.step.bases import moving
from matroot_optim.step.finish import check_weights
from matroot_optim.step.inputs import Step, same
from matroot_optim.step.momentum import Rates, with_l2
from matroot_optim.step.narrow import narrow, widen
from matroot_optim.step.scaling import exponents, scaled_traced, wanted_again
from matroot_optim.step.stages import stacked_gradients, update_statistics, updates
from matroot_optim.step.whitening import share_of_units

Arrays = dict[str, Array]
#: Larger norms are reduced to this value.
LARGEST = 2.0**127


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
    arrays = widen(layout, arrays)
    if plan.roots != "host":
        arrays.update(renewed(plan, arrays, arrays["step"], late=True))
    t = arrays["step"] + 1
    rates = [Rates(None, float(leaf.options.weight_decay), leaf.options.betas[0]) for leaf in layout.leaves]
    check_weights(layout, weights, rates)
    clean, active, bad = _screen(options, layout, g, weights, rates, arrays)
    good = jnp.stack([jnp.asarray(a) for a in active]).astype(jnp.int32) if active else jnp.zeros(0, jnp.int32)
    accumulates = (t - 1) % options.statistics_every == 0
    soap = options.algorithm == "soap"
    moved = moving(layout, active, arrays["accumulated"], 0) if soap else active
    counted = jnp.stack([jnp.asarray(a) for a in moved]).astype(jnp.int32) if moved else good
    arrays["count"] = arrays["count"] + counted
    arrays["accumulated"] = arrays["accumulated"] + good * accumulates
    arrays["skipped"] = arrays["skipped"] + bad
    whole = shards.fixed if shards is not None else same
    now = Step(layout, arrays, clean, list(weights), active, rates, t, donate=False, whole=whole)
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
) -> tuple[list[Array], list[Any], Array]:
    """Apply the core's screen without reading any value on the host; write units and peaks into `arrays`."""
    norms = [jnp.float32(0) if x is None else _norm(x) for x in g]
    finite = [False if x is None else jnp.isfinite(n) for x, n in zip(g, norms, strict=True)]
    skip = options.on_nonfinite == "skip"
    active = [f if x is None or skip else True for f, x in zip(finite, g, strict=True)]
    bad = jnp.asarray([jnp.asarray(x is not None) & ~jnp.asarray(f) for f, x in zip(finite, g, strict=True)])
    scale = None
    if options.clip_norm is not None:
        counted = jnp.stack([jnp.where(a, n, 0) for a, n in zip(active, norms, strict=True)])
        scale = jnp.minimum(1.0, options.clip_norm / _positive(_norm(counted)))
    clean: list[Array] = []
    for i, leaf in enumerate(layout.leaves):
        x = g[i]
        if x is None:
            clean.append(jnp.zeros(leaf.shape, leaf.dtype))
            continue
        x = x if active[i] is True else jnp.where(active[i], x, 0)
        x = x if scale is None else x * scale.astype(x.dtype)
        clean.append(with_l2(leaf.options, x, weights[i], rates[i]))
        if scale is not None or clean[i] is not x:
            norms[i] = _norm(clean[i])
    if not clean:
        return clean, active, bad.astype(jnp.int32)
    forget = jnp.asarray(layout.decays, jnp.float32)
    now = jnp.stack(norms)
    peak = jnp.fmax(jnp.where(jnp.isfinite(now), now, 0), arrays["peak"] * forget)
    units = exponents(peak, arrays["exponent"], jnp)
    shift = units - arrays["exponent"]
    moved = {name: x for name, x in arrays.items() if name not in ("peak", "exponent")}
    arrays.update(
        jax.lax.cond(any_of(jnp.any(shift != 0)), lambda old: _in_new_units(layout, old, shift), lambda old: old, moved)
    )
    arrays["peak"], arrays["exponent"] = peak, units
    return [scaled_traced(x, -units[i]) for i, x in enumerate(clean)], active, bad.astype(jnp.int32)


def _norm(x: Array) -> Array:
    """Compute the norm in float32 without overflow or underflow; it is not finite if an entry is not."""
    if x.size == 0:
        return jnp.float32(0)
    largest = jnp.max(jnp.abs(x))
    power = jnp.frexp(_positive(largest))[1]
    norm = jnp.ldexp(jnp.sqrt(squared_norm(scaled_traced(x, -power))), power)
    return jnp.where(jnp.isfinite(largest), jnp.minimum(norm, LARGEST), largest).astype(jnp.float32)


def _positive(x: Array) -> Array:
    return jnp.where((x > 0) & jnp.isfinite(x), x, 1)


def _in_new_units(layout: Layout, arrays: Arrays, shift: Array) -> Arrays:
    """Apply `matroot_optim.step.scaling.in_new_units` to all parameters; there are no pending roots here."""
    new = dict(arrays)
    for i, leaf in enumerate(layout.leaves):
        if leaf.averages_gradients:
            new[leaf.name("momentum")] = scaled_traced(arrays[leaf.name("momentum")], -shift[i], 3)
        if leaf.has_moment and not leaf.options.graft_normalize:
            new[leaf.name("moment")] = scaled_traced(arrays[leaf.name("moment")], -2 * shift[i], 6)
    for stack, axis in layout.factors:
        key = stack.axis_name(axis)
        rows = jnp.concatenate([jnp.full(m.stop - m.start, shift[m.leaf]) for m in stack.members])
        power = share_of_units(stack, axis, rows) if stack.whitened else -2 * rows
        new[f"{key}/statistic"] = scaled_traced(arrays[f"{key}/statistic"], power, 6)
        if stack.in_basis:
            continue
        taken = arrays[f"{key}/taken"]
        new[f"{key}/taken"] = jnp.where(rows != 0, wanted_again(taken, jnp), taken)
        root = arrays[f"{key}/root"]
        if stack.whitened:
            half = 2.0 ** (-power % 2 / 2).astype(root.dtype)[:, None, None]
            there = (taken != 0)[:, None, None]  # before that it is I
            new[f"{key}/root"] = jnp.where(there, scaled_traced(root * half, -power // 2, 6), root)
        elif stack.options.graft == "none":
            new[f"{key}/root"] = root * (rows == 0)[:, None, None]
    return new


def _statistics(options: Options, now: Step, stacks: Sequence[Array], accumulates: Any) -> Arrays:
    """Update the statistics (stage 1) on the steps that accumulate."""
    if options.statistics_every == 1:
        return update_statistics(now, stacks)
    names = [f"{stack.axis_name(axis)}/statistic" for stack, axis in now.layout.factors]
    old = {name: now.arrays[name] for name in names}
    return dict(jax.lax.cond(accumulates, lambda: update_statistics(now, stacks), lambda: old))

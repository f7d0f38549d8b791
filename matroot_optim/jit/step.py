"""One step of Shampoo for jax tracing: the core's stages, and the schedule of roots as a switch over phases.

The roots of each phase are known before compilation, the phase of a step only at run time. So every phase with roots
is a branch, and a step runs one branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from matroot_optim.arrays import Array, squared_norm
from matroot_optim.entries import BOOKS, OF_LEAF, leaf_parts
from matroot_optim.jit.dealing import Owners, owners_of
from matroot_optim.jit.members import agreed, any_of
from matroot_optim.jit.shards import Shards, explicit, in_use, put
from matroot_optim.jit.solves import bases_by_callback, bases_in_graph, by_callback, in_graph
from matroot_optim.jit.turns import Due, turns
from matroot_optim.layout.layout import Layout, make_layout
from matroot_optim.layout.parts import Stack
from matroot_optim.layout.trees import Leaves
from matroot_optim.options import Options
from matroot_optim.refresh.jobs import FACTS
from matroot_optim.state import fresh
from matroot_optim.step.bases import moved_moments, moving, overlaps
from matroot_optim.step.finish import check_weights
from matroot_optim.step.grafting import bias_correction
from matroot_optim.step.inputs import Step, same
from matroot_optim.step.momentum import Rates, with_l2
from matroot_optim.step.narrow import narrow, widen
from matroot_optim.step.scaling import decay, exponents, scaled_traced, wanted_again
from matroot_optim.step.stages import stacked_gradients, update_statistics, updates
from matroot_optim.step.whitening import share_of_units

Arrays = dict[str, Array]
#: Counters and facts have 32 bits here.
NARROW = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}
#: Larger norms are reduced to this value.
LARGEST = 2.0**127


@dataclass(frozen=True)
class Plan:
    """The static part of the state."""

    options: Options
    layout: Layout
    roots: str
    shards: Shards | None = None


def layout_of(options: Options, leaves: Leaves) -> Layout:
    """Return the layout of arrays by path, whatever kind of arrays they are, traced or only shapes."""
    found: list[Layout] = []
    jax.eval_shape(lambda x: found.append(make_layout(options, dict(zip(leaves, x, strict=True)))), [*leaves.values()])
    return found[0]


def initial(plan: Plan, params: Sequence[Array]) -> Arrays:
    """Return the core's fresh state as jax arrays, counters included; on a mesh, momentum and moment as the parameters.

    Parameters
    ----------
    plan : Plan
    params : sequence of jax arrays, or of anything that has a shape on a mesh
    """
    shards = plan.shards
    if shards is None:
        here = [x if isinstance(x, jax.Array) else jnp.zeros(()) for x in params]
        arrays = to_jax(fresh(plan.options, plan.layout, here).arrays)
        return {**arrays, "graft_ratio": jnp.ones(len(plan.layout.leaves), jnp.float32)}
    start = fresh(plan.options, plan.layout, [np.zeros(())] * len(params)).arrays
    start["graft_ratio"] = np.ones(len(plan.layout.leaves), np.float32)
    found, of_leaf = {}, parts_of_leaves(plan.layout)
    for name, x in start.items():
        sharding = shards.sharding(x.ndim, of_leaf.get(name))
        if name in of_leaf or name.endswith("/statistic"):  # not by way of the host
            found[name] = jnp.zeros(x.shape, x.dtype, device=sharding)
        else:
            found[name] = put(x.astype(NARROW.get(x.dtype, x.dtype)) if kind_on_host(name) else x, sharding)
    return found


def parts_of_leaves(layout: Layout) -> dict[str, int]:
    """Return the names of the arrays that have a parameter's shape, with the number of the parameter."""
    return {leaf.name(part): i for i, leaf in enumerate(layout.leaves) for part in leaf_parts(leaf)}


def kind_on_host(name: str) -> Any:
    """Return the core's dtype of a counter or a fact; None for the name of another array."""
    kinds = {**FACTS, **BOOKS, **OF_LEAF, "step": np.int64}
    return kinds.get(name.rsplit("/", 1)[-1]) if name in kinds or name.startswith(":stack") else None


def to_jax(arrays: Arrays) -> Arrays:
    """Convert the core's arrays to jax arrays, counters to 32 bits."""
    return {
        name: jnp.asarray(x.astype(NARROW.get(x.dtype, x.dtype))) if isinstance(x, np.ndarray) else x
        for name, x in arrays.items()
    }


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
        arrays.update(_refresh(plan, arrays, t))
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
    forget = jnp.asarray([decay(leaf) for leaf in layout.leaves], jnp.float32)
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


# Stage 2.


def _refresh(plan: Plan, arrays: Arrays, t: Any) -> Arrays:
    """Renew the roots that are due at this step; return the roots, their facts and their counters."""
    if not plan.layout.factors:
        return {}
    table = turns(plan.options, plan.layout)
    parts = ("root", "taken", "refreshes", "skipped", "failures", *FACTS)
    names = [f"{stack.axis_name(axis)}/{part}" for stack, axis in plan.layout.factors for part in parts]
    names += [leaf.name("moment") for leaf in plan.layout.leaves if leaf.in_basis]
    old = {name: arrays[name] for name in names}
    asked = [jnp.any(arrays[f"{stack.axis_name(axis)}/taken"] < 0) for stack, axis in plan.layout.factors]
    number = table.at(t, plan.options.first_root_step, jnp.any(jnp.stack(asked)))
    due = jnp.asarray(table.masks)[number]  # fewer than those of the branch where members of an ensemble differ
    owners = owners_of(plan.shards, table.sets)
    run = [
        _branch(plan, arrays, items, own, _by_factor(plan.layout, due), t)
        for items, own in zip(table.sets, owners, strict=True)
    ]
    return dict(jax.lax.switch(agreed(number, jnp.asarray(table.all)), run, old))


def _by_factor(layout: Layout, due: Array) -> dict[str, Array]:
    """Split a mask of all roots into the masks of the stacks' dimensions."""
    found, start = {}, 0
    for stack, axis in layout.factors:
        found[stack.axis_name(axis)] = due[start : start + stack.blocks]
        start += stack.blocks
    return found


def _branch(
    plan: Plan, arrays: Arrays, items: Due, owners: Owners, due: dict[str, Array], t: Any
) -> Callable[[Arrays], Arrays]:
    """Return the function that renews these roots."""
    if plan.options.algorithm == "soap":
        return lambda old: _renew_bases(plan, arrays, items, owners, due, old, t)
    solve = {"callback": by_callback, "graph": in_graph}[plan.roots]

    def renew(old: Arrays) -> Arrays:
        if not items:
            return old
        new = dict(old)
        rows = [_rows(plan.layout, arrays, *item) for item in items]
        histories = [_history(plan.layout, arrays, *item) for item in items]
        answers = solve(items, rows, histories, plan.shards, owners)
        for (stack, axis, index), row, (X, facts) in zip(items, rows, answers, strict=True):
            new.update(_install(old, stack, axis, index, row, X, facts, due, t))
        return new

    return renew


def _renew_bases(
    plan: Plan, arrays: Arrays, items: Due, owners: Owners, due: dict[str, Array], old: Arrays, t: Any
) -> Arrays:
    """Renew bases; where a basis is decomposed, move the second moment along."""
    if not items:
        return old
    solve = {"callback": bases_by_callback, "graph": bases_in_graph}[plan.roots]
    keys = [stack.axis_name(axis) for stack, axis, _ in items]
    indices = [index for _, _, index in items]
    rows = [arrays[f"{key}/statistic"][index] for key, index in zip(keys, indices, strict=True)]
    Q, taken = ([old[f"{k}/{part}"][i] for k, i in zip(keys, indices, strict=True)] for part in ("root", "taken"))
    new = dict(old)
    answers = solve(items, rows, Q, taken, plan.shards, owners)
    for k, ((stack, axis, index), (X, facts)) in enumerate(zip(items, answers, strict=True)):
        new.update(_install(old, stack, axis, index, rows[k], X, facts, due, t))
        X = new[f"{keys[k]}/root"][index]
        eye = jnp.eye(X.shape[-1], dtype=X.dtype)
        decomposed = (facts["n_iter"] == 0) & (new[f"{keys[k]}/taken"][index] == t)
        squares = jnp.where(decomposed[:, None, None], overlaps(Q[k], X), eye)
        new.update(moved_moments(plan.layout, {**arrays, **new}, stack, axis, index, squares))
    return new


def _rows(layout: Layout, arrays: Arrays, stack: Stack, axis: int, index: Any) -> Array:
    """Return the packed statistics of the blocks that are due, with bias correction."""
    rows = arrays[f"{stack.axis_name(axis)}/statistic"][index]
    beta = stack.options.betas[1]
    if not stack.options.bias_correction or beta == 1.0:
        return rows
    count = jnp.maximum(arrays["accumulated"][_leaves(stack)[index]], 1)
    # A product: XLA makes one of a division too, but not in every program, and the bits should be the same.
    return rows * (1 / bias_correction(beta, count.astype(rows.dtype)))[:, None]


def _leaves(stack: Stack) -> Any:
    """Return the leaf of every block of a stack."""
    return np.concatenate([np.full(m.stop - m.start, m.leaf) for m in stack.members])


def _history(layout: Layout, arrays: Arrays, stack: Stack, axis: int, index: Any) -> Array:
    """Return what the regularization depends on, (3, k): failures, gradients in the statistic, units."""
    leaf = _leaves(stack)[index]
    failures = arrays[f"{stack.axis_name(axis)}/failures"][index]
    return jnp.stack([failures, arrays["accumulated"][leaf], arrays["exponent"][leaf]])


def _install(
    old: Arrays,
    stack: Stack,
    axis: int,
    index: Any,
    row: Array,
    X: Array,
    facts: Arrays,
    due: dict[str, Array],
    t: Any,
) -> Arrays:
    """Take good roots that are due, keep and count the others, as the core does; skip zero statistics."""
    key = stack.axis_name(axis)
    now = due[key][index]
    useful = now & (jnp.sum(jnp.abs(row), axis=-1) > 0)
    good = useful & (facts["residual"] <= stack.options.root_tolerance) & jnp.isfinite(jnp.sum(X, axis=(-2, -1)))
    bad = useful & ~good
    taken = old[f"{key}/taken"][index]
    new = {f"{key}/root": old[f"{key}/root"].at[index].set(_where(good, X, old[f"{key}/root"][index]))}
    values = {
        "taken": jnp.where(good, t, jnp.where(now, jnp.maximum(taken, 0), taken)),
        "refreshes": old[f"{key}/refreshes"][index] + good,
        "skipped": old[f"{key}/skipped"][index] + bad,
        "failures": jnp.where(good, 0, old[f"{key}/failures"][index] + bad),
    }
    values.update({name: jnp.where(good, value, old[f"{key}/{name}"][index]) for name, value in facts.items()})
    if "status" in facts:
        values["status"] = jnp.where(useful, facts["status"], old[f"{key}/status"][index])
    for name, value in values.items():
        x = old[f"{key}/{name}"]
        new[f"{key}/{name}"] = x.at[index].set(value.astype(x.dtype))
    return new


def _where(good: Array, X: Array, old: Array) -> Array:
    return jnp.where(good[:, None, None], X, old)

"""Stage 2 inside a compiled step: the schedule of roots as a switch over phases.

The roots of each phase are known before compilation, the phase of a step only at run time. So every phase with roots
is a branch, and a step runs one branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from matroot_optim.arrays import Array
from matroot_optim.jit.dealing import Owners, owners_of
from matroot_optim.jit.members import agreed
from matroot_optim.jit.solves import bases_by_callback, bases_in_graph, by_callback, in_graph
from matroot_optim.jit.start import Plan
from matroot_optim.jit.turns import Due, turns
from matroot_optim.layout.parts import Stack
from matroot_optim.refresh.jobs import FACTS
from matroot_optim.step.bases import moved_moments, overlaps
from matroot_optim.step.grafting import bias_correction

Arrays = dict[str, Array]


def renewed(plan: Plan, arrays: Arrays, t: Any, *, late: bool = False) -> Arrays:
    """Renew the roots that are due at this step; return the roots, their facts and their counters.

    `late`: those that are used one step later; `arrays` are as the step t has left them.
    """
    table = turns(plan.options, plan.layout, late=late)
    if not plan.layout.factors or (late and not table.masks.any()):
        return {}
    parts = ("root", "taken", "refreshes", "skipped", "failures", *FACTS)
    names = [f"{stack.axis_name(axis)}/{part}" for stack, axis in plan.layout.factors for part in parts]
    names += [leaf.name("moment") for leaf in plan.layout.leaves if leaf.in_basis]
    old = {name: arrays[name] for name in names}
    asked = [jnp.any(arrays[f"{stack.axis_name(axis)}/taken"] < 0) for stack, axis in plan.layout.factors]
    asked = [] if late else asked  # those are needed at once
    number = table.at(t, plan.options.first_root_step, jnp.any(jnp.stack([jnp.asarray(False), *asked])))
    due = jnp.asarray(table.masks)[number]  # fewer than those of the branch where members of an ensemble differ
    by_factor = {stack.axis_name(axis): mine for stack, axis, mine in plan.layout.split(due)}
    owners = owners_of(plan.shards, table.sets)
    run = [_branch(plan, arrays, items, own, by_factor, t) for items, own in zip(table.sets, owners, strict=True)]
    return dict(jax.lax.switch(agreed(number, jnp.asarray(table.all)), run, old))


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
        rows = [_rows(arrays, *item) for item in items]
        histories = [_history(arrays, *item) for item in items]
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


def _rows(arrays: Arrays, stack: Stack, axis: int, index: Any) -> Array:
    """Return the packed statistics of the blocks that are due, with bias correction."""
    rows = arrays[f"{stack.axis_name(axis)}/statistic"][index]
    beta = stack.options.betas[1]
    if not stack.options.bias_correction or beta == 1.0:
        return rows
    count = jnp.maximum(arrays["accumulated"][stack.leaf_of_block[index]], 1)
    # A product: XLA makes one of a division too, but not in every program, and the bits should be the same.
    return rows * (1 / bias_correction(beta, count.astype(rows.dtype)))[:, None]


def _history(arrays: Arrays, stack: Stack, axis: int, index: Any) -> Array:
    """Return what the regularization depends on, (3, k): failures, gradients in the statistic, units."""
    leaf = stack.leaf_of_block[index]
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

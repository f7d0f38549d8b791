"""Stage 2 inside a compiled step: the schedule of roots as a switch over phases.

The roots of each phase are known before compilation, the phase of a step only at run time. So every phase with roots
is a branch, and a step runs one branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from matroot_optim.arrays import Array
from matroot_optim.jit.dealing import Owners, owners_of
from matroot_optim.jit.members import agreed, any_of
from matroot_optim.jit.roots import FACTS_IN_GRAPH
from matroot_optim.jit.solves import Answers, bases_by_callback, bases_in_graph, by_callback, in_graph
from matroot_optim.jit.start import Plan
from matroot_optim.jit.turns import Due, turns
from matroot_optim.layout.parts import Stack
from matroot_optim.refresh.jobs import FACTS
from matroot_optim.step.bases import moved_moments, overlaps
from matroot_optim.step.grafting import bias_correction

Arrays = dict[str, Array]
#: Counters of every root.
COUNTERS = ("taken", "refreshes", "skipped", "failures")


def renewed(plan: Plan, arrays: Arrays, t: Any, *, late: bool = False) -> Arrays:
    """Renew the roots that are due at this step; return the roots, their facts and their counters.

    `late`: those that are used one step later; `arrays` are as the step t has left them.
    """
    factors = {stack.axis_name(axis): stack for stack, axis in plan.layout.factors}
    table = turns(plan.options, plan.layout, late=late)
    if not factors or (late and not table.masks.any()):
        return {}
    asked = [] if late else [jnp.any(arrays[f"{key}/taken"] < 0) for key in factors]  # those are needed at once
    number = table.at(t, plan.options.first_root_step, jnp.any(jnp.stack([jnp.asarray(False), *asked])))
    due = jnp.asarray(table.masks)[number]  # fewer than those of the branch where members of an ensemble differ
    by_factor = {stack.axis_name(axis): mine for stack, axis, mine in plan.layout.split(due)}
    owners = owners_of(plan.shards, table.sets)
    run = [_branch(plan, arrays, items, own, by_factor) for items, own in zip(table.sets, owners, strict=True)]
    names = [f"{key}/root" for key in factors]
    names += [leaf.name("moment") for leaf in plan.layout.leaves if leaf.in_basis]
    kept = {name: arrays[name] for name in names}
    facts = {key: _facts(plan, stack) for key, stack in factors.items()}
    rows = {key: jnp.zeros((stack.blocks, 2 + len(facts[key])), jnp.float32) for key, stack in factors.items()}
    new, answers = jax.lax.switch(agreed(number, jnp.asarray(table.all)), run, kept, rows)
    old = {f"{key}/{part}": arrays[f"{key}/{part}"] for key in factors for part in (*COUNTERS, *facts[key])}

    def noted() -> Arrays:
        found: Arrays = {}
        for key, now in by_factor.items():
            found.update(_noted(old, key, facts[key], now, answers[key], t))
        return found

    # Apart from the branches, each of which would compile it.
    return {**new, **jax.lax.cond(any_of(jnp.any(due)), noted, lambda: old)}


def _facts(plan: Plan, stack: Stack) -> Sequence[str]:
    """Return the names of the facts that are known of a root of a stack."""
    return tuple(FACTS) if plan.roots == "callback" or stack.in_basis else FACTS_IN_GRAPH


def _branch(
    plan: Plan, arrays: Arrays, items: Due, owners: Owners, due: Arrays
) -> Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]:
    """Return the function that renews these roots, and writes rows for `_noted`."""

    def renew(old: Arrays, answers: Arrays) -> tuple[Arrays, Arrays]:
        if not items:
            return old, answers
        new, answers = dict(old), dict(answers)
        for (stack, axis, index), row, (X, facts) in _found(plan, arrays, items, owners):
            key = stack.axis_name(axis)
            before = old[f"{key}/root"]
            useful = due[key][index] & (jnp.sum(jnp.abs(row), axis=-1) > 0)  # there is no root of a zero statistic
            good = useful & (facts["residual"] <= stack.options.root_tolerance)
            good &= jnp.isfinite(jnp.sum(X, axis=(-2, -1)))
            good &= jnp.max(X, axis=(-2, -1)) <= stack.largest
            X = jnp.where(good[:, None, None], X, before[index])
            new[f"{key}/root"] = before.at[index].set(X)
            values = [useful, good, *(facts[name] for name in _facts(plan, stack))]
            answers[key] = answers[key].at[index].set(jnp.stack([x.astype(jnp.float32) for x in values], axis=1))
            if stack.in_basis:  # where a basis was decomposed, the second moment moves along
                decomposed = (facts["n_iter"] == 0) & good
                eye = jnp.eye(X.shape[-1], dtype=X.dtype)
                squares = jnp.where(decomposed[:, None, None], overlaps(before[index], X), eye)
                new.update(moved_moments(plan.layout, {**arrays, **new}, stack, axis, index, squares))
        return new, answers

    return renew


def _found(plan: Plan, arrays: Arrays, items: Due, owners: Owners) -> list[tuple[Any, Array, Any]]:
    """Return these blocks with their statistics, and with their roots or bases."""
    found: list[tuple[Any, Array, Any]] = []
    for solve, in_basis in ((_roots, False), (_bases, True)):
        at = [k for k, (stack, _, _) in enumerate(items) if stack.in_basis is in_basis]
        if at:
            mine = [items[k] for k in at]
            found += zip(mine, *solve(plan, arrays, mine, [owners[k] for k in at] if owners else owners), strict=True)
    return found


def _roots(plan: Plan, arrays: Arrays, items: Due, owners: Owners) -> tuple[list[Array], Answers]:
    """Return the statistics of these blocks, and their roots."""
    solve = {"callback": by_callback, "graph": in_graph}[plan.roots]
    rows = [_rows(arrays, *item) for item in items]
    return rows, solve(items, rows, [_history(arrays, *item) for item in items], plan.shards, owners)


def _bases(plan: Plan, arrays: Arrays, items: Due, owners: Owners) -> tuple[list[Array], Answers]:
    """Return the statistics of these blocks, and their bases."""
    solve = {"callback": bases_by_callback, "graph": bases_in_graph}[plan.roots]

    def of(part: str) -> list[Array]:
        return [arrays[f"{stack.axis_name(axis)}/{part}"][index] for stack, axis, index in items]

    rows = of("statistic")
    return rows, solve(items, rows, of("root"), of("taken"), plan.shards, owners)


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


def _noted(old: Arrays, key: str, names: Sequence[str], now: Array, rows: Array, t: Any) -> Arrays:
    """Return the counters and the facts after the roots that are due `now`, as the core counts them."""
    useful, good = rows[:, 0] > 0, rows[:, 1] > 0
    bad = useful & ~good
    taken = old[f"{key}/taken"]
    new = {
        "taken": jnp.where(good, t, jnp.where(now, jnp.maximum(taken, 0), taken)),
        "refreshes": old[f"{key}/refreshes"] + good,
        "skipped": old[f"{key}/skipped"] + bad,
        "failures": jnp.where(good, 0, old[f"{key}/failures"] + bad),
    }
    for column, name in enumerate(names, 2):
        which = useful if name == "status" else good
        new[name] = jnp.where(which, rows[:, column], old[f"{key}/{name}"])
    return {f"{key}/{name}": x.astype(old[f"{key}/{name}"].dtype) for name, x in new.items()}

"""Averages of the weights under optax, each parameter's by its own count; see `matroot_optim.step.averaging`.

A chain whose first state has the counts makes the updates, and the average is appended to its states.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from matroot_optim._optax.weights import entries
from matroot_optim.jit.trees import flatten


class AverageState(NamedTuple):
    """State of `with_ema`."""

    average: Any  # tree of the parameters, in at least float32


def with_ema(moving: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """Keep an exponential moving average of each parameter after updates that counted; begin with the first."""

    def init(params: Any) -> Any:
        return (*moving.init(params), AverageState(_copies(params)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves, new = moving.update(updates, state[:-1], params)
        index, counts, counted = _counts(new[0], state[0])
        weights, (averages, rebuild) = flatten(params)[0], flatten(state[-1].average)
        for path, u in flatten(moves, "updates")[0].items():
            i, old = index[path], averages[path]
            b = jnp.where(counts[i] > 1, decay, 0.0).astype(old.dtype)
            averages[path] = jnp.where(
                counted[i], b * old + (1 - b) * (_wide(weights[path]) + u).astype(old.dtype), old
            )
        return moves, (*new, AverageState(rebuild(averages)))

    return optax.GradientTransformation(init, update)


class FreeState(NamedTuple):
    """State of `schedule_free`."""

    beta: Any
    weights: Any  # (2, parameters): the sum of the squared rates, and the largest rate
    z: Any  # tree of the parameters, in at least float32


def schedule_free(moving: optax.GradientTransformation, rate: Any, beta: float) -> optax.GradientTransformation:
    """Move the parameters y, of which the average x and the sequence z are parts."""

    def init(params: Any) -> Any:
        base = moving.init(params)
        weights = jnp.zeros((2, len(base[0].plan.layout.leaves)), jnp.float32)
        return (*base, FreeState(jnp.asarray(beta, jnp.float32), weights, _copies(params)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        free = state[-1]
        moves, new = moving.update(updates, state[:-1], params)
        index, _, counted = _counts(new[0], state[0])
        moved = new[0].arrays["count"] != state[0].arrays["count"]
        now = rate(state[0].arrays["step"]) if callable(rate) else rate
        largest = jnp.maximum(free.weights[1], jnp.asarray(now, jnp.float32))
        total = free.weights[0] + largest**2
        shares = entries(new[0], jnp.where(total > 0, largest**2 / jnp.where(total > 0, total, 1), 0))
        weights, (z, rebuild) = flatten(params)[0], flatten(free.z)
        there, back = flatten(moves, "updates")
        for path, u in there.items():
            i, old, y = index[path], z[path], _wide(weights[path])
            c = shares[i].astype(old.dtype)
            move = (1 - beta * (1 - c)) * u.astype(old.dtype) + c * (old - y)
            z[path] = old + u.astype(old.dtype)  # u is 0 where it does not count
            there[path] = jnp.where(counted[i], move, 0).astype(u.dtype)
        kept = jnp.where(moved, jnp.stack([total, largest]), free.weights)
        return back(there), (*new, FreeState(free.beta, kept, rebuild(z)))

    return optax.GradientTransformation(init, update)


def _counts(new: Any, old: Any) -> tuple[Any, list[Any], list[Any]]:
    """Return the number of every path, and for every parameter its count and whether the update counted."""
    counts = new.arrays["count"]
    return new.plan.layout.index, entries(new, counts), entries(new, counts != old.arrays["count"])


def _copies(params: Any) -> Any:
    return jax.tree.map(lambda W: _wide(W).copy(), params)


def _wide(W: Any) -> Any:
    W = jnp.asarray(W)
    return W.astype(jnp.promote_types(W.dtype, jnp.float32))


def averages(opt_state: Any, params: Any) -> Any:
    """Return the averages that a state of schedule-free or of `with_ema` holds; None if it holds neither."""
    kinds = (AverageState, FreeState, optax.contrib.ScheduleFreeState)
    for state in jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds)):
        if isinstance(state, AverageState):
            return jax.tree.map(lambda average, W: average.astype(jnp.asarray(W).dtype), state.average, params)
        if isinstance(state, FreeState):
            return jax.tree.map(partial(_average, state.beta), state.z, params)
        if isinstance(state, optax.contrib.ScheduleFreeState):
            return optax.contrib.schedule_free_eval_params(state, params)
    return None


def _average(beta: Any, z: Any, y: Any) -> Any:
    wide = _wide(y)
    return (wide + (1 - 1 / beta.astype(wide.dtype)) * (z - wide)).astype(jnp.asarray(y).dtype)

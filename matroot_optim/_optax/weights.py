"""Transformations of optax that see the weights, to be chained after the direction or after the rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from matroot_optim.jit.places import Places
from matroot_optim.jit.start import layout_of
from matroot_optim.jit.trees import flatten
from matroot_optim.options import Options
from matroot_optim.step.finish import cautious_weights, on_sphere


def steady(direction: optax.GradientTransformation, *others: optax.GradientTransformation) -> Any:
    """Chain transformations; a parameter whose gradient the direction has skipped does not move, as in the core."""
    steps = (direction, *others)

    def init(params: Any) -> tuple[Any, ...]:
        return tuple(step.init(params) for step in steps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, tuple[Any, ...]]:
        moves, first = direction.update(updates, state[0], params)
        places, index = Places(first.arrays["step"], len(first.plan.layout.leaves)), first.plan.layout.index
        skipped = places.entries(first.arrays["skipped"] != state[0].arrays["skipped"])
        found = [first]
        for step, old in zip(others, state[1:], strict=True):
            moves, new = step.update(moves, old, params)
            leaves, rebuild = flatten(moves, "updates")
            moves = rebuild({path: jnp.where(skipped[index[path]], 0, x) for path, x in leaves.items()})
            found.append(new)
        return moves, tuple(found)

    return optax.GradientTransformation(init, update)


def with_params(direction: optax.GradientTransformation) -> Any:
    """Let a transformation that ends with a rule for weights ask for them before it computes anything."""
    inner = optax.with_extra_args_support(direction)

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("params must be given, as in tx.update(grads, state, params)")
        return inner.update(updates, state, params, **more)

    return optax.GradientTransformationExtraArgs(inner.init, update)


class AverageState(NamedTuple):
    """State of `ema_of_weights`."""

    count: Any  # steps done
    average: Any  # tree of the parameters, in at least float32


def ema_of_weights(decay: float) -> optax.GradientTransformation:
    """Keep an exponential moving average of the parameters as they are after the update; begin with the first."""

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros([], jnp.int32), jax.tree.map(lambda W: _wide(W).copy(), params))

    def update(updates: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        b = jnp.where(state.count > 0, decay, 0.0)

        def moved(average: Any, W: Any, u: Any) -> Any:
            return b.astype(average.dtype) * average + (1.0 - b).astype(average.dtype) * (_wide(W) + u)

        return updates, AverageState(state.count + 1, jax.tree.map(moved, state.average, params, updates))

    return optax.GradientTransformation(init, update)


def _wide(W: Any) -> Any:
    W = jnp.asarray(W)
    return W.astype(jnp.promote_types(W.dtype, jnp.float32))


def add_cautious_decay(weight_decay: Any, mask: Any) -> optax.GradientTransformation:
    """Add the weights that a step against the updates brings nearer to 0, times the decay."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u, W: u + weight_decay * cautious_weights(u, W), updates, params), state

    found = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return found if mask is None else optax.masked(found, mask)


def keep_norms(config: Options) -> optax.GradientTransformation:
    """Replace the updates of parameters with roots by those that leave the norms of the parameters as they are."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        leaves, rebuild = flatten(updates, "updates")
        weights, _ = flatten(params)
        pinned = {leaf.path for leaf in layout_of(config, weights).leaves if leaf.pinned}
        return rebuild({p: on_sphere(u, weights[p]) if p in pinned else u for p, u in leaves.items()}), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def averages(opt_state: Any, params: Any) -> Any:
    """Return the averages that a state of schedule-free or of `ema_of_weights` holds; None if it holds neither."""
    kinds = (AverageState, optax.contrib.ScheduleFreeState)
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds))
    for state in nodes:
        if isinstance(state, AverageState):
            return jax.tree.map(lambda average, W: average.astype(jnp.asarray(W).dtype), state.average, params)
        if isinstance(state, optax.contrib.ScheduleFreeState):
            return optax.contrib.schedule_free_eval_params(state, params)
    return None

"""Transformations of optax that see the weights, to be chained after the direction or after the rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from matroot_optim._optax.promotion import usual_promotion
from matroot_optim.jit.places import Places
from matroot_optim.jit.start import layout_of
from matroot_optim.jit.trees import flatten
from matroot_optim.options import Options
from matroot_optim.step.finish import cautious_weights, on_sphere


def steady(direction: optax.GradientTransformation, *others: optax.GradientTransformation) -> Any:
    """Chain transformations; a parameter that the direction has not counted does not move, as in the core.

    Its gradient is skipped, or SOAP has no basis for it yet.
    """
    steps = (direction, *others)

    def init(params: Any) -> tuple[Any, ...]:
        return tuple(step.init(params) for step in steps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, tuple[Any, ...]]:
        moves, first = direction.update(updates, state[0], params)
        index, still = first.plan.layout.index, _entries(first, first.arrays["count"] == state[0].arrays["count"])
        found = [first]
        for step, old in zip(others, state[1:], strict=True):
            moves, new = step.update(moves, old, params)
            leaves, rebuild = flatten(moves, "updates")
            moves = rebuild({path: jnp.where(still[index[path]], 0, x) for path, x in leaves.items()})
            found.append(new)
        return moves, tuple(found)

    return optax.GradientTransformation(init, update)


def _entries(state: Any, x: Any) -> list[Any]:
    """Return the entries of a vector over the parameters of a state."""
    return Places(state.arrays["step"], len(state.plan.layout.leaves)).entries(x)


def with_params(direction: optax.GradientTransformation) -> Any:
    """Let a transformation that ends with a rule for weights ask for them before it computes anything."""
    inner = optax.with_extra_args_support(direction)

    @usual_promotion()
    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("params must be given, as in tx.update(grads, state, params)")
        return inner.update(updates, state, params, **more)

    return optax.GradientTransformationExtraArgs(usual_promotion()(inner.init), update)


class AverageState(NamedTuple):
    """State of `with_ema`."""

    average: Any  # tree of the parameters, in at least float32


def with_ema(moving: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """Keep an exponential moving average of each parameter as it is after an update that counted; begin with the first.

    `moving` is a chain whose first state has the counts.
    """

    def init(params: Any) -> Any:
        return (*moving.init(params), AverageState(jax.tree.map(lambda W: _wide(W).copy(), params)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves, new = moving.update(updates, state[:-1], params)
        first, index = new[0], new[0].plan.layout.index
        counts = _entries(first, first.arrays["count"])
        counted = _entries(first, first.arrays["count"] != state[0].arrays["count"])
        there, weights = flatten(moves, "updates")[0], flatten(params)[0]
        averages, rebuild = flatten(state[-1].average)
        for path, u in there.items():
            i, old = index[path], averages[path]
            b = jnp.where(counts[i] > 1, decay, 0.0).astype(old.dtype)
            averages[path] = jnp.where(counted[i], b * old + (1 - b) * (_wide(weights[path]) + u), old)
        return moves, (*new, AverageState(rebuild(averages)))

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

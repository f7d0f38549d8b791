"""Transformations of optax that see the weights, to be chained after the direction or after the rate."""

from __future__ import annotations

from typing import Any

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
        index, still = first.plan.layout.index, entries(first, first.arrays["count"] == state[0].arrays["count"])
        found = [first]
        for step, old in zip(others, state[1:], strict=True):
            moves, new = step.update(moves, old, params)
            leaves, rebuild = flatten(moves, "updates")
            moves = rebuild({path: jnp.where(still[index[path]], 0, x) for path, x in leaves.items()})
            found.append(new)
        return moves, tuple(found)

    return optax.GradientTransformation(init, update)


def entries(state: Any, x: Any) -> list[Any]:
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

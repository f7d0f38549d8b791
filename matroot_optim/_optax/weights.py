"""Transformations of optax that see the weights, to be chained after the direction or after the rate."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from matroot_optim._optax.promotion import usual_promotion
from matroot_optim.jit.places import Places
from matroot_optim.jit.shards import explicit, put, shards_of
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


def as_optimizer(steps: optax.GradientTransformation, *, of_weights: bool) -> Any:
    """Return the optimizer of these steps, whose updates have the dtypes of the gradients, whatever the rate's is.

    If it is `of_weights`, it asks for the parameters before anything is computed.
    """
    inner = optax.with_extra_args_support(steps)

    @usual_promotion()
    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        if of_weights and params is None:
            raise ValueError("params must be given, as in tx.update(grads, state, params)")
        moves, state = inner.update(updates, state, params, **more)
        return jax.tree.map(lambda u, g: jnp.asarray(u).astype(jnp.asarray(g).dtype), moves, updates), state

    @usual_promotion()
    def init(params: Any) -> Any:
        state, shards = inner.init(params), shards_of(list(flatten(params)[0].values()))
        if shards is None:
            return state

        def on_mesh(x: Any) -> Any:  # the counts of optax, which a step would put there, to be compiled again
            return x if getattr(x, "committed", True) else put(np.asarray(x), shards.sharding(x.ndim))

        return jax.tree.map(on_mesh, state)

    return optax.GradientTransformationExtraArgs(init, update)


def add_cautious_decay(weight_decay: Any, mask: Any) -> optax.GradientTransformation:
    """Add the weights that a step against the updates brings nearer to 0, times the decay."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def decayed(W: Any, u: Any) -> Any:
            return u if u is None else u + weight_decay * cautious_weights(u, W)

        return jax.tree.map(decayed, params, updates), state

    found = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return found if mask is None else optax.masked(found, mask)


def keep_norms(config: Options) -> optax.GradientTransformation:
    """Replace the updates of parameters with roots by those that leave the norms of the parameters as they are."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        leaves, rebuild = flatten(updates, "updates")
        weights, _ = flatten(params)
        pinned = {leaf.path for leaf in layout_of(config, weights).leaves if leaf.pinned}

        def kept(weights: Any, moves: Any) -> tuple[list[Any], Any]:
            pairs = zip(leaves, moves, strict=True)
            return [on_sphere(u, weights[p]) if p in pinned else u for p, u in pairs], weights

        moves, _ = explicit(kept, weights, list(leaves.values()))
        return rebuild(dict(zip(leaves, moves, strict=True))), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

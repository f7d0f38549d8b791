"""The dtypes and the missing gradients of the transformations that see the weights, under optax."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jax.config.update("jax_disable_most_optimizations", True)
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

from matroot_optim import Shampoo, apply_updates  # noqa: E402
from matroot_optim.optax import averaged_parameters, shampoo  # noqa: E402

PLAIN = {"preconditioned_dims": "none"}
AVERAGES = ["none", "ema", "schedule_free"]


def kinds(tree):
    return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("rate", [np.float64(0.05), np.asarray(0.05), lambda t: jnp.float32(0.1) / (1 + t)], ids=type)
@pytest.mark.parametrize("averaging", AVERAGES)
@pytest.mark.parametrize("x64", [False, True])
def test_rates_of_any_dtype_leave_those_of_updates_and_state(rate, averaging, x64):
    """Otherwise `jax.lax.scan`, and optax's wrappers that choose between updates and zeros, refuse the step."""
    with jax.enable_x64(x64):
        W = jnp.ones(3, jnp.float32 if x64 else jnp.bfloat16)
        for decay in (np.float64(0.1), 0.1):
            tx = optax.apply_if_finite(shampoo(rate, decay, averaging=averaging, cautious_decay=True, **PLAIN), 2)
            state = tx.init(W)
            updates, after = jax.eval_shape(tx.update, W, state, W)
            assert kinds((updates, after)) == kinds((W, state))


@pytest.mark.parametrize("averaging", AVERAGES)
def test_a_missing_gradient_is_that_of_the_core(averaging):
    """A parameter with None in the place of its gradient stays, and is not decayed; the others move."""
    tx = shampoo(0.05, 0.1, averaging=averaging, cautious_decay=True, **PLAIN)
    core = Shampoo(0.05, weight_decay=0.1, averaging=averaging, cautious_decay=True, **PLAIN)
    params, want = ({"a": xp.ones(3, "float32"), "b": xp.ones(2, "float32")} for xp in (jnp, np))
    state, other = tx.init(params), core.init(want)
    for g in (np.ones(3, np.float32), None, None):
        grads = {"a": g, "b": np.ones(2, np.float32)}
        updates, state = tx.update(grads, state, params)
        params = {k: W if updates[k] is None else optax.apply_updates(W, updates[k]) for k, W in params.items()}
        updates, other = core.update(grads, other, want)
        want = apply_updates(want, updates)
    for k in ("a", "b"):
        np.testing.assert_allclose(params[k], want[k], rtol=1e-6)
        average = averaged_parameters(state, params)[k] if averaging != "none" else params[k]
        np.testing.assert_allclose(average, core.averaged_parameters(want, other)[k], rtol=1e-6)

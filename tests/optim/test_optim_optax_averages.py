"""Averages and decay under optax go with the count of each parameter, as in the core."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

import matroot_optim  # noqa: E402
from matroot_optim.optax import averaged_parameters, shampoo, soap  # noqa: E402

PAIRS = {"shampoo": (matroot_optim.Shampoo, shampoo), "soap": (matroot_optim.SOAP, soap)}


def rate(step):
    return 0.01 * (step + 1) / (step + 3)


def run(kind, bad, **options):
    """Train with the core and under optax, with a NaN in the gradient of the matrix at the steps `bad`."""
    core, adapter = PAIRS[kind]
    rng = np.random.default_rng(0)
    W = {"a": rng.standard_normal((6, 6)).astype(np.float32), "b": np.ones(3, np.float32)}
    params = jax.tree.map(jnp.asarray, W)
    opt, tx = core(rate, **options), adapter(rate, **options)
    state, opt_state = opt.init(W), tx.init(params)
    update = jax.jit(tx.update)
    for t in range(6):
        g = {name: rng.standard_normal(x.shape).astype(np.float32) for name, x in W.items()}
        if t in bad:
            g["a"][0, 0] = np.nan
        state = opt.step(W, g, state)
        moves, opt_state = update(g, opt_state, params)
        params = optax.apply_updates(params, moves)
    return W, params, opt.averaged_parameters(W, state), opt_state


@pytest.mark.parametrize("bad", [(), (0,), (3,), (0, 1)])
@pytest.mark.parametrize("averaging", ["ema", "schedule_free"])
@pytest.mark.parametrize("kind", PAIRS)
def test_averages_are_those_of_the_core(kind, averaging, bad):
    W, params, average, opt_state = run(kind, bad, averaging=averaging, averaging_beta=0.9, weight_decay=0.1)
    for name, x in averaged_parameters(opt_state, params).items():  # six steps of float32, of weights up to 3
        np.testing.assert_allclose(params[name], W[name], atol=3e-6)
        np.testing.assert_allclose(x, average[name], atol=3e-6)


@pytest.mark.parametrize("on_nonfinite", ["skip", "propagate"])
@pytest.mark.parametrize("decay", ["decoupled", "independent"])
def test_soap_does_not_decay_what_it_does_not_move_yet(decay, on_nonfinite):
    W, params, _, _ = run("soap", (), decay=decay, weight_decay=0.1, on_nonfinite=on_nonfinite)
    for name in W:
        np.testing.assert_allclose(params[name], W[name], atol=3e-6)


def test_schedule_free_of_bfloat16_has_the_average_of_small_steps():
    """Steps of 1e-4 are less than half a unit of bfloat16 at 1."""
    params = {"w": jnp.ones((4, 4), jnp.bfloat16)}
    tx = shampoo(1e-4, averaging="schedule_free")
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(100):
        moves, state = update(params, state, params)
        params = optax.apply_updates(params, moves)
    z = np.asarray(state[-1].z["w"])
    np.testing.assert_allclose(z, 1 - 0.01, rtol=1e-4)

"""Options of the optimizer for optax: chained, masked, injected and grouped."""

from __future__ import annotations

import numpy as np
import pytest

import matroot_optim

jax = pytest.importorskip("jax")
jax.config.update("jax_disable_most_optimizations", True)
optax = pytest.importorskip("optax")

import jax.extend.core  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from matroot_optim.optax import (  # noqa: E402
    diagnostics,
    kl_shampoo,
    preset,
    scale_by_kl_shampoo,
    scale_by_shampoo,
    scale_by_soap,
    shampoo,
)
from optim.test_optim_optax import OPTIONS, assert_close, gradients, ones, run, run_core  # noqa: E402


@pytest.mark.slow
def test_chain_masked_and_injected_rates():
    grads = gradients(6)
    g = [{k: jnp.asarray(v) for k, v in x.items()} for x in grads]
    mask = {"w": True, "b": False, "c": True}
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.inject_hyperparams(shampoo)(0.1, weight_decay=0.01, roots="callback", **OPTIONS), mask),
    )
    params = ones()
    state = tx.init(params)
    update = jax.jit(tx.update)
    for x in g:
        updates, state = update(x, state, params)
        params = optax.apply_updates(params, updates)
    assert diagnostics(state).step == 6
    inner = state[1].inner_state
    assert float(inner.hyperparams["learning_rate"]) == pytest.approx(0.1)
    inner.hyperparams["learning_rate"] = jnp.asarray(0.0)
    still, _ = update(g[0], state, params)
    assert float(abs(still["w"]).max()) == 0.0
    assert float(abs(still["b"]).max()) > 0.0


def decays(params):
    """Whether the weights of a tree decay: not the biases."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [{"w": True, "b": False, "c": True}, decays], ids=["tree", "function"])
@pytest.mark.parametrize("injected", [False, True])
def test_weight_decay_is_masked_as_in_adamw(mask, injected):
    """Of gradients that are zero, what is left of a step is the decay."""
    params = {k: 3.0 * x for k, x in ones().items()}
    zeros = {k: jnp.zeros_like(x) for k, x in params.items()}
    make = [optax.adamw, shampoo]
    if injected:
        make = [optax.inject_hyperparams(f, static_args="mask") for f in make]
    want = make[0](0.1, weight_decay=0.5, mask=mask)
    got = make[1](0.1, weight_decay=0.5, mask=mask, preconditioned_dims="none")
    want, got = (tx.update(zeros, tx.init(params), params)[0] for tx in (want, got))
    assert_close(got, want, 1e-6)
    assert float(abs(got["b"]).max()) == 0.0
    np.testing.assert_allclose(got["w"], -0.15, rtol=1e-5)


def test_rates_of_groups_belong_to_other_transformations():
    """They would be left out in silence: a chain's rate and decay are the same for all."""
    groups = {
        "learning_rate": lambda path: {"learning_rate": 0.1} if path == "b" else None,
        "weight_decay": lambda path: {"weight_decay": 0.0} if path == "b" else None,
    }
    for name, remedy in (("learning_rate", "optax.multi_transform"), ("weight_decay", "a mask")):
        with pytest.raises(ValueError, match=rf"groups\('b'\) must not set {name} under optax; .*{remedy}"):
            shampoo(0.1, 0.1, groups=groups[name]).init(ones())
    scale_by_shampoo(decay="l2", weight_decay=0.1, groups=groups["weight_decay"]).init(ones())


@pytest.mark.parametrize("name", ["anil2020", "google", "meta", "anil2026"])
def test_a_preset_is_that_of_the_core(name):
    got, _ = run(preset(name, learning_rate=0.01), gradients(8))
    want, _ = run_core(matroot_optim.Shampoo.preset(name, learning_rate=0.01), gradients(8))
    assert_close(got, want, 1e-4)


def test_a_preset_with_an_injected_rate():
    tx = optax.inject_hyperparams(preset)("google", learning_rate=0.1, block_size=8)
    state = tx.init(ones())
    assert state.hyperparams.keys() == {"learning_rate"}
    assert state.inner_state[0].plan.options.block_size == 8
    got, _ = run(tx, gradients(2))
    assert_close(got, run(preset("google", 0.1, block_size=8), gradients(2))[0], 1e-6)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, np.float64("inf")], ids=str)
def test_numbers_that_the_core_refuses_are_refused(bad):
    for make in (shampoo, kl_shampoo):
        with pytest.raises(ValueError, match="learning_rate must be"):
            make(bad)
        with pytest.raises(ValueError, match="weight_decay must be"):
            make(0.1, bad)


def test_schedules():
    rates = [0.1, 0.01, 0.001]
    tx = shampoo(lambda count: jnp.asarray(rates)[count], graft="sgd", momentum="none")
    params = {"b": jnp.zeros(2)}
    state = tx.init(params)
    for rate in rates:
        updates, state = tx.update({"b": jnp.ones(2)}, state, params)
        np.testing.assert_allclose(updates["b"], -rate, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"on_nonfinite": "propagate"},
        {"weight_decay": 0.1, "decay": "independent"},
        {"weight_decay": 0.1, "decay": "l2"},
        {"decay": "l2", "averaging": "ema"},
        {"decay": "l2", "averaging": "schedule_free", "momentum": "none"},
        {"decay": "l2", "hyperball": True},
        {"decay": "l2", "graft": "trust_ratio"},
    ],
    ids=str,
)
def test_missing_params_are_found_before_anything_is_computed(options, monkeypatch):
    tx = shampoo(0.1, **options)
    state = tx.init(ones())
    monkeypatch.setattr("matroot_optim.jit.step.renewed", pytest.fail)
    for update in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match="params must be given"):
            update(ones(), state)


def test_params_are_not_asked_for_without_need():
    for tx in (shampoo(0.1, decay="l2"), scale_by_shampoo()):
        jax.eval_shape(tx.update, ones(), tx.init(ones()))


def test_injected_options():
    """Rates and decays are injected; all other options are static without being listed."""
    tx = optax.inject_hyperparams(shampoo)(learning_rate=0.1, betas=(0.8, 0.9), preconditioned_dims="none")
    for make in (scale_by_shampoo, scale_by_soap, scale_by_kl_shampoo):
        injected = jax.eval_shape(optax.inject_hyperparams(make)(betas=(0.8, 0.9)).init, ones())
        assert injected.inner_state.plan.options.betas == (0.8, 0.9)
    state = tx.init(ones())
    assert state.hyperparams.keys() == {"learning_rate", "weight_decay"}
    update = jax.jit(tx.update)
    first, _ = update(ones(), state, ones())
    state.hyperparams["learning_rate"] = jnp.float32(0.2)
    second, _ = update(ones(), state, ones())
    np.testing.assert_allclose(second["w"], 2 * np.asarray(first["w"]), rtol=1e-6)
    assert update._cache_size() == 1


@pytest.mark.slow
def test_statistics_of_some_steps_without_jit():
    """Their branch is traced by jax, though all that comes in has values."""
    grads = gradients(3)
    options = {**OPTIONS, "statistics_every": 2}
    want, _ = run_core(matroot_optim.KLShampoo(0.05, **options), grads)
    assert_close(run(kl_shampoo(0.05, **options), grads, jit=False)[0], want, 5e-4)


def test_a_state_of_other_options_is_refused():
    """The options in the state, and not those of the transformation, would make the step."""
    tx = shampoo(0.1, groups=lambda path: None)
    state = tx.init(ones())
    for other, text in (
        (shampoo(0.1, graft="sgd", ridge=1e-3), "graft='adam', not 'sgd'"),
        (kl_shampoo(0.1), "statistics_of='gradient', not 'whitened'"),
        (shampoo(0.1, roots="host"), "roots='callback', not 'host'"),
    ):
        with pytest.raises(ValueError, match=f"must come from a transformation with the same options, .*{text}"):
            jax.eval_shape(other.update, ones(), state, ones())
    jax.eval_shape(shampoo(0.1, groups=lambda path: None).update, ones(), state, ones())

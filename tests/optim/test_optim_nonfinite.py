"""Gradients with NaN or infinity are skipped, named or let through."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import Shampoo, apply_updates
from optim.problems import gradients, run, weights
from optim.test_optim_frameworks import SHAPES, convert, to_numpy, train

FRAMEWORKS = ("numpy", "torch", "jax")


BAD = {"nan": np.nan, "inf": np.inf}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", FRAMEWORKS)
@pytest.mark.parametrize("beta2", [0.9, 1.0])
def test_skip_leaves_the_tensor_as_it_was(bad, kind, beta2):
    opt = Shampoo(0.05, refresh_every=2, block_size=4, weight_decay=0.1, betas=(0.9, beta2))
    _, state = train(opt, kind, 5)
    params = convert({k: v.astype(np.float32) for k, v in weights(SHAPES).items()}, kind)
    g = {k: v.astype(np.float32) for k, v in gradients(SHAPES, 1)[0].items()}
    g["a"][0, 0] = BAD[bad]
    updates, after = opt.update(convert(g, kind), state, params)
    assert not to_numpy(updates["a"]).any()
    assert all(to_numpy(updates[k]).any() for k in SHAPES if k != "a")
    for name in state:
        part = name.rsplit("/", 1)[-1]
        if name.startswith("a/") and part in ("momentum", "moment", "statistic", "count", "accumulated"):
            np.testing.assert_array_equal(to_numpy(after[name]), to_numpy(state[name]), err_msg=name)
        assert np.isfinite(to_numpy(after[name])).all(), name
    assert after["a/skipped"] == 1
    assert after["b/skipped"] == 0
    assert opt.diagnostics(after).nonfinite == {"a": 1, "b": 0, "c": 0}


def test_a_skipped_step_is_as_if_it_never_was_for_the_statistics():
    opt = Shampoo(0.05, refresh_every=1, schedule="interval", start_step=1)
    shapes = {"a": (4, 5)}
    params = weights(shapes)
    g = gradients(shapes, 6)
    with_bad = [*g[:3], {"a": np.full((4, 5), np.nan)}, *g[3:]]

    def final(sequence):
        p, state = params, opt.init(params)
        for x in sequence:
            u, state = opt.update(x, state, p)
            p = apply_updates(p, u)
        return p["a"]

    np.testing.assert_allclose(final(with_bad), final(g), rtol=1e-12)


def test_raise_names_the_tensor():
    opt = Shampoo(0.05, on_nonfinite="raise")
    params = {"layer": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}}
    state = opt.init(params)
    bad = {"layer": {"kernel": np.full((2, 2), np.nan), "bias": np.ones(2)}}
    with pytest.raises(FloatingPointError, match="must be finite, got NaN or infinity in 'layer/kernel'"):
        opt.update(bad, state, params)


def test_propagate_lets_it_through_and_keeps_the_roots():
    opt = Shampoo(0.05, on_nonfinite="propagate", refresh_every=1)
    params, state = run(opt, 4)
    bad = {k: np.full(v.shape, np.nan) for k, v in params.items()}
    updates, state = opt.update(bad, state, params)
    assert np.isnan(updates["a"]).all()
    assert np.isfinite(state["a/block0/axis0/root"]).all()


@pytest.mark.parametrize("options", [{}, {"momentum": "heavy_ball", "graft": "sgd"}, {"momentum_of": "direction"}])
@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_under_optax_without_jit(name, options):
    """Momentum and moments of the tensor stay to the bit, as under jit."""
    jax = pytest.importorskip("jax")
    adapter = pytest.importorskip("matroot_optim.optax")
    jnp, options = jax.numpy, options if name == "shampoo" else {}
    tx = getattr(adapter, name)(0.1, refresh_every=1, start_step=1, **options)
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    grads = {"w": jnp.arange(12.0).reshape(4, 3) + 1, "b": jnp.arange(3.0)}
    state = tx.init(params)

    def core(state):
        return jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, adapter.ShampooState))[0].core

    for _ in range(3):
        _, state = tx.update(grads, state, params)
    before = core(state)
    updates, state = tx.update({**grads, "w": grads["w"].at[1, 1].set(jnp.inf)}, state, params)
    after = core(state)
    assert not jnp.any(updates["w"]) and jnp.any(updates["b"])
    assert int(after["w/skipped"]) == 1
    kept = [f"w/{part}" for part in ("momentum", "moment", "block0/axis0/statistic", "count") if f"w/{part}" in before]
    assert len(kept) >= 3
    for part in kept:
        np.testing.assert_array_equal(before[part], after[part], err_msg=part)

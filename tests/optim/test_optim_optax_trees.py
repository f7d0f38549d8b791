"""Trees, ensembles and several states in the optax adapter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jax.config.update("jax_disable_most_optimizations", True)
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

import matroot_optim  # noqa: E402
from matroot_optim.jit import dealing  # noqa: E402
from matroot_optim.jit.trees import flatten  # noqa: E402
from matroot_optim.optax import ShampooState, diagnostics, load, scale_by_shampoo, shampoo  # noqa: E402


def test_the_order_of_keys_has_no_effect():
    """A state restored by its own names into that of sorted parameters: the statistics stay with their parameters."""
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.standard_normal((4, 4)).astype("f4")) for k in ("up", "down")}
    tx = scale_by_shampoo(roots="host", refresh_every=1, start_step=1)
    g = {k: np.asarray(x) ** 2 for k, x in params.items()}
    update = jax.jit(tx.update)
    _, state = update(g, tx.init(params), params)
    parts = jax.tree.map(np.asarray, {"arrays": state.arrays})
    sorted_params = {k: params[k] for k in sorted(params)}
    target = jax.eval_shape(tx.init, sorted_params)
    assert jax.tree.structure(target) == jax.tree.structure(state)
    assert list(state.plan.layout.index) == ["down", "up"]
    restored = jax.tree.unflatten(jax.tree.structure(target), jax.tree.leaves(parts["arrays"]))
    want, state = update(g, state, params)
    got, restored = update({k: g[k] for k in sorted_params}, restored, sorted_params)
    assert all((restored.core[name] == x).all() for name, x in state.core.items())
    assert all((got[k] == want[k]).all() for k in params)


def test_bytes_of_flax():
    flax = pytest.importorskip("flax.serialization")
    params = {"up": jnp.ones((4, 4)), "down": 2 * jnp.ones((4, 4))}
    tx = shampoo(0.1, roots="host")
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    again = flax.from_bytes(tx.init({k: params[k] for k in sorted(params)}), flax.to_bytes(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert all((x == y).all() for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True))
    with pytest.raises(ValueError, match="must have the arrays of this one"):
        flax.from_bytes(tx.init({"up": params["up"]}), flax.to_bytes(state))


@partial(jax.tree_util.register_dataclass, data_fields=["kernel", "scale"], meta_fields=["name"])
@dataclass
class Dense:
    kernel: object
    scale: object
    name: str


@jax.tree_util.register_pytree_with_keys_class
class Box:
    """A class that only jax knows as a container."""

    def __init__(self, inside):
        self.inside = inside

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("inside"), self.inside)], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_registered_classes_floats_and_none():
    tree = Box({"dense": Dense(jnp.ones((3, 2)), 2.0, "first"), "rest": [jnp.ones(2), None]})
    assert list(flatten(tree)[0]) == ["inside/dense/kernel", "inside/dense/scale", "inside/rest/0"]
    tx = shampoo(0.1, roots="host")
    state = tx.init(tree)
    updates, state = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, tree), state, tree)
    assert jax.tree.structure(updates) == jax.tree.structure(tree)
    assert updates.inside["dense"].name == "first"
    assert float(updates.inside["dense"].scale) == pytest.approx(-0.1, rel=1e-4)
    with pytest.raises(TypeError, match="must hold arrays in containers that jax knows, got str at 'a'"):
        tx.init({"a": "b"})
    with pytest.raises(TypeError, match="'n' must be real floating point, got int32"):
        tx.init({"n": jnp.arange(3)})


@partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=[])
@dataclass
class Boxed:
    """An array as flax boxes it: nnx.Variable, and linen's Partitioned."""

    value: object


def test_a_box_has_the_path_of_its_array():
    """nnx.Optimizer gives boxed parameters to init, and bare ones to update."""
    bare = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "value": jnp.ones(2)}
    boxed = jax.tree.map(Boxed, bare)
    assert list(flatten(boxed)[0]) == list(flatten(bare)[0]) == ["dense/bias", "dense/kernel", "value"]
    tx = shampoo(0.1, roots="host")
    updates, _ = jax.jit(tx.update)(bare, tx.init(boxed), bare)
    assert jax.tree.structure(updates) == jax.tree.structure(bare)


def test_nnx():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, shampoo(0.1, roots="host"), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: (model(jnp.ones((4, 3))) ** 2).mean())(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(3)]
    assert losses[2] < losses[0]


def test_init_of_shapes_is_that_of_arrays():
    params = {"w": jnp.ones((3, 2)), "b": np.ones(2, np.float32)}
    tx = shampoo(0.1)
    got = tx.init(jax.eval_shape(lambda: params))
    want = tx.init(params)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert all((x == y).all() for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))


@pytest.mark.slow
def test_an_ensemble_computes_the_roots_that_its_members_compute_alone(monkeypatch):
    count, real = Counter(), dealing.compute

    def compute(batch):
        count["roots"] += len(batch.matrix)
        return real(batch)

    monkeypatch.setattr(dealing, "compute", compute)
    tx = shampoo(0.05, refresh_every=4, refresh_growth=0.0, ridge=1e-3)
    rng = np.random.default_rng(0)
    members, steps = 3, 6
    params = jnp.asarray(rng.standard_normal((members, 6, 4)).astype("f4"))
    grads = jnp.asarray(rng.standard_normal((steps, members, 6, 4)).astype("f4"))
    grads = grads.at[:, 1].multiply(1e-12).at[3, 1].multiply(1e24)  # of units that change: its roots are asked for

    def step(g, state, p):
        updates, state = tx.update(g, state, p)
        return optax.apply_updates(p, updates), state

    together, states = params, jax.vmap(tx.init)(params)
    update = jax.jit(jax.vmap(step))
    for g in grads:
        together, states = update(g, states, together)
    found = count.pop("roots")
    update = jax.jit(step)
    for k in range(members):
        p, state = params[k], tx.init(params[k])
        for g in grads[:, k]:
            p, state = update(g, state, p)
        np.testing.assert_allclose(together[k], p, atol=1e-5)
        for part in ("taken", "refreshes"):
            for name in (f":stack0/axis0/{part}", f":stack0/axis1/{part}"):
                assert (states[0].arrays[name][k] == state[0].arrays[name]).all()
    assert count["roots"] <= found <= count["roots"] + 4 * members  # two steps at which members differ


@pytest.mark.slow
def test_diagnostics_of_several_states():
    parts = {"a": shampoo(0.1, refresh_every=1, start_step=1), "b": shampoo(0.01, refresh_every=1, start_step=1)}
    tx = optax.multi_transform(parts, {"u": "a", "v": "b"})
    params = {"u": jnp.ones((3, 2)), "v": jnp.eye(4)}
    state = tx.init(params)
    _, state = jax.jit(tx.update)(params, state, params)
    d = diagnostics(state)
    assert d.names == ["u/block0/axis0", "u/block0/axis1", "v/block0/axis0", "v/block0/axis1"]
    assert (d.roots["refreshes"] == 1).all()
    assert set(d.graft_ratio) == set(d.nonfinite) == {"u", "v"}


@pytest.mark.parametrize("decay", ["l2", "independent"])
def test_each_kind_of_decay_is_the_core_s(decay):
    rng = np.random.default_rng(0)
    W, g = (rng.standard_normal((4, 3)).astype("f4") for _ in range(2))
    options = {"decay": decay, "refresh_every": 1, "start_step": 1, "clip_norm": 0.5}
    core = matroot_optim.Shampoo(0.1, weight_decay=0.3, **options)
    want, _ = core.update(W * 0 + g, core.init(W), W)
    tx = shampoo(0.1, 0.3, **options)
    got, _ = jax.jit(tx.update)(jnp.asarray(g), tx.init(jnp.asarray(W)), jnp.asarray(W))
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_l2_that_cannot_be_done_is_refused():
    for given in ({"weight_decay": jnp.asarray(0.1)}, {"weight_decay": 0.1, "mask": True}):
        with pytest.raises(ValueError, match="with decay 'l2', weight_decay must be a number and mask None"):
            shampoo(0.1, decay="l2", **given)


def states(tree):
    found = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, ShampooState))
    return [x for x in found if isinstance(x, ShampooState)]


def test_a_file_of_some_of_the_parameters_is_loaded_under_a_mask(tmp_path):
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones(3), "c": jnp.ones((5, 5))}
    tx = optax.multi_transform({"x": shampoo(1e-2), "y": optax.adam(1e-2)}, {"a": "x", "b": "y", "c": "x"})
    state = tx.init(params)
    _, state = tx.update(params, state, params)
    (mine,) = states(state)
    mine.core.save(tmp_path / "s.npz")
    found = load(tmp_path / "s.npz", tx.init(params), params)
    (new,) = states(found)
    for name, x in mine.core.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(new.core[name]), err_msg=name)


def test_a_file_of_another_momentum_keeps_the_mean(tmp_path):
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones(3)}
    state = shampoo(1e-2, betas=(0.9, 0.99)).init(params)
    for _ in range(3):
        _, state = shampoo(1e-2, betas=(0.9, 0.99)).update(params, state, params)
    state[0].core.save(tmp_path / "s.npz")
    tx = shampoo(1e-2, betas=(0.5, 0.99))
    new = load(tmp_path / "s.npz", tx.init(params), params)[0].core
    for name in ("a/momentum", "b/momentum"):  # of equal gradients of 1, whose mean is 1
        np.testing.assert_allclose(np.asarray(new[name]), 1 - 0.5**3, rtol=1e-5)

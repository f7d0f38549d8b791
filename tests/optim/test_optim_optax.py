"""The optax adapter: under jit, in chains, with roots in a callback, in the graph, or on the host."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jax.config.update("jax_disable_most_optimizations", True)
optax = pytest.importorskip("optax")

import jax.extend.core  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import matroot_optim  # noqa: E402
from matroot_optim.jit.turns import marks  # noqa: E402
from matroot_optim.optax import (  # noqa: E402
    ShampooState,
    averaged_parameters,
    diagnostics,
    load,
    refresh_roots,
    scale_by_shampoo,
    shampoo,
)
from matroot_optim.refresh.due import steps_to_use  # noqa: E402

OPTIONS = {"refresh_every": 3, "block_size": 4, "ridge": 1e-3}
SHAPES = {"w": (6, 4), "b": (3,), "c": (2, 4)}  # blocks of two shapes: jax compiles everything for each


def gradients(steps, seed=0):
    rng = np.random.default_rng(seed)
    return [{k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()} for _ in range(steps)]


def ones():
    return {k: jnp.ones(s, jnp.float32) for k, s in SHAPES.items()}


def run(tx, grads, jit=True, host=False):
    params = ones()
    state = tx.init(params)
    update = jax.jit(tx.update) if jit else tx.update
    for g in grads:
        updates, state = update({k: jnp.asarray(v) for k, v in g.items()}, state, params)
        params = optax.apply_updates(params, updates)
        if host:
            state = refresh_roots(state)
    return params, state


def run_core(opt, grads):
    params = {k: np.ones(s, np.float32) for k, s in SHAPES.items()}
    state = opt.init(params)
    for g in grads:
        updates, state = opt.update(g, state, params)
        params = matroot_optim.apply_updates(params, updates)
    return params, state


def assert_close(a, b, tol):
    for k in b:
        np.testing.assert_allclose(np.asarray(a[k]), np.asarray(b[k]), rtol=tol, atol=tol, err_msg=k)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("roots", "tol", "jit", "start"),
    [
        ("callback", 2e-4, True, None),
        ("callback", 2e-4, True, 7),
        ("callback", 2e-4, False, None),
        ("graph", 2e-2, True, 2),
    ],
)
def test_same_numbers_as_the_core(roots, tol, jit, start):
    grads = gradients(10 if jit else 3)
    options = {**OPTIONS, "start_step": start}
    params, state = run(shampoo(0.05, 0.1, roots=roots, **options), grads, jit)
    want, core = run_core(matroot_optim.Shampoo(0.05, weight_decay=0.1, **options), grads)
    assert_close(params, want, tol)
    mine, theirs = diagnostics(state), matroot_optim.Shampoo(0.05).diagnostics(core)
    np.testing.assert_array_equal(mine.roots["age"], theirs.roots["age"])
    np.testing.assert_array_equal(mine.roots["refreshes"], theirs.roots["refreshes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "interval", "statistics_every": 2},
        {"betas": (0.9, 1.0), "graft": "adagrad", "root_method": "coupled_newton", "bias_correction": False},
        {"graft": "none"},
        {"graft": "sqrt_n", "momentum": "nesterov", "clip_norm": 1.0, "clip_rms": 0.5},
        {"graft": "trust_ratio", "momentum": "none", "exponent": "-3/8"},
        {"graft_per_block": True, "mix_steps": 4, "graft_normalize": True, "momentum": "heavy_ball"},
    ],
)
def test_elements_are_those_of_the_core(options):
    grads = gradients(9)
    params, _ = run(shampoo(0.05, **OPTIONS, **options), grads)
    want, _ = run_core(matroot_optim.Shampoo(0.05, **OPTIONS, **options), grads)
    assert_close(params, want, 5e-4)


@pytest.mark.slow
def test_roots_on_the_host_are_one_step_older():
    tx = scale_by_shampoo(roots="host", **OPTIONS)
    params, state = run(tx, gradients(12), host=True)
    d = diagnostics(state)
    assert d.worst("age")[1] <= 3
    assert d.roots["refreshes"].min() >= 3
    assert all(np.isfinite(x).all() for x in params.values())
    still = run(tx, gradients(3))[1]
    assert diagnostics(still).roots["refreshes"].max() == 0


@pytest.mark.slow
def test_float64_roots_though_jax_has_none():
    """A statistic of condition 1e8 that float32 eigenvalues could not resolve."""
    assert not jax.config.jax_enable_x64
    state = run(shampoo(0.1, ridge=1e-8, refresh_every=1, start_step=1, betas=(0.9, 1.0)), gradients(1))[1]
    assert diagnostics(state).worst("cond")[1] > 1e7
    assert diagnostics(state).worst_residual < 1e-6


def test_nonfinite_gradients_skip_one_tensor():
    tx = scale_by_shampoo(**OPTIONS)
    params, grads = ones(), gradients(5)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for g in grads[:4]:
        _, state = update({k: jnp.asarray(v) for k, v in g.items()}, state)
    before = state
    bad = {k: jnp.asarray(v) for k, v in grads[4].items()}
    bad["w"] = bad["w"].at[0, 0].set(jnp.nan)
    updates, state = update(bad, state)
    assert float(abs(updates["w"]).max()) == 0.0
    assert float(abs(updates["c"]).max()) > 0.0
    core, old = state.core, before.core
    for name in core:
        if (
            name.startswith("w/")
            and name.endswith(("momentum", "moment", "statistic", "/count"))
            and "axis" not in name
        ):
            np.testing.assert_array_equal(core[name], old[name], err_msg=name)
        if name.startswith("w/") and name.endswith("statistic"):
            np.testing.assert_array_equal(core[name], old[name], err_msg=name)
    assert diagnostics(state).nonfinite == {"b": 0, "c": 0, "w": 1}


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["decoupled", "independent"])
def test_a_parameter_whose_gradient_was_skipped_is_not_decayed(decay):
    """Not under jit, where numbers of steps have values."""
    tx = shampoo(0.1, 0.5, decay=decay, averaging="ema", averaging_beta=0.5, **OPTIONS)
    params, grads = ones(), {k: jnp.asarray(v) for k, v in gradients(1)[0].items()}
    state = tx.init(params)
    updates, state = tx.update({**grads, "w": grads["w"].at[0, 0].set(jnp.nan)}, state, params)
    assert float(abs(updates["w"]).max()) == 0.0
    np.testing.assert_array_equal(averaged_parameters(state, params)["w"], params["w"])
    updates, _ = tx.update({**grads, "w": 0 * grads["w"]}, state, params)
    assert float(abs(updates["w"]).max()) > 0.0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"schedule": "interval"},
        {"refresh_every": 5, "refresh_growth": 0.0},
        {"start_step": 2, "refresh_growth": 0.0},
    ],
)
def test_a_compiled_step_needs_no_marks_and_a_checkpoint_has_those_of_the_core(options):
    """Else all roots would be due at once after a load in another framework."""
    opt, shapes = matroot_optim.Shampoo(1e-3, **options), {"a": (6, 9), "b": (66, 70), "c": (2, 3)}
    grads = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    state = opt.init(grads)
    for step in range(25):
        found = marks(opt, state.layout, step)
        for stack, axis in state.layout.factors:
            name = f"{stack.axis_name(axis)}/mark"
            want, late = state.arrays[name], steps_to_use(opt, state.layout, stack, step) > 0
            if late:  # the core has begun the root of this step; a compiled one does all of it in the next
                want = np.where(want == step, step - opt.interval(step), want)
            np.testing.assert_array_equal(found[name], want)
        state = opt.update(grads, state)[1]
    tx = scale_by_shampoo(**OPTIONS)
    there = tx.init(ones())
    assert {name: (x.shape, x.dtype) for name, x in there.core.items() if name.endswith("mark")} == {
        name: ((), np.int64) for name in there.core if name.endswith("mark")
    }


def test_bfloat16_parameters():
    tx = shampoo(0.1, **OPTIONS)
    params = {"w": jnp.ones((3, 5), jnp.bfloat16)}
    state = tx.init(params)
    for _ in range(4):
        updates, state = jax.jit(tx.update)({"w": jnp.ones((3, 5), jnp.bfloat16)}, state, params)
        params = optax.apply_updates(params, updates)
    assert params["w"].dtype == jnp.bfloat16
    shampoo_state = state[0]
    assert isinstance(shampoo_state, ShampooState)
    assert shampoo_state.core["w/block0/axis0/statistic"].dtype == np.float32


@pytest.mark.slow
def test_state_keeps_its_structure_under_scan():
    tx = shampoo(0.1, **OPTIONS)
    params = ones()
    state = tx.init(params)
    grads = {k: jnp.stack([jnp.asarray(g[k]) for g in gradients(6)]) for k in SHAPES}

    def body(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    (scanned, _), _ = jax.lax.scan(body, (params, state), grads)
    assert_close(scanned, run(tx, gradients(6))[0], 1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roots": "gpu"}, "roots must be one of 'callback', 'graph', 'host', got 'gpu'"),
        ({"refresh_every": lambda t: 3}, "refresh_every must be an int under jit"),
        ({"schedule": "residual"}, "schedule must be 'staggered' or 'interval'"),
        ({"on_nonfinite": "raise"}, "on_nonfinite must be 'skip' or 'propagate'"),
        ({"weight_decay": 0.1}, "weight_decay must be given to shampoo"),
        ({"root_device": "device"}, "root_device must be 'host' with roots='callback' or 'graph'"),
        ({"engine": matroot_optim.InlineEngine()}, "engine must be None"),
    ],
)
def test_what_jit_cannot_do_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        scale_by_shampoo(**options)


def test_diagnostics_needs_a_state():
    with pytest.raises(ValueError, match="must hold a ShampooState"):
        diagnostics(optax.adam(0.1).init(ones()))


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [4, 3])
def test_load_of_a_file_that_numpy_wrote(tmp_path, block_size):
    """Six steps in numpy, four more under jit."""
    grads = gradients(10)
    core = matroot_optim.Shampoo(0.05, **OPTIONS)
    params, state = run_core(core, grads[:6])
    state.save(tmp_path / "s.npz")
    want, _ = run_core(core, grads)
    tx = shampoo(0.05, **{**OPTIONS, "block_size": block_size})
    params = {k: jnp.asarray(v) for k, v in params.items()}
    opt_state = load(tmp_path / "s.npz", tx.init(params), params)
    assert diagnostics(opt_state).step == 6
    update = jax.jit(tx.update)
    for g in grads[6:]:
        updates, opt_state = update({k: jnp.asarray(v) for k, v in g.items()}, opt_state, params)
        params = optax.apply_updates(params, updates)
    if block_size == OPTIONS["block_size"]:
        assert_close(params, want, 2e-4)
    assert diagnostics(opt_state).worst_residual < 1e-5
    assert diagnostics(opt_state).step == 10


@pytest.mark.parametrize(
    "options",
    [
        {"averaging": "ema", "graft": "trust_ratio"},
        {"clip_norm": 1.0, "hyperball": True, "state_dtype": "bfloat16"},
        {"algorithm": "soap", "roots": "graph"},
    ],
    ids=str,
)
def test_programs_that_forbid_promotion(options):
    tx, params = shampoo(0.1, 0.1, **OPTIONS, **options), jax.tree.map(lambda x: x.astype(jnp.bfloat16), ones())
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        state = tx.init(params)
        updates, _ = jax.eval_shape(tx.update, params, state, params)
        if "averaging" in options:
            averaged_parameters(state, params)
    assert updates["w"].dtype == jnp.bfloat16


def test_large_gradients_of_numpy_without_jit_say_nothing():
    params = {"w": jnp.ones((3, 2))}
    tx = scale_by_shampoo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        updates, _ = tx.update({"w": np.full((3, 2), 1e30, np.float32)}, tx.init(params), params)
    assert jnp.isfinite(updates["w"]).all()

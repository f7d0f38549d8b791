"""The optax adapter: under jit, in chains, with roots in a callback, in the graph, or on the host."""

from __future__ import annotations

import warnings
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jax.config.update("jax_disable_most_optimizations", True)
optax = pytest.importorskip("optax")

import jax.extend.core  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import matroot_optim  # noqa: E402
from matroot import gallery  # noqa: E402
from matroot_optim.jit.roots import largest_bound, minimax_root, power  # noqa: E402
from matroot_optim.jit.turns import marks, turns  # noqa: E402
from matroot_optim.optax import (  # noqa: E402
    ShampooState,
    averaged_parameters,
    diagnostics,
    load,
    preset,
    refresh_roots,
    scale_by_kl_shampoo,
    scale_by_shampoo,
    scale_by_soap,
    shampoo,
)
from matroot_optim.refresh.due import due_jobs, steps_to_use  # noqa: E402

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


def test_schedules():
    rates = [0.1, 0.01, 0.001]
    tx = shampoo(lambda count: jnp.asarray(rates)[count], graft="sgd", momentum="none")
    params = {"b": jnp.zeros(2)}
    state = tx.init(params)
    for rate in rates:
        updates, state = tx.update({"b": jnp.ones(2)}, state, params)
        np.testing.assert_allclose(updates["b"], -rate, rtol=1e-6)


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"refresh_growth": 0.0},
        {"refresh_growth": 0.0, "start_step": 3},
        {"start_step": 25},
        {"schedule": "interval"},
        {"refresh_every": 7, "refresh_growth": 0.3},
        {"refresh_every": 1},
    ],
)
def test_turns_are_the_schedule_of_the_core(options):
    """At every step, the set of roots in the table is what the core's marks make due."""
    core = matroot_optim.Shampoo(0.1, **{"refresh_every": 10, "block_size": 4, **options})
    state = core.init({k: np.ones(s) for k, s in SHAPES.items()})
    layout, arrays = state.layout, dict(state.arrays)
    arrays["accumulated"] = arrays["accumulated"] + 1
    for stack, axis in layout.factors:
        arrays[f"{stack.axis_name(axis)}/statistic"] += 1.0
    table = turns(core, layout)
    for t in range(1, 140):
        jobs, books = due_jobs(core, layout, arrays, t)
        arrays.update(books)
        want = {(job.key, k) for job in jobs for k in job.index.tolist()}
        found = table.sets[int(table.at(t, core.first_shampoo_step))]
        assert {(s.axis_name(axis), k) for s, axis, index in found for k in index.tolist()} == want, t


@cache
def root_in_the_graph(exponent):
    return jax.jit(lambda A: minimax_root(A, exponent, 1e-3, jnp.zeros(2), jnp))


@pytest.mark.parametrize("exponent", [Fraction(-1, 2), Fraction(-1, 4), Fraction(-1, 3), Fraction(-3, 8), Fraction(-1)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_root_in_the_graph(exponent, scale):
    A, _ = gallery.spd(24, 1e3, rng=0)
    A = np.stack([A, np.eye(24)]).astype(np.float32) * np.float32(scale)
    X, facts = root_in_the_graph(exponent)(A)
    top = np.asarray(facts["lambda_max"], np.float64)
    np.testing.assert_array_less(np.linalg.eigvalsh(A.astype(np.float64))[:, -1] * (1 - 1e-5), top)
    w, Q = np.linalg.eigh(A.astype(np.float64) + np.asarray(facts["ridge"], np.float64)[:, None, None] * np.eye(24))
    want = (Q * w[:, None, :] ** float(exponent)) @ Q.swapaxes(1, 2)
    error = np.linalg.norm(X - want, axis=(1, 2)) / np.linalg.norm(want, axis=(1, 2))
    assert error.max() < 1e3 * 6e-8 * 10 + 1e-5
    assert float(facts["residual"].max()) < 1e-2


def test_largest_bound():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3, 32, 32))
    A = A @ A.swapaxes(1, 2)
    A[2] = np.eye(32)
    ratio = largest_bound(A, np) / np.linalg.eigvalsh(A)[:, -1]
    assert (ratio >= 1 - 1e-12).all()
    assert ratio[:2].max() < 1.05
    np.testing.assert_allclose(ratio[2], 32 ** (1 / 16))


@pytest.mark.slow
def test_tensors_of_order_3():
    tx = scale_by_shampoo(roots="graph", refresh_every=1, start_step=1, ridge=1e-3, merge=None)
    core = matroot_optim.Shampoo(1.0, refresh_every=1, start_step=1, ridge=1e-3, merge=None)
    W = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    got, _ = jax.jit(tx.update)(jnp.asarray(W), tx.init(jnp.asarray(W)))
    want, _ = core.update(W, core.init(W))
    np.testing.assert_allclose(got, -want, atol=2e-3)


@pytest.mark.parametrize("k", range(1, 9))
def test_power(k):
    B = np.array([[1.0, 0.5], [0.5, 0.25]])
    np.testing.assert_allclose(power(B, k), np.linalg.matrix_power(B, k))


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


def test_roots_in_the_graph_multiply_in_full_precision():
    """jax's own choice on a card is TF32, which has 10 bits where a ridge of 1e-6 needs 20."""
    tx = scale_by_shampoo(roots="graph", refresh_every=3)
    W = jnp.ones((4, 3))
    state = tx.init(W)
    products = set()

    def walk(jaxpr, inside):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general" and inside:
                products.add(equation.params["precision"])
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                walk(inner, inside or equation.primitive.name == "cond")

    walk(jax.make_jaxpr(tx.update)(W, state, W).jaxpr, False)
    assert products == {(jax.lax.Precision.HIGHEST,) * 2}


def test_the_books_come_to_the_host_in_one_transfer(monkeypatch):
    tx = scale_by_shampoo(roots="host", refresh_every=2)
    state = tx.init(jnp.ones((4, 3)))
    got = []
    monkeypatch.setattr(jax, "device_get", lambda x, real=jax.device_get: got.append(sorted(x)) or real(x))
    core = state.core
    assert len(got) == 1
    assert all(type(core.arrays[name]) is np.ndarray for name in got[0])
    assert {name for name, x in core.arrays.items() if not isinstance(x, jax.Array)} == set(got[0])


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

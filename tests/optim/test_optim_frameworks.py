"""The same numbers on numpy, torch and jax, in every precision; gradients that are not finite."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from matroot_optim import Shampoo, apply_updates
from matroot_optim.arrays import namespace
from matroot_optim.step.statistics import gram, unpack
from optim.problems import gradients, run, weights

#: Few, for jax compiles every operation for every shape of a block.
SHAPES = {"a": (8, 6), "b": (3, 2, 4), "c": (5,)}


def convert(tree, kind):
    if kind == "numpy":
        return tree
    if kind == "torch":
        torch = pytest.importorskip("torch")
        return {k: torch.from_numpy(np.array(v)) for k, v in tree.items()}
    jnp = pytest.importorskip("jax.numpy")
    return {k: jnp.asarray(v) for k, v in tree.items()}


def to_numpy(x):
    return np.asarray(x.detach() if hasattr(x, "detach") else x)


def train(opt, kind, steps=10, dtype=np.float32, in_place=False):
    params = convert({k: v.astype(dtype) for k, v in weights(SHAPES).items()}, kind)
    state = opt.init(params)
    for g in gradients(SHAPES, steps):
        g = convert({k: v.astype(dtype) for k, v in g.items()}, kind)
        if in_place:
            state = opt.step(params, g, state)
        else:
            updates, state = opt.update(g, state, params)
            params = apply_updates(params, updates)
    return {k: to_numpy(v) for k, v in params.items()}, state


LAYOUTS = {
    "rows": lambda G: G,
    "columns": lambda G: G.mT.contiguous().mT,
    "blocks of a matrix": lambda G: G.transpose(0, 1).contiguous().transpose(0, 1),
    "one row for all": lambda G: G[:, :1].expand(G.shape),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_statistics_of_tensors_are_symmetric_products(layout, axis, dtype):
    """numpy computes them, whatever the strides of a gradient; the gradient stays as it is."""
    torch = pytest.importorskip("torch")
    G = LAYOUTS[layout](torch.from_numpy(np.random.default_rng(0).standard_normal((3, 40, 24)).astype(dtype)))
    before = G.clone()
    x = G.numpy().astype(np.float64)
    want = x @ x.swapaxes(1, 2) if axis == 0 else x.swapaxes(1, 2) @ x
    found = unpack(gram(G, axis, namespace(G)))
    assert isinstance(found, torch.Tensor) and found.dtype == G.dtype and torch.equal(G, before)
    n = x.shape[2 - axis]  # of summands: their rounding errors, and the largest sum of their sizes
    bound = n * np.finfo(dtype).eps * (abs(x).max() ** 2 * n)
    assert abs(found.numpy() - want).max() <= bound


@pytest.mark.parametrize("kind", ["torch", "jax"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"graft": "none", "momentum": "nesterov", "betas": (0.9, 1.0)},
        {"graft": "sgd", "graft_normalize": True, "clip_norm": 1.0, "clip_rms": 0.5, "decay": "l2"},
        {"graft_per_block": True, "graft": "trust_ratio", "momentum": "none"},
        {"graft": "sqrt_n", "momentum": "heavy_ball", "decay": "independent", "mix_steps": 3},
        {"root_device": "device", "root_dtype": "float32"},
        {"root_device": "device"},
    ],
)
def test_same_numbers_everywhere(kind, options):
    opt = Shampoo(0.05, refresh_every=3, block_size=4, ridge=1e-3, weight_decay=0.01, **options)
    want, _ = train(opt, "numpy")
    got, _ = train(opt, kind)
    for k in want:
        assert got[k].dtype == np.float32
        np.testing.assert_allclose(got[k], want[k], rtol=1e-3, atol=1e-4)


ON_SECOND = """
import jax
from matroot_optim import Shampoo

device = jax.devices()[1]
params = {"W": jax.device_put(jax.numpy.ones((4, 3)), device)}
opt = Shampoo(0.1, refresh_every=1)
state = opt.init(params)
for _ in range(2):
    found = {d for x in state.arrays.values() if isinstance(x, jax.Array) for d in x.devices()}
    assert found == {device}, found
    _, state = opt.update(params, state, params)
"""


@pytest.mark.slow
def test_the_state_lies_on_the_device_of_a_jax_parameter():
    pytest.importorskip("jax")
    two = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ON_SECOND], env=two, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_step_in_place_on_torch():
    opt = Shampoo(0.05, refresh_every=3, block_size=4)
    want, _ = train(opt, "torch")
    got, _ = train(opt, "torch", in_place=True)
    for k in want:
        np.testing.assert_array_equal(got[k], want[k])


def test_step_in_place_is_refused_for_jax():
    params = convert({"w": np.ones(2, np.float32)}, "jax")
    opt = Shampoo(0.1)
    with pytest.raises(TypeError, match="'w' is a jax array; use update"):
        opt.step(params, params, opt.init(params))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_parameters_have_float32_state(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    opt = Shampoo(0.05, refresh_every=2)
    params = {"w": np.ones((3, 4), dtype)}
    state = opt.init(params)
    for _ in range(4):
        updates, state = opt.update({"w": np.ones((3, 4), dtype)}, state, params)
        params = apply_updates(params, updates)
    assert params["w"].dtype == dtype
    assert updates["w"].dtype == np.float32
    assert state["w/momentum"].dtype == state["w/block0/axis0/statistic"].dtype == np.float32
    other = {"w": np.ones((3, 4), dtype)}
    state = opt.init(other)
    for _ in range(4):
        state = opt.step(other, {"w": np.ones((3, 4), dtype)}, state)
    np.testing.assert_array_equal(other["w"], params["w"])


def test_mixed_precisions_and_dtypes_in_one_tree():
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((4, 4)), "b": rng.standard_normal((4, 4)).astype(np.float32)}
    opt = Shampoo(0.05, refresh_every=2)
    state = opt.init(params)
    updates, state = opt.update(params, state, params)
    assert updates["a"].dtype == np.float64
    assert updates["b"].dtype == np.float32
    assert len(state.layout.stacks) == 2


def test_bad_roots_are_kept_out_and_the_ridge_grows():
    """A tolerance no root can meet: every answer is refused, counted, and tried again with ten times the ridge."""
    opt = Shampoo(0.05, refresh_every=2, root_tolerance=1e-30, start_step=1)
    params, state = run(opt, 9)
    roots = [n.removesuffix("/root") for n in state if n.endswith("/root")]
    assert all((state[f"{n}/root"] == np.eye(len(state[f"{n}/root"]))).all() for n in roots)
    assert all(int(state[f"{n}/failures"]) == int(state[f"{n}/skipped"]) >= 4 for n in roots)
    assert all(np.isfinite(x).all() for x in params.values())
    text = str(opt.diagnostics(state))
    assert "roots skipped" in text


def test_escalated_ridge_is_used_and_falls_back():
    opt = Shampoo(0.05, refresh_every=1, ridge=1e-6, start_step=1)
    shapes = {"a": (4, 5)}
    params = weights(shapes)
    state = opt.init(params)
    for g in gradients(shapes, 3):
        _, state = opt.update(g, state, params)
    name = next(n for n in state.arrays if n.endswith("axis0/failures"))
    from matroot_optim.state import State

    g = gradients(shapes, 1, seed=5)[0]
    for failures, ridge in ((3, 1e-3), (400, 1.0)):
        arrays = {**state.arrays, name: state.arrays[name] + failures}
        _, after = opt.update(g, State(state.layout, arrays), params)
        top = float(after["a/block0/axis0/lambda_max"])
        assert float(after["a/block0/axis0/ridge"]) == pytest.approx(ridge * top)
        assert int(after["a/block0/axis0/failures"]) == 0
    assert float(after["a/block0/axis1/ridge"]) == pytest.approx(1e-6 * float(after["a/block0/axis1/lambda_max"]))


def test_zero_gradients_are_finite_and_ask_for_no_root():
    opt = Shampoo(0.05, refresh_every=1, start_step=1)
    for graft in ("adam", "sgd", "none", "sqrt_n", "trust_ratio", "adagrad", "rmsprop"):
        o = Shampoo(0.05, refresh_every=1, start_step=1, graft=graft, graft_normalize=graft == "sgd")
        W = np.ones((3, 4))
        state = o.init(W)
        for _ in range(3):
            u, state = o.update(np.zeros((3, 4)), state, W)
        assert not u.any(), graft
        assert int(state["block0/axis0/skipped"]) == 0
    assert opt


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_scale_of_the_gradient_does_not_matter(scale):
    opt = Shampoo(0.05, refresh_every=2, block_size=4)
    shapes = {"a": (6, 9), "c": (5,)}

    def final(factor):
        params = weights(shapes)
        state = opt.init(params)
        for g in gradients(shapes, 6):
            u, state = opt.update({k: v * factor for k, v in g.items()}, state, params)
            params = apply_updates(params, u)
        return params

    a, b = final(1.0), final(scale)
    for k in a:
        np.testing.assert_allclose(a[k], b[k], rtol=1e-6)


def test_without_a_ridge_a_bad_root_asks_for_one():
    """One gradient of rank 1: its statistics have no inverse root without a ridge."""
    opt = Shampoo(0.05, refresh_every=1, ridge=0.0, start_step=1)
    W = np.ones((3, 4))
    state = opt.init(W)
    for _ in range(2):
        _, state = opt.update(W, state, W)
    assert int(state["block0/axis0/skipped"]) == 1
    assert int(state["block0/axis0/refreshes"]) == 1
    assert 0 < float(state["block0/axis0/ridge"]) < 1e-12 * float(state["block0/axis0/lambda_max"])


def test_equal_orders_of_all_parameters_are_one_call(monkeypatch):
    from matroot_optim.refresh import jobs as roots

    calls = []

    def solve(A, *args, **options):
        calls.append(A.shape)
        return real(A, *args, **options)

    real = roots.solve_in_two
    monkeypatch.setattr(roots, "solve_in_two", solve)
    opt = Shampoo(0.05, refresh_every=1, schedule="interval", start_step=1)
    params = {"a": np.eye(6, 9), "b": np.eye(9, 6), "c": np.eye(6), "d": np.ones(3)}
    opt.update(params, opt.init(params), params)
    assert sorted(calls) == [(2, 9, 9), (4, 6, 6)]

"""Roots in the compiled graph, and their turns."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import pytest

import matroot_optim
from matroot import gallery
from matroot_optim.refresh.due import due_jobs

jax = pytest.importorskip("jax")
jax.config.update("jax_disable_most_optimizations", True)
optax = pytest.importorskip("optax")

import jax.extend.core  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from matroot_optim.jit.roots import largest_bound, minimax_root, power  # noqa: E402
from matroot_optim.jit.turns import turns  # noqa: E402
from matroot_optim.optax import scale_by_shampoo  # noqa: E402
from optim.test_optim_optax import SHAPES  # noqa: E402


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

"""Inverse roots inside of jax's graph, by the fixed schedule of Minimax."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, distance, forward_bar, problem

import matroot
from matroot import Ridge, Status, frechet_derivative
from matroot.autodiff.forms import Power, evaluate

jax = pytest.importorskip("jax")
jnp = jax.numpy


def root(p, **options):
    return lambda a: matroot.solve(a, p, method="minimax", **options)


def calls_the_host(function, a):
    return "callback" in str(jax.make_jaxpr(function)(a))


@pytest.mark.parametrize(("p", "cond", "options"), [(2, 1e4, {}), (8, 10.0, {}), (3, 1e3, {"regularization": 1e-2})])
def test_value_and_derivative(p, cond, options):
    """Within the bars of every method, in float32 arithmetic."""
    A, _ = problem(12, cond, batch=(2,), dtype="float32")
    E = np.random.default_rng(0).standard_normal(A.shape).astype("float32")
    E += E.swapaxes(-1, -2)
    function = root(p, **options)
    assert not calls_the_host(function, A)
    result, moved = jax.jit(lambda a, e: jax.jvp(function, (a,), (e,)))(jnp.asarray(A), E)
    wide, eps = A.astype(float), EPS["float32"]
    cond = min(cond, 100) if options else cond
    estimated = 0.06 if options else 0  # of the ridge, which is relative to an estimate
    for X, L, a, e in zip(result.x, moved.x, wide, E, strict=True):
        assert distance(X, matroot.inverse_pth_root(a, p, **options)) <= 3 * eps * cond / p + 30 * 12 * eps + estimated
        exact = frechet_derivative(a, e, p, **options)
        assert np.linalg.norm(L - exact) <= (20 * eps * cond + 500 * eps + estimated) * np.linalg.norm(exact)
    assert (result.status == Status.CONVERGED).all()
    assert np.allclose(result.cond, matroot.solve(wide, p, **options).cond, rtol=0.2)
    assert (result.n_products < 60).all()
    assert (result.residual < 1e-2).all()


@pytest.mark.parametrize(
    ("s", "cond", "dtype"),
    [
        (Fraction(1, 2), 1e4, "float32"),
        (Fraction(1, 3), 1e3, "float32"),
        (Fraction(5, 2), 100.0, "float32"),
        (Fraction(-2, 3), 1e4, "float32"),
        (Fraction(-3, 4), 1e3, "float32"),
        pytest.param(Fraction(-7, 8), 100.0, "float64", marks=pytest.mark.slow),
    ],
)
def test_powers(s, cond, dtype):
    """As accurate as the condition of the power permits, up to a factor; so is the derivative."""
    A, root = problem(12, cond, dtype=dtype)
    E = np.random.default_rng(0).standard_normal(A.shape).astype(dtype)
    E += E.T

    def function(a):
        return matroot.solve(a, s=s, method="minimax")

    with jax.enable_x64(dtype == "float64"):
        assert not calls_the_host(function, A)
        traced = jax.jit(lambda a, e: jax.jvp(function, (a,), (e,)))
        result, moved = jax.tree.map(np.asarray, traced(A, E))
        assert np.isnan(traced(-A, E)[0].x).all()
    wide, eps = A.astype(float), EPS[dtype]
    assert distance(result.x, root(s)) <= forward_bar(cond, s, 12, eps, floor=12)
    exact = evaluate("derivative", Power(s, None, "pos", "float64"), wide[None], (E.astype(float)[None],))[0][0]
    assert np.linalg.norm(moved.x - exact) <= 100 * eps * cond ** (0.5 if s > 0 else 1) * np.linalg.norm(exact)
    assert result.status == Status.CONVERGED
    assert np.isclose(result.cond, cond, rtol=0.02)
    assert result.residual < 20 * eps * (s.denominator + abs(s.numerator)) * cond ** (0 if s > 0 else 1)


def test_a_power_under_scan_vmap_and_grad():
    A = jnp.asarray(problem(4, 10.0, batch=(2, 3), dtype="float32")[0])

    def loss(method):
        def power(a):
            return matroot.fractional_power(a, Fraction(-2, 3), method=method)

        def walk(stack):
            return jax.lax.scan(lambda total, a: (total @ power(a), None), jnp.eye(4), stack)[0]

        return lambda stacks: jnp.square(jax.vmap(walk)(stacks)).sum()

    assert not calls_the_host(jax.grad(loss("minimax")), A)
    native, host = (jax.jit(jax.grad(loss(method)))(A) for method in ("minimax", "auto"))
    assert np.linalg.norm(native - host) <= 100 * EPS["float32"] * 10.0 * np.linalg.norm(host)


def test_a_power_that_leaves_the_range_has_diverged():
    A = problem(4, 1e3, dtype="float32")[0] * np.float32(2.0**-80)
    result = jax.jit(lambda a: matroot.solve(a, s=Fraction(-5, 3), method="minimax"))(A)
    assert result.status == Status.DIVERGED
    assert np.isnan(result.x).all()


@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(-1, 2)], ids=str)
def test_what_a_ridge_leaves_of_a_negative_matrix_has_few_digits(s):
    ridge = Ridge(absolute=1.0)
    for units, status in ((20, Status.ILL_CONDITIONED), (1e5, Status.CONVERGED)):
        A = np.diag(units * EPS["float32"] * np.array([1.0, 2.0, 3.0]) - 1).astype(np.float32)
        result = jax.jit(lambda a: matroot.solve(a, s=s, method="minimax", regularization=ridge))(A)
        assert result.status == status


@pytest.mark.slow
def test_second_order_in_float64():
    with jax.enable_x64(True):
        A = jnp.asarray(problem(3, 50.0)[0])

        def loss(root):
            return lambda a: jnp.sin(root((a + a.T) / 2)).sum()

        native, host = loss(lambda a: matroot.inv_sqrtm(a, method="minimax")), loss(matroot.inv_sqrtm)
        assert not calls_the_host(jax.grad(native), A)
        found, exact = (jax.jit(lambda a, f=f: jax.jvp(jax.grad(f), (a,), (A,)))(A) for f in (native, host))
        for x, y in zip(found, exact, strict=True):
            # 1e-10 is left of the oscillating error of the schedule by the Newton step.
            assert np.linalg.norm(x - y) <= 1e-9 * np.linalg.norm(y)


def test_failures_are_data_and_their_own():
    good = problem(4, 10.0, dtype="float32")[0]
    stack = np.stack([good] * 5)
    stack[1, 0, 0] = np.nan
    stack[2, 0, 1] += 1
    stack[3] -= 2 * np.eye(4, dtype="float32")
    stack[4] = 0
    gradient, result = jax.jit(jax.grad(lambda a: ((r := root(2)(a)).x.sum(), r), has_aux=True))(jnp.asarray(stack))
    assert result.status[:3].tolist() == [Status.CONVERGED, Status.NONFINITE_INPUT, Status.NOT_SYMMETRIC]
    assert all(status in (Status.STAGNATED, Status.DIVERGED) for status in result.status[3:])
    assert result[1].status == Status.NONFINITE_INPUT and len(result[:2]) == 2
    assert np.isfinite(gradient[0]).all()
    assert np.isnan(gradient[1:]).all()
    assert np.isnan(result.x[1:]).all()
    moved = jax.jit(lambda a: jax.jvp(jax.grad(lambda a: root(2)(a).x.sum()), (a,), (stack,))[1])(jnp.asarray(stack))
    assert np.isfinite(moved[0]).all()
    assert np.isnan(moved[1:]).all()


@pytest.mark.slow
def test_scales_dtypes_and_vmap():
    A = jnp.asarray(problem(4, 10.0, batch=(3,), dtype="float32")[0])
    function = root(2, regularization=Ridge(absolute=0.0))
    X = np.array([matroot.inv_sqrtm(a) for a in A])
    assert np.allclose(jax.vmap(lambda a: function(a * 2.0**-100).x)(A) * 2.0**-50, X, rtol=1e-5, atol=1e-6)
    half = jax.jit(root(2))(A.astype(jnp.bfloat16))
    assert (half.x.dtype, half.compute_dtype) == (jnp.bfloat16, "float32")


@pytest.mark.parametrize(
    "function",
    [
        matroot.inv_sqrtm,
        lambda a: matroot.fractional_power(a, 0.9, method="minimax"),
        lambda a: matroot.inv_sqrtm(a, method="minimax", regularization=Ridge(1e-6, retries=2)),
    ],
    ids=["auto", "ninth power of a tenth root", "retries"],
)
def test_all_else_is_left_to_the_host(function):
    assert calls_the_host(function, jnp.eye(3))

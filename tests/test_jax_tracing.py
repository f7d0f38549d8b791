"""Roots while jax traces: under every transformation, in float64 on the host though x64 is off."""

from dataclasses import fields

import numpy as np
import pytest
from table import EPS, distance, problem

import matroot
from matroot import Floor, Ridge, Status, frechet_derivative

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def arrays(n=4, cond=10.0, batch=(3,), dtype="float32"):
    return jnp.asarray(problem(n, cond, batch=batch, dtype=dtype)[0])


def hermitian(a):
    return (a + a.swapaxes(-1, -2).conj()) / 2


@pytest.mark.parametrize("name", ["inverse_pth_root", "pth_root", "sqrtm", "inv_sqrtm", "fractional_power"])
def test_the_traced_root_is_the_root(name):
    function = getattr(matroot, name)
    argument = {"inverse_pth_root": (3,), "pth_root": (5,), "fractional_power": (0.3,)}.get(name, ())
    A = arrays(6, 1e6)

    def root(a):
        return function(a, *argument)

    expected = root(A)
    assert (jax.jit(root)(A) == expected).all()
    assert (jax.vmap(root)(A) == expected).all()
    assert (jax.jit(jax.vmap(root, in_axes=1))(jnp.moveaxis(A, 0, 1)) == expected).all()


def test_a_result_is_a_pytree_and_failures_are_data():
    lopsided = jnp.eye(3) + jnp.triu(jnp.ones((3, 3)), 1)
    stack = jnp.stack([jnp.eye(3), -jnp.eye(3), 2 * jnp.eye(3), lopsided])
    result = jax.jit(lambda a: matroot.solve(a, 2))(stack)
    assert result.status.tolist() == [0, Status.NOT_POSITIVE, 0, Status.NOT_SYMMETRIC]
    assert np.isnan(result.x[1::2]).all() and np.isfinite(result.x[::2]).all()
    assert "NOT_POSITIVE" in repr(result) and result.converged.tolist() == [True, False, True, False]
    assert jax.jit(lambda a: matroot.solve(a, 2))(lopsided).status == Status.NOT_SYMMETRIC
    general = jax.jit(lambda a: matroot.solve(a, 3, inverse=False, assume_a="gen"))(lopsided)
    assert general.status == 0 and general.rank == 3
    assert isinstance(jax.tree.map(lambda v: v, matroot.solve(stack[0], 2)), matroot.RootResult)

    gradient = jax.jit(jax.grad(lambda a: matroot.inv_sqrtm(a)[::2].sum()))(stack)
    assert np.isnan(gradient[1::2]).all() and np.isfinite(gradient[::2]).all()


@pytest.mark.parametrize("options", [{}, {"regularization": matroot.PseudoInverse()}, {"assume_a": "gen"}], ids=str)
def test_a_traced_result_has_the_fields_of_a_result(options):
    A = np.asarray(arrays(4, 100.0, (2,)))
    traced = jax.jit(lambda a: matroot.solve(a, 3, inverse=False, **options))(A)
    plain = matroot.solve(A, 3, inverse=False, **options)
    for field in fields(plain):
        mine, theirs = getattr(traced, field.name), getattr(plain, field.name)
        if isinstance(theirs, np.ndarray):
            assert np.allclose(mine, theirs, rtol=1e-5), field
        elif field.name != "n_products":  # an array here
            assert mine == theirs, field


def test_the_gradient_is_the_derivative():
    A = arrays(8, 1e6, ())
    G = hermitian(jnp.asarray(np.random.default_rng(0).standard_normal((8, 8)), jnp.float32))
    _, pull = jax.vjp(lambda a: matroot.inverse_pth_root(a, 4), A)
    expected = frechet_derivative(np.asarray(A, np.float64), np.asarray(G, np.float64), 4)
    assert distance(pull(G)[0], expected) <= 4 * EPS["float32"]
    assert distance(jax.jvp(lambda a: matroot.inverse_pth_root(a, 4), (A,), (G,))[1], expected) <= 4 * EPS["float32"]
    assert distance(jax.jit(lambda a, e: frechet_derivative(a, e, 4))(A, G), expected) <= 4 * EPS["float32"]


def test_agrees_with_torch(x64):
    torch = pytest.importorskip("torch")
    A = arrays(5, 100.0, dtype="complex128")
    a = torch.tensor(np.asarray(A), requires_grad=True)
    matroot.inv_sqrtm(a, regularization=1e-3).abs().sum().backward()
    gradient = jax.grad(lambda a: abs(matroot.inv_sqrtm(a, regularization=1e-3)).sum())(A)
    assert distance(gradient.conj(), a.grad.numpy()) <= 1e-12


@pytest.mark.parametrize("dtype", ["float64", pytest.param("complex128", marks=pytest.mark.slow)])
def test_first_and_second_order(x64, dtype):
    from jax.test_util import check_grads

    A = arrays(2, 4.0, (), dtype)
    functions = (
        lambda a: matroot.pth_root(a, 3, assume_a="gen"),
        lambda a: matroot.fractional_power(hermitian(a), 0.3 * np.pi, regularization=Floor(0.4)),
    )
    for function in functions[: 2 if dtype == "float64" else 1]:
        check_grads(jax.jit(function), (A,), order=2, modes=("fwd", "rev"))


@pytest.mark.slow
def test_second_derivatives_in_every_order():
    A = jnp.eye(2)  # equal eigenvalues

    def loss(a):
        return (matroot.inverse_pth_root(hermitian(a), 3) ** 2).sum()

    second = jax.jit(jax.hessian(loss))(A)
    for other in (jax.jacrev(jax.jacrev(loss)), jax.jacfwd(jax.jacfwd(loss))):
        assert np.allclose(jax.jit(other)(A), second, rtol=1e-5, atol=1e-6)
    with pytest.raises(NotImplementedError, match="third"):
        jax.jacrev(jax.hessian(loss))(A)


def test_second_derivatives_are_transposed_in_every_direction():
    """<x, D(e, h)> = <D^T(x), e>, and the same of the derivative of the gradient in the cotangent."""
    A = arrays(2, 4.0, ())
    e, h, x = (hermitian(v) for v in jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 2)), jnp.float32))

    def root(a):
        return matroot.inv_sqrtm(a, regularization=0.1)

    for first in (lambda a, v: jax.jvp(root, (a,), (v,))[1], lambda a, v: jax.vjp(root, a)[1](v)[0]):

        def moved(v, first=first):
            return jax.jvp(lambda a: first(a, v), (A,), (h,))[1]

        (back,) = jax.linear_transpose(moved, e)(x)
        assert float((back * e).sum()) == pytest.approx(float((x * moved(e)).sum()), rel=1e-4)


def test_in_a_scan():
    A = arrays()

    def total(stack):
        return jax.lax.scan(lambda c, a: (matroot.sqrtm(hermitian(c + a)), jnp.trace(c)), stack[0], stack)[0].sum()

    gradient = jax.jit(jax.grad(total))(A)
    E = hermitian(jnp.asarray(np.random.default_rng(0).standard_normal(A.shape), jnp.float32))
    difference = (total(A + 1e-2 * E) - total(A - 1e-2 * E)) / 2e-2
    assert float((gradient * E).sum()) == pytest.approx(float(difference), rel=1e-2)


def test_other_dtypes_and_empty():
    assert jax.jit(matroot.inv_sqrtm)(jnp.eye(3, dtype=jnp.bfloat16) * 4).dtype == jnp.bfloat16
    assert jax.jit(matroot.inv_sqrtm)(jnp.eye(3, dtype=int) * 4).dtype == jnp.float32
    assert jax.grad(lambda a: matroot.sqrtm(a).sum())(jnp.zeros((0, 3, 3))).shape == (0, 3, 3)
    with pytest.raises(ValueError, match="assume_a"):
        jax.jit(lambda a: matroot.sqrtm(a, assume_a="no"))(jnp.eye(3))


@pytest.mark.parametrize("rule", [Ridge(1e-9), Ridge(1e-9, retries=3), Ridge(absolute=1e-39)], ids=str)
def test_the_ridge_of_a_small_matrix_is_not_lost(rule):
    """It is 1e-39, which in jax's float32 is 0, and the matrix singular."""
    A = np.full((2, 2), 1e-30, "float32")
    E = np.array([[1.0, 2.0], [2.0, -3.0]], "float32")
    for s in (0.5, 0.3):
        exact = frechet_derivative(A, E, s=s, regularization=rule)
        found = jax.jvp(lambda a, s=s: matroot.fractional_power(a, s, regularization=rule), (A,), (E,))[1]
        assert np.allclose(found, exact, rtol=1e-5)


def test_dtypes_of_a_traced_derivative_are_those_of_one_that_is_not():
    single, half, count = np.float32, np.float16, np.int32
    for one, other in ((count, count), (half, half), (half, count), (half, single)):
        a, e = 4 * jnp.eye(2, dtype=one), jnp.ones((2, 2), other)
        found = jax.jit(lambda a, e: frechet_derivative(a, e, 2))(a, e)
        exact = frechet_derivative(a, e, 2)
        assert found.dtype == exact.dtype
        assert (found == exact).all()


def test_a_traced_degree_is_told_to_be_static():
    with pytest.raises(TypeError, match="static_argnums=1"):
        jax.jit(matroot.inverse_pth_root)(jnp.eye(3), 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda a: matroot.inverse_pth_root(a, 2),
        lambda a: matroot.inverse_pth_root(a, 2, method="minimax"),
        lambda a: matroot.polar(a).h,
        lambda a: matroot.spectral_power(a, 0.5).x,
        lambda a: matroot.orthogonalizer(a).x ** 2,
        lambda a: matroot.frechet_derivative(a, a.astype(jnp.bfloat16), 2),
    ],
    ids=["root", "minimax", "polar", "spectral", "orthogonalizer", "frechet"],
)
def test_programs_that_forbid_promotion(function):
    a = jax.ShapeDtypeStruct((2, 3, 3), jnp.float32)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = jax.eval_shape(jax.grad(lambda a: function(a).sum()), a)
    assert found.shape == a.shape

"""Every kind of array in, the same kind, dtype and device out, and never written to."""

from fractions import Fraction

import numpy as np
import pytest
from conftest import dtype_of, numpy_dtype, read
from table import EPS, NAMED, conjugate, distance, problem

import matroot
from matroot import (
    Floor,
    PseudoInverse,
    Ridge,
    Shift,
    Status,
    TargetCondition,
    cond_pth_root,
    fractional_power,
    inv_sqrtm,
    inverse_pth_root,
    pth_root,
    select_method,
    solve,
    sqrtm,
)

FIELDS = ("status", "residual", "cond", "bits_lost", "n_iter", "lambda_max", "lambda_min", "ridge", "converged")
SPD = np.array([[5.0, 2.0, 1.0], [2.0, 6.0, 2.0], [1.0, 2.0, 7.0]])  # exact in every dtype
HERMITIAN = SPD + 1j * np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 2.0], [0.0, -2.0, 0.0]])


def power(A, s):
    w, Q = np.linalg.eigh(A)
    return (Q * w**s) @ Q.conj().T


@pytest.fixture
def A(kind):
    return HERMITIAN if kind.complex else SPD


def test_in_and_out(kind, A):
    a = kind.make(np.stack([A, 2 * A]))
    before = read(a).copy()
    result = solve(a, 3)
    assert kind.is_mine(result.x)
    assert dtype_of(result.x) == kind.result_dtype
    assert tuple(result.x.shape) == (2, 3, 3)
    eps = EPS[kind.result_dtype]
    for i, M in enumerate((A, 2 * A)):
        assert distance(read(result.x)[i], power(M, -1 / 3)) <= (3 * np.linalg.cond(A) / 3 + 4 * 3) * eps
    assert (read(a) == before).all()
    for name in FIELDS:
        value = getattr(result, name)
        assert kind.is_mine(value), name
        assert tuple(value.shape) == (2,), name
    assert (read(result.status) == Status.CONVERGED).all()
    assert np.allclose(read(result.cond), np.linalg.cond(A), rtol=1e-5)
    assert "converged" in result.message
    assert "RootResult" in repr(result)


def test_every_public_function(kind, A):
    a = kind.make(A)
    calls = {
        -1 / 3: inverse_pth_root(a, 3),
        1 / 3: pth_root(a, 3),
        -0.75: fractional_power(a, Fraction(-3, 4)),
        0.3: fractional_power(a, 0.3),
        0.5: sqrtm(a),
        -0.5: inv_sqrtm(a),
    }
    for s, x in calls.items():
        assert kind.is_mine(x)
        assert dtype_of(x) == kind.result_dtype
        assert tuple(x.shape) == (3, 3)
        assert distance(read(x), power(A, s)) <= 20 * EPS[kind.result_dtype]
    cond = cond_pth_root(a, 3)
    assert kind.is_mine(cond)
    assert tuple(cond.shape) == ()
    assert select_method(a, 3).name == "tridiagonal"


def test_the_numbers_do_not_depend_on_the_library(kind, A):
    """A torch float32 matrix gets the root that the same numpy float32 matrix gets, to the last bit."""
    x = read(solve(kind.make(A), 4, method="coupled_newton").x)
    theirs = A.astype(numpy_dtype(kind.dtype))
    expected = solve(theirs, 4, method="coupled_newton").x.astype(numpy_dtype(kind.result_dtype))
    assert (x == expected.astype(x.dtype)).all()


@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_every_method(kind, A, row):
    for inverse in (True, False):
        result = solve(kind.make(A), 2, method=row.method, inverse=inverse)
        assert dtype_of(result.x) == kind.result_dtype
        X = read(result.x)
        assert distance(X, power(A, -0.5 if inverse else 0.5)) <= 20 * EPS[kind.result_dtype]
        assert (X == conjugate(X)).all()
        if result.companion is not None:
            assert kind.is_mine(result.companion)
            assert dtype_of(result.companion) == kind.result_dtype


def test_general_matrices(kind):
    a = kind.make(np.array([[8, 4], [0, 1]]))
    result = solve(a, 3, inverse=False, assume_a="gen")
    assert kind.is_mine(result.x)
    assert dtype_of(result.x) == kind.result_dtype
    assert distance(read(result.x), np.array([[2, 4 / 7], [0, 1]])) <= 20 * EPS[kind.result_dtype]


@pytest.mark.parametrize("shape", [(0, 0), (3, 0, 0), (0, 4, 4), (2, 0, 3, 3), (0, 0, 0)], ids=str)
def test_empty(kind, shape):
    for assume_a in ("pos", "gen"):
        result = solve(kind.make(np.zeros(shape)), 2, assume_a=assume_a)
        assert tuple(result.x.shape) == shape
        assert dtype_of(result.x) == kind.result_dtype
        assert tuple(result.status.shape) == shape[:-2]
        assert not read(result.status).any()
        assert "RootResult" in repr(result)
        assert isinstance(result.message, str)
    assert tuple(inverse_pth_root(kind.make(np.zeros(shape)), 3).shape) == shape
    assert tuple(cond_pth_root(kind.make(np.zeros(shape)), 3).shape) == shape[:-2]


@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_empty_by_every_method(row):
    for shape in [(0, 0), (3, 0, 0), (0, 4, 4)]:
        result = solve(np.zeros(shape), 2, method=row.method)
        assert result.x.shape == shape
        assert result.cond.shape == shape[:-2]


@pytest.mark.parametrize(
    "rule", [Floor(1e-3), PseudoInverse(), Shift(1e-3), TargetCondition(1e3), Ridge(1e-3)], ids=repr
)
def test_empty_under_every_rule(rule):
    for shape in [(0, 0), (3, 0, 0), (0, 4, 4), (0, 100, 100)]:
        for dtype in ("float64", "complex64"):
            result = solve(np.zeros(shape, dtype), 2, regularization=rule)
            assert result.x.shape == shape and result.x.dtype == dtype and not result.status.any()


def test_scalar_root(kind):
    """n = 1: 16 ** (-1/4) is 1/2, not 1."""
    for assume_a in ("pos", "gen"):
        x = inverse_pth_root(kind.make(np.full((2, 1, 1), 16)), 4, assume_a=assume_a)
        assert tuple(x.shape) == (2, 1, 1)
        assert np.allclose(read(x), 0.5, rtol=2 * EPS[kind.result_dtype], atol=0)


@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_scalar_root_by_every_method(row):
    for p in row.degrees:
        result = solve(np.full((1, 1), 7.0), p, method=row.method)
        assert np.allclose(result.x, 7 ** (-1 / p), rtol=16 * EPS["float64"], atol=0)
        assert result.converged


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "complex64"])
@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_layouts(row, dtype):
    """Strides, order and writability are no part of a matrix."""
    base = np.stack([HERMITIAN if dtype == "complex64" else SPD] * 4).astype(numpy_dtype(dtype))
    expected = solve(base, 2, method=row.method).x
    big = np.zeros((4, 6, 6), base.dtype)
    big[:, ::2, ::2] = base
    frozen = base.copy()
    frozen.flags.writeable = False
    layouts = {
        "strided": big[:, ::2, ::2],
        "reversed batch": base[::-1],
        "Fortran": np.asfortranarray(base),
        "each Fortran": np.ascontiguousarray(base.swapaxes(1, 2)).swapaxes(1, 2),
        "broadcast": np.broadcast_to(base[0], base.shape),
        "read-only": frozen,
        "negative strides": np.ascontiguousarray(base[:, ::-1, ::-1])[:, ::-1, ::-1],
        "unaligned": np.frombuffer(b"x" + base.tobytes(), np.uint8)[1:].view(base.dtype).reshape(base.shape),
    }
    for name, a in layouts.items():
        before = a.copy()
        for options in ({}, {"regularization": matroot.Ridge(absolute=0.0)}):
            x = solve(a, 2, method=row.method, **options).x
            assert (x == expected).all(), name
        assert (a == before).all(), name


def test_byte_order():
    x = inverse_pth_root(SPD.astype(">f8"), 2)
    assert distance(x, power(SPD, -0.5)) <= 20 * EPS["float64"]


@pytest.mark.parametrize("row", NAMED.values(), ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_input_is_never_written(row, dtype):
    """Not by a solve that succeeds, fails, retries or raises; not through the result either."""
    A, _ = problem(8, 1e3, batch=(4,), dtype=dtype)
    A[1], A[2, 3, 3], A[3] = 0, np.nan, -A[3]
    for options in (
        {},
        {"regularization": 1e-3},
        {"regularization": matroot.Ridge(relative=1e-6, retries=3)},
        {"max_iter": 2},
        {"inverse": False},
        {"compute_dtype": row.arithmetic(dtype)},
    ):
        before = A.copy()
        result = solve(A, 2, method=row.method, **options)
        assert not np.shares_memory(result.x, A)
        result.x[...] = 7
        assert np.array_equal(A, before, equal_nan=True)
    assert solve(np.eye(3), 1, inverse=False).x is not None
    one = np.eye(1)
    solve(one, 1, method=row.method if 1 in row.degrees else "eigen").x[...] = 5
    assert one == 1


def test_results_can_be_written_to():
    """They are the caller's own memory, also where the input was not."""
    torch = pytest.importorskip("torch")
    a = SPD.copy()
    a.flags.writeable = False
    inverse_pth_root(a, 2)[0, 0] = 1.0
    inverse_pth_root(torch.from_numpy(SPD), 2)[0, 0] = 1.0


def test_torch_requires_grad():
    torch = pytest.importorskip("torch")
    a = torch.tensor(SPD, requires_grad=True)
    with pytest.raises(ValueError, match="detach"):
        cond_pth_root(a, 2)
    assert inverse_pth_root(a, 2).requires_grad
    with torch.no_grad():
        assert not inverse_pth_root(a, 2).requires_grad
    assert isinstance(inverse_pth_root(a.detach(), 2), torch.Tensor)
    parameter = torch.nn.Parameter(torch.tensor(SPD))
    with torch.no_grad():
        x = inverse_pth_root(parameter, 2)
    assert type(x) is torch.Tensor


def test_torch_layouts():
    torch = pytest.importorskip("torch")
    a = torch.tensor(HERMITIAN)
    expected = read(inverse_pth_root(a, 2))
    assert (read(inverse_pth_root(a.conj().conj(), 2)) == expected).all()
    assert distance(read(inverse_pth_root(a.mH, 2)), expected) <= 20 * EPS["float64"]
    assert distance(read(inverse_pth_root(a.conj(), 2)), expected.conj()) <= 20 * EPS["float64"]
    wide = torch.zeros(6, 6, dtype=torch.float64)
    wide[::2, ::2] = torch.tensor(SPD)
    assert (read(inverse_pth_root(wide[::2, ::2], 2)) == read(inverse_pth_root(torch.tensor(SPD), 2))).all()
    with pytest.raises(TypeError, match="to_dense"):
        inverse_pth_root(torch.tensor(SPD).to_sparse(), 2)
    with pytest.raises(TypeError, match="meta"):
        inverse_pth_root(torch.empty(3, 3, device="meta"), 2)
    with pytest.raises(TypeError, match="bool"):
        inverse_pth_root(torch.ones(1, 1, dtype=torch.bool), 2)


def test_jax_tracers_are_refused_where_values_are_needed():
    jax = pytest.importorskip("jax")
    a = jax.numpy.asarray(SPD.astype(np.float32))
    for transform in (jax.jit, jax.grad):
        with pytest.raises(TypeError, match="traced"):
            transform(lambda m: cond_pth_root(m, 2))(a)


def test_jax_under_pure_callback():
    """The float64 root of a float32 matrix inside jit, without x64."""
    jax = pytest.importorskip("jax")
    a = jax.numpy.asarray(SPD.astype(np.float32))
    shape = jax.ShapeDtypeStruct(a.shape, a.dtype)

    @jax.jit
    def root(m):
        return jax.pure_callback(lambda h: inverse_pth_root(np.asarray(h), 2), shape, m)

    assert distance(np.asarray(root(a)), power(SPD, -0.5)) <= 20 * EPS["float32"]


def test_jax_residuals_are_evaluated_in_float64():
    """jax without x64 holds them in float32: rounded to it once, not computed in it."""
    jax = pytest.importorskip("jax")
    result = solve(jax.numpy.asarray(SPD.astype(np.float32)), 2)
    same = solve(SPD.astype(np.float32), 2)
    assert np.float32(same.residual) == np.asarray(result.residual)

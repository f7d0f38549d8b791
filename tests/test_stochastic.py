"""stochastic_root: the principal root where it is stochastic, else a nearer one than the projection."""

import itertools
import warnings

import numpy as np
import pytest
from conftest import dtype_of, read
from scipy.optimize import minimize
from table import EPS

from matroot import Status, gallery, pth_root, solve, stochastic_root
from matroot._stochastic import gradient, projected, shares

YEAR = gallery.rating_transitions()
#: A state that is left at once for the other: no root of even degree is near.
SWAP = np.array([[0.2, 0.8], [0.9, 0.1]])


def distance(X, P, p):
    return np.linalg.norm(np.linalg.matrix_power(X.astype(float), p) - P)


def is_stochastic(X, eps=EPS["float64"]):
    return (X >= 0).all() and abs(X.astype(float).sum(-1) - 1).max() <= 4 * X.shape[-1] * eps


@pytest.mark.parametrize("p", [2, 5, 12, 365])
def test_embeddable_matrices_have_their_own_root(p):
    for n in (1, 2, 5, 20):
        P, root = gallery.embeddable_transitions(n, rng=n)
        result = stochastic_root(P, p)
        assert result.principal and result.status == Status.CONVERGED and result.distance <= p * 1e-14
        assert is_stochastic(result.x) and abs(result.x - root(1 / p)).max() <= 1e-13
        assert "stochastic principal root" in result.message


@pytest.mark.parametrize("p", [2, 4, 12, 365])
def test_published_ratings(p):
    """Nearer than the projection and than what is usually done, and as near as another optimizer gets."""
    principal = pth_root(YEAR, p, assume_a="gen")
    result = stochastic_root(YEAR, p)
    assert is_stochastic(result.x) and not result.principal and result.status == Status.CONVERGED
    assert result.least == principal.min() < 0 and f"down to {principal.min():.1e}" in result.message
    assert np.isclose(result.distance, distance(result.x, YEAR, p), rtol=1e-9)
    usual = np.maximum(principal, 0)
    usual /= usual.sum(-1, keepdims=True)
    plain = projected(principal)
    assert is_stochastic(plain)
    assert result.distance < 0.998 * distance(plain, YEAR, p) < 0.9 * distance(usual, YEAR, p)
    if p == 4:
        assert result.distance <= by_slsqp(plain, YEAR, p) * (1 + 1e-6)
    # the gradient is orthogonal to the simplices where entries may move both ways, and points out where they are 0
    X = result.x
    G = gradient(X, np.linalg.matrix_power(X, p) - YEAR, p)
    pull = (G - (G * X).sum(-1, keepdims=True)) / result.distance / abs(G).max()
    assert abs(pull[X > 1e-12] * X[X > 1e-12]).max() <= 1e-3 and pull[X <= 1e-12].min() >= -1e-3


def by_slsqp(start, P, p):
    n = len(P)

    def f(y):
        R = np.linalg.matrix_power(y.reshape(n, n), p) - P
        return 1e6 * (R * R).sum() / 2, 1e6 * gradient(y.reshape(n, n), R, p).ravel()

    sums = np.kron(np.eye(n), np.ones(n))
    rows = {"type": "eq", "fun": lambda y: sums @ y - 1, "jac": lambda y: sums}
    found = minimize(f, start.ravel(), jac=True, method="SLSQP", bounds=[(0, 1)] * n * n, constraints=[rows])
    return distance(projected(found.x.reshape(n, n)), P, p)


def test_a_year_from_several():
    """The principal root of a power is stochastic, although the roots of the year itself are not."""
    for years in (2, 5):
        result = stochastic_root(np.linalg.matrix_power(YEAR, years), years)
        assert result.principal and abs(result.x - YEAR).max() <= 1e-13


def test_two_states():
    """The nearest even power has two equal rows, 0.7 from SWAP with its eigenvalue -0.7."""
    for p in (2, 4):
        result = stochastic_root(SWAP, p)
        assert not result.principal and np.isnan(result.least) and is_stochastic(result.x)
        assert np.isclose(result.distance, 0.7, rtol=1e-4) and "it has no principal root" in result.message
    for a, b in itertools.product((0.55, 0.7, 0.99), repeat=2):
        P = np.array([[a, 1 - a], [1 - b, b]])
        result = stochastic_root(P, 7)
        assert result.principal and distance(result.x, P, 7) <= 1e-15 * 10


def test_without_any_principal_root():
    """A Jordan block at 0, and a permutation."""
    late = np.array([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    for P, p in ((late, 2), (np.roll(np.eye(4), 1, axis=1), 2), (np.roll(np.eye(3), 1, axis=1), 6)):
        result = stochastic_root(P, p)
        assert is_stochastic(result.x) and result.distance <= distance(np.eye(len(P)), P, p)
        assert np.isclose(result.distance, distance(result.x, P, p))


def test_projection():
    """Of every point of a grid on the simplex none is nearer."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 3))
    grid = np.array([(i, j, 20 - i - j) for i in range(21) for j in range(21 - i)]) / 20
    nearest = projected(X)
    assert is_stochastic(nearest)
    gaps = np.linalg.norm(X[:, None] - grid, axis=-1).min(-1)
    assert (np.linalg.norm(X - nearest, axis=-1) <= gaps + 1e-12).all()
    assert np.allclose(projected(nearest), nearest, atol=1e-15)


@pytest.mark.parametrize("p", [1, 2, 3, 6, 7, 12])
def test_gradient(p):
    rng = np.random.default_rng(p)
    X, R, E = rng.random((3, 4, 4)) / 3
    step = 1e-5
    difference = np.linalg.matrix_power(X + step * E, p) - np.linalg.matrix_power(X - step * E, p)
    assert np.isclose((R * difference).sum() / (2 * step), (gradient(X, R, p) * E).sum(), rtol=1e-7)


def test_a_batch_is_a_loop():
    stack = np.stack([YEAR, np.eye(8), gallery.embeddable_transitions(8, rng=0)[0], YEAR @ YEAR]).reshape(2, 2, 8, 8)
    stack[0, 1] = np.nan
    result = stochastic_root(stack, 12)
    assert result.status.tolist() == [[0, Status.NONFINITE_INPUT], [0, 0]]
    assert result.principal.tolist() == [[False, False], [True, False]] and np.isnan(result.x[0, 1]).all()
    for i in np.ndindex(2, 2):
        one = stochastic_root(stack[i], 12)
        assert np.array_equal(one.x, result.x[i], equal_nan=True)
        assert result[i].message == one.message and len(result) == 2
    assert "NaN" in result.message and "StochasticResult" in repr(result)


def test_kinds(kind):
    if kind.complex:
        with pytest.raises(TypeError, match="real"):
            stochastic_root(kind.make(np.eye(2)), 2)
        return
    values = np.eye(2) if kind.dtype.startswith(("int", "uint")) else np.array([[0.75, 0.25], [0.5, 0.5]])
    a = kind.make(np.stack([values, values]))
    result = stochastic_root(a, 2)
    assert kind.is_mine(result.x) and dtype_of(result.x) == kind.result_dtype and tuple(result.x.shape) == (2, 2, 2)
    X = read(result.x)[1].astype(float)
    assert distance(X, values, 2) <= 8 * EPS[kind.result_dtype]
    for name in ("principal", "distance", "least", "status"):
        assert kind.is_mine(getattr(result, name)), name


def test_a_root_with_negative_entries_says_so():
    """In every result whose rows add up to 1, and in no other."""
    message = solve(YEAR, 12, inverse=False, assume_a="gen").message
    assert "no probabilities: see stochastic_root" in message and "-2.3e-05" in message
    fine, _ = gallery.embeddable_transitions(8, rng=0)
    general, _ = gallery.general(8, rng=0)
    for A in (fine, general, 2 * YEAR):
        assert "stochastic_root" not in solve(A, 12, inverse=False, assume_a="gen").message
    assert "stochastic_root" not in solve(YEAR, 12, assume_a="gen").message
    batch = solve(np.stack([fine, YEAR]), 12, inverse=False, assume_a="gen")
    assert "stochastic_root" in batch.sentence(1) and "stochastic_root" not in batch.sentence(0)
    torch = pytest.importorskip("torch")
    assert "stochastic_root" in solve(torch.from_numpy(YEAR), 12, inverse=False, assume_a="gen").message


def test_what_is_not_stochastic():
    for P, what in (
        (np.array([[0.5, 0.5], [0.5, 0.4]]), r"row a\[1\] adds up to 0\.9; divide"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), r"row a\[0\] has the entry -5\.0e-01"),
        (np.stack([np.eye(2), np.eye(2) * 2]), r"row a\[1, 0\] adds up to 2"),
        (np.array([[0.9, 0.2], [0.1, 0.8]]), r"adds up to 1\.1; the columns add up to 1: pass the transpose"),
    ):
        with pytest.raises(ValueError, match=what):
            stochastic_root(P, 2)
    with pytest.raises(ValueError, match=r"must be \(..., n, n\)"):
        stochastic_root(np.ones((2, 3)), 2)
    with pytest.raises(ValueError, match="p must be a positive int"):
        stochastic_root(np.eye(2), 0)
    for shape in ((0, 0), (0, 3, 3), (2, 0, 0)):
        assert stochastic_root(np.zeros(shape), 2).x.shape == shape


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("p", [2, 12, 52])
def test_principal_roots_of_narrow_dtypes_are_roots(dtype, p):
    """1000 n u is above 1 in float16: what is cut off at 0 must not be seen in X^p."""
    turn = np.roll(np.eye(5), 1, axis=1)  # whose principal roots have entries down to -0.2
    for P in (turn, 0.999 * turn + 0.0002, np.linalg.matrix_power(0.99 * np.eye(5) + 0.01 * turn, p)):
        P = (P / P.sum(-1, keepdims=True)).astype(dtype)
        result = stochastic_root(P, p)
        off = np.linalg.norm(np.linalg.matrix_power(result.x.astype(float), p) - P.astype(float))
        assert not result.principal or off <= 10 * p * 5 * max(np.finfo(dtype).eps, 1e-15)
    assert result.principal or dtype == "float16"


def test_rows_that_a_step_of_the_optimizer_empties():
    for seed in (44, 50, 55):
        P = np.random.default_rng(seed).random((3, 3))
        P /= P.sum(-1, keepdims=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = stochastic_root(P, 12)
        assert np.isfinite(result.distance) and is_stochastic(result.x)
    X, sums = shares(np.array([[0.0, 0.0], [3.0, 1.0]]))
    assert X.tolist() == [[0.5, 0.5], [0.75, 0.25]] and sums.ravel().tolist() == [2, 4]

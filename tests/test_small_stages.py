"""Eight small matrices side by side: the poles, and every stage of the kernel for itself."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from numba import njit
from table import EPS, distance, forward_bar, problem
from test_small import EPS64, SIZES, eight

from matroot import Ridge, Status, solve
from matroot._regularization import Coefficients
from matroot.backends.cpu.tridiagonal import (
    certificate,
    layout,
    pole_sums,
    reduction,
)
from matroot.backends.cpu.tridiagonal.memory import address
from matroot.backends.cpu.tridiagonal.poles import gauss, poles
from matroot.backends.cpu.tridiagonal.reduction import SETTLED
from matroot.methods.tridiagonal import Tridiagonal, small_roots
from matroot.methods.tridiagonal_report import pole_level


def lanes(stack):
    """The lower triangles of eight matrices, as the kernel holds them."""
    n = stack.shape[-1]
    i, j = np.tril_indices(n)
    return np.ascontiguousarray(stack[:, i, j].T).ravel()


def unlanes(flat, n):
    A = np.zeros((8, n, n))
    i, j = np.tril_indices(n)
    A[:, i, j] = A[:, j, i] = flat.reshape(-1, 8).T
    return A


@njit
def gather(stack, first, count, n, A, U, work):
    layout.gather(address(stack), first, count, n, address(A), address(U), address(work))


@njit
def scatter(X, first, count, n, out, work):
    layout.scatter(address(X), first, count, n, address(out), address(work))


@njit
def tridiagonalize(A, n, d, e, tau, work):
    reduction.tridiagonalize(address(A), n, address(d), address(e), address(tau), address(work))


@njit
def transform_back(F, A, n, tau, work):
    reduction.transform_back(address(F), address(A), n, address(tau), address(work))


@njit
def multiply(A, W, Y, n):
    certificate.multiply(address(A), address(W), address(Y), n, 8)


@njit
def add_poles(F, d, e, b, w, first, last, n, work):
    pole_sums.add_poles(address(F), address(d), address(e), address(b), address(w), first, last, n, address(work))


@njit
def times_tridiagonal(F, d, e, n):
    pole_sums.times_tridiagonal(address(F), address(d), address(e), n)


@pytest.mark.parametrize("target", [1e-4, 1e-9, 5e-17])
@pytest.mark.parametrize("alpha", [0.01, 1 / 8, 1 / 3, 1 / 2, 3 / 4, 0.99])
def test_poles_reach_their_target(alpha, target):
    for cond in (4.0, 1e4, 1e14):
        b, w = poles(alpha, cond, target)
        x = np.geomspace(1 / cond, 1, 999).astype(np.longdouble)
        error = abs((w / (x[:, None] + b)).sum(1) * x**alpha - 1)
        assert error.max() <= 3 * target + 4 * EPS64
        assert (b > 0).all()
        assert (w > 0).all()


def test_poles_are_as_few_as_said():
    """34 at cond 1e4 for 4e-16, one more for every factor exp(h) of cond."""
    assert len(poles(1 / 4, 1e4, 4e-16)[0]) == 34
    assert [len(poles(1 / 2, c, 1e-9)[0]) for c in (1e4, 1e8)] == [22, 32]


@pytest.mark.parametrize("n", [6, 80])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_rtol_takes_as_many_poles_as_it_needs(n, dtype):
    A, root = problem(n, 1e3, dtype=dtype)
    for rtol in (0.1, 1e-3, 1e-4):
        target = pole_level(dtype == "float32", rtol).target
        assert target <= rtol * 1.01e-2
        for lanes in (True, False):
            result = solve(A, 4, rtol=rtol, method=Tridiagonal(lanes=lanes))
            assert result.status == Status.CONVERGED
            assert distance(result.x, root(-1 / 4)) < 10 * target + 1e3 * EPS[dtype]


def test_gauss_integrates_polynomials():
    rng = np.random.default_rng(0)
    x, weights = rng.uniform(0, 1, 60), rng.uniform(0, 1, 60)
    nodes, u = gauss(x, weights, 5)
    for k in range(10):
        assert np.isclose((u * nodes**k).sum(), (weights * x**k).sum(), rtol=1e-13)


@pytest.mark.parametrize("n", SIZES)
def test_gather_and_scatter(n):
    rng = np.random.default_rng(n)
    stack = rng.standard_normal((11, n, n))
    A, U = np.empty((2, 4 * n * (n + 1)))
    work = np.empty(8 * (n + 50))
    for first, count in ((0, 8), (8, 3)):
        gather(stack, first, count, n, A, U, work)
        chosen = stack[np.minimum(first + np.arange(8), first + count - 1)]
        assert (A == lanes(chosen)).all()
        assert (U == lanes(chosen.swapaxes(1, 2))).all()
        out = np.full((11, n, n), np.nan)
        scatter(A, first, count, n, out, work)
        part = out[first : first + count]
        assert (part == unlanes(A, n)[:count]).all()
        assert np.isnan(out).sum() == (11 - count) * n * n


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_tridiagonal_form_and_back(n):
    stack, _ = eight(n, 1e3)
    A = lanes(stack)
    d, e, tau, work = np.empty(8 * n), np.empty(8 * n), np.empty(16 * n), np.empty(8 * (24 * n + 8))
    tridiagonalize(A, n, d, e, tau, work)
    d, e = d.reshape(n, 8).T, e.reshape(n, 8).T
    T = np.zeros((8, n, n))
    i = np.arange(n)
    T[:, i, i] = d
    T[:, i[1:], i[:-1]] = T[:, i[:-1], i[1:]] = e[:, :-1]
    assert np.allclose(np.linalg.eigvalsh(T), np.linalg.eigvalsh(stack), rtol=0, atol=6 * n * EPS64 + 20 * EPS64)
    back = lanes(T)
    transform_back(back, A, n, tau, work)
    assert distance(unlanes(back, n), stack) <= (8 + n**0.5) * EPS64


def test_what_is_diagonal_stays_diagonal():
    D = np.stack([np.diag(v) for v in np.random.default_rng(0).uniform(0.1, 1, (8, 9))])
    X = solve(D, 3, method="tridiagonal").x
    assert (X == np.stack([np.diag(np.diag(x)) for x in X])).all()
    assert np.allclose(np.diagonal(X, 0, 1, 2) ** -3, np.diagonal(D, 0, 1, 2), rtol=30 * EPS64)


@pytest.mark.parametrize("n", (1, 2, 5, 8, 19))
def test_multiply(n):
    rng = np.random.default_rng(n)
    stack, _ = eight(n)
    W = rng.standard_normal((n, 8, 8))
    Y = np.empty(64 * n)
    multiply(lanes(stack), W.ravel(), Y, n)
    assert np.allclose(Y.reshape(n, 8, 8), np.einsum("bij,jtb->itb", stack, W), rtol=0, atol=1e-13)


def test_poles_of_a_tridiagonal_matrix():
    rng = np.random.default_rng(0)
    for n in (1, 2, 9):
        d, e = rng.uniform(2, 3, (n, 8)), rng.uniform(-1, 1, (n, 8))
        e[-1] = 0
        b, w = rng.uniform(0, 1, (6, 8)), rng.uniform(0, 1, (6, 8))
        F, work = np.zeros(4 * n * (n + 1)), np.empty(8 * (24 * n + 8))
        add_poles(F, d.ravel(), e.ravel(), b.ravel(), w.ravel(), 1, 6, n, work)
        T = np.stack([np.diag(d[:, t]) + np.diag(e[:-1, t], 1) + np.diag(e[:-1, t], -1) for t in range(8)])
        shifted = T[:, None] + b.T[:, 1:, None, None] * np.eye(n)
        expected = (w.T[:, 1:, None, None] * np.linalg.inv(shifted)).sum(1)
        assert np.allclose(unlanes(F, n), expected, rtol=1e-13, atol=1e-15)
        times_tridiagonal(F, d.ravel(), e.ravel(), n)
        assert np.allclose(unlanes(F, n), T @ expected, rtol=0, atol=1e-13)


EDGES = {
    "geometric": np.geomspace(1e-6, 1, 20),
    "cluster below": np.r_[np.full(12, 1e-3), np.linspace(0.5, 1, 8)],
    "cluster above": np.r_[np.linspace(1e-3, 0.5, 8), np.full(12, 1.0)],
    "one value": np.full(20, 0.7),
    "two values": np.r_[np.full(10, 1e-9), np.full(10, 1.0)],
    "close pair": np.r_[0.1, 0.1 + 1e-12, np.linspace(0.2, 1, 18)],
    "indefinite": np.linspace(-0.9, 1, 20),
    "singular": np.r_[0.0, 0.0, np.linspace(0.2, 1, 18)],
}


@pytest.mark.parametrize("name", EDGES)
def test_extreme_eigenvalues(name):
    """Laguerre's iteration ends at the edges of every spectrum, in clusters too."""
    n = 20
    w = EDGES[name]
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((9, n, n)))[0]
    A = (Q * w) @ Q.swapaxes(1, 2)
    A = (A + A.swapaxes(1, 2)) / 2
    shift = 1.0 if w[0] <= 0 else 0.0  # a ridge makes it positive, so that it is served
    report = small_roots(A, np.empty_like(A), Fraction(-1, 2), Coefficients(absolute=shift))
    assert (report.served == 1).all()
    assert np.allclose(report.lambda_max, w[-1], rtol=1e-11)
    assert np.allclose(report.lambda_min, w[0] + shift, rtol=1e-11, atol=30 * EPS64)


CROWDED = {
    "decay to zero": lambda n: np.r_[np.zeros(n // 40 + 1), np.geomspace(1e-12, 1, n - n // 40 - 1)],
    "long tail": lambda n: np.arange(1, n + 1.0) ** -4,
    "half of them tiny": lambda n: np.r_[np.geomspace(1e-11, 1e-8, n // 2), np.linspace(0.1, 1, n - n // 2)],
    "crowded at the top": lambda n: 1 - 0.999 * np.geomspace(1e-12, 1, n),
    "rank 2": lambda n: np.r_[np.zeros(n - 2), 0.3, 1.0],
}


def fourth_root(A):
    """A^{-1/4}, of 30 digits where the bar is so close that LAPACK's own error counts."""
    if len(A) > 20:
        w, Q = np.linalg.eigh(A)
        return (Q * w**-0.25) @ Q.T
    with mpmath.workdps(30):
        w, Q = mpmath.eigsy(mpmath.matrix(A.tolist()))
        return np.array((Q * mpmath.diag([x ** mpmath.mpf(-0.25) for x in w]) * Q.T).tolist(), dtype=float)


@pytest.mark.parametrize("gap", [1e-10, 1e-8, 1e-7, 1e-6, 1e-5])
@pytest.mark.parametrize("n", [3, 9, 40])
def test_extreme_eigenvalues_beside_others(n, gap):
    """Two close ones look like one at a distance; a ridge is relative to the larger one, not to their mean.

    The error is below the length of the last step.
    """
    Q = np.linalg.qr(np.random.default_rng(n).standard_normal((8, n, n)))[0]
    w = np.concatenate([[0.01, 0.01 * (1 + gap)], np.linspace(0.1, 0.5, n - 3), [1 - gap, 1.0]])[-n:]
    A = (Q * w) @ Q.swapaxes(1, 2)
    A = (A + A.swapaxes(1, 2)) / 2
    exact = np.linalg.eigvalsh(A)
    for lanes in (True, False):
        found = solve(A, 2, regularization=Ridge(0.01), method=Tridiagonal(lanes=lanes))
        assert abs(found.ridge / (0.01 * exact[:, -1]) - 1).max() <= SETTLED
        lowest = found.lambda_min - found.ridge
        assert (abs(lowest - exact[:, 0]) <= SETTLED * exact[:, 0] + 8 * n * EPS64).all()


@pytest.mark.parametrize("n", [20, 64, 129, 256])
@pytest.mark.parametrize("name", CROWDED)
def test_extreme_eigenvalues_in_a_crowd(name, n):
    """Steps are short where eigenvalues crowd on a logarithmic scale, as those of gradients' statistics do."""
    w = np.sort(CROWDED[name](n))
    Q = np.linalg.qr(np.random.default_rng(n).standard_normal((3, n, n)))[0]
    A = (Q * w) @ Q.swapaxes(1, 2)
    A = (A + A.swapaxes(1, 2)) / 2
    X = np.empty_like(A)
    report = small_roots(A, X, Fraction(-1, 4), Coefficients(relative=1e-6))
    assert (report.served == 1).all()
    assert np.allclose(report.lambda_max, w[-1], rtol=1e-9)
    assert np.allclose(report.lambda_min, w[0] + report.ridge, rtol=1e-6)
    kappa = (w[-1] + 1e-6) / (w[0] + 1e-6)
    for k in range(3):
        assert distance(X[k], fourth_root(A[k] + report.ridge[k] * np.eye(n))) < 2 * forward_bar(kappa, -0.25, n, EPS64)


@pytest.mark.parametrize("n", [20, 64])
def test_a_crowd_beside_other_crowds(n):
    """Some lanes settle long before others, and must not move on with them."""
    w = np.array([np.sort(CROWDED[name](n)) for name in CROWDED])
    Q = np.linalg.qr(np.random.default_rng(n).standard_normal((len(w), n, n)))[0]
    A = (Q * w[:, None, :]) @ Q.swapaxes(1, 2)
    A = (A + A.swapaxes(1, 2)) / 2
    method = Tridiagonal(lanes=True)
    together = solve(A, 4, method=method, regularization=1e-6)
    for k in range(len(w)):
        alone = solve(A[k], 4, method=method, regularization=1e-6)
        for field in ("x", "cond", "lambda_max", "lambda_min", "ridge", "residual"):
            assert np.array_equal(getattr(together, field)[k], getattr(alone, field)), (field, k)

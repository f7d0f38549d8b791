"""Eight small matrices side by side: the poles, every stage of the kernel, lanes that know nothing of each other."""

import shutil
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from numba import njit
from table import EPS, distance, forward_bar, problem

from matroot import PseudoInverse, Ridge, Shift, Status, gallery, solve
from matroot._regularization import Coefficients
from matroot._solve import solve_power
from matroot.backends.cpu.tridiagonal import (
    certificate,
    kernel,
    layout,
    pole_sums,
    reduction,
)
from matroot.backends.cpu.tridiagonal.memory import address
from matroot.backends.cpu.tridiagonal.poles import gauss, poles
from matroot.methods.conditioning import PROBES
from matroot.methods.tridiagonal import Tridiagonal, small_roots, tasks
from matroot.methods.tridiagonal_report import pole_level, probes

SIZES = (1, 2, 3, 4, 7, 8, 9, 13, 16, 17, 33, 70)
EPS64 = EPS["float64"]


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


# The stages, for Python: they are compiled into kernels alone.


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


def eight(n, cond=1e4, spectrum="geometric", seed=0):
    return gallery.spd(n, cond if n > 1 else 1.0, spectrum, batch=(8,), rng=seed)


# The poles


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


# The stages


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


@pytest.mark.parametrize("rule", [None, 1e-3, PseudoInverse(1e-3)], ids=str)
def test_complex_roots_are_hermitian_to_the_last_bit(rule):
    """Also where the imaginary part is rounding noise, of which the two copies differ."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((300, 3, 3)) + 1j * rng.standard_normal((300, 3, 3)))[0]
    A = (Q * [1 - 1e-15, 1.0, 1.0]) @ Q.conj().swapaxes(1, 2)
    X = solve((A + A.conj().swapaxes(1, 2)) / 2, 6, regularization=rule).x
    assert (X == X.conj().swapaxes(1, 2)).all()


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
    together = solve(A, 4, method="tridiagonal", regularization=1e-6)
    for k in range(len(w)):
        alone = solve(A[k], 4, method="tridiagonal", regularization=1e-6)
        for field in ("x", "cond", "lambda_max", "lambda_min", "ridge", "residual"):
            assert np.array_equal(getattr(together, field)[k], getattr(alone, field)), (field, k)


# Whole roots


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("s", [Fraction(*f) for f in ((-1, 1), (-1, 4), (-2, 3), (1, 2), (5, 7), (1, 1))], ids=str)
def test_roots_of_known_spectra(s, n):
    """A group and a half, every size around the edges of blocks."""
    for cond in (1e1, 1e6):
        A, root = problem(n, cond if n > 1 else 1.0, batch=(12,), seed=n)
        X = np.empty_like(A)
        report = small_roots(A, X, s)
        conditioning = -s * cond if s < 0 else cond ** (1 - s)
        assert distance(X, root(s)) <= (5 * float(conditioning) + 20 * n**0.5) * EPS64
        if s.numerator >= -1:  # the certificate of other powers is not the kernel's
            assert (report.residual <= 20 * (s.denominator + n**0.5) * (cond if s < 0 else 1) * EPS64).all()
        assert (X == X.swapaxes(1, 2)).all()
        assert (report.served == 1).all()
        assert np.allclose(report.cond, cond if n > 1 else 1.0, rtol=1e-6)


def test_lanes_know_nothing_of_each_other():
    """One matrix gets the same bits alone, in any lane, beside any neighbour, good or bad."""
    for n in (3, 12):
        A = np.concatenate([eight(n, cond, seed=3)[0] for cond in (1e1, 1e12, 1e4)])
        A[5] *= 1e200
        A[7], A[12] = np.nan, 0
        A[14] = -A[14]
        A[17, 0, 0] = np.inf
        for p, inverse in ((4, True), (3, False)):
            result = solve(A, p, inverse=inverse, method="tridiagonal")
            order = np.random.default_rng(0).permutation(len(A))
            shuffled = solve(A[order], p, inverse=inverse, method="tridiagonal")
            for i in range(len(A)):
                alone = solve(A[i], p, inverse=inverse, method="tridiagonal")
                at = int(np.flatnonzero(order == i)[0])
                for name in ("x", "status", "residual", "cond", "lambda_min", "lambda_max"):
                    whole = getattr(result, name)[i]
                    assert np.array_equal(whole, getattr(alone, name), equal_nan=True), (name, i)
                    assert np.array_equal(whole, getattr(shuffled, name)[at], equal_nan=True), (name, i)
            good = [i for i in range(len(A)) if i not in (7, 12, 14, 17)]
            assert result.converged[good].all()
            assert result.status[7] == result.status[17] == Status.NONFINITE_INPUT
            assert result.status[14] == Status.NOT_POSITIVE
            assert result.status[12] == (Status.SINGULAR if inverse else Status.CONVERGED)


def test_the_error_is_as_small_as_promised():
    """Two clusters show every error of the reduction; reflectors known to working precision alone add a quarter."""
    A, root = problem(64, 1e4, "two_cluster", batch=(48,), seed=5)
    X = np.empty_like(A)
    small_roots(A, X, Fraction(-1, 2))
    error = np.linalg.norm(X - root(-0.5), 2, axis=(1, 2)) / np.linalg.norm(root(-0.5), 2, axis=(1, 2))
    assert np.median(error) <= 4 * 1e4 / 2 * EPS64
    assert error.max() <= 6 * 1e4 / 2 * EPS64


@pytest.mark.parametrize("n", (1, 2, 9))
def test_one_eigenvalue(n):
    """What depends on no condition number at all: the sum of poles errs by its own rounding."""
    c = np.geomspace(0.5, 1, 99)
    for b in range(1, 9):
        for a in (*range(-b, 0), *range(1, b + 1)):
            X = np.empty((len(c), n, n))
            small_roots(c[:, None, None] * np.eye(n), X, Fraction(a, b))
            assert (X == X * np.eye(n)).all()
            assert abs(np.diagonal(X, 0, 1, 2) * c[:, None] ** (-a / b) - 1).max() <= 8 * EPS64


def test_at_the_ends_of_the_range():
    """Subnormal and huge matrices beside others; a root beyond the largest number is a failure, as in every method."""
    for n in (2, 9):
        A, _ = eight(n, 10.0)
        A[0] = np.eye(n) * 2.0**-1030
        A[2] = np.eye(n) * 5e-324
        A[3] = np.ldexp(A[3], 1020)
        A[5] = np.ldexp(A[5], -1015)
        for s in (Fraction(-1), Fraction(-1, 2), Fraction(1, 3), Fraction(1)):
            mine, reference = (solve_power(A, s, method=m) for m in ("tridiagonal", "eigen"))
            assert (mine.status == reference.status).all()
            lost = [0, 2] if s == -1 else []
            assert np.flatnonzero(mine.status == Status.DIVERGED).tolist() == lost
            assert np.isnan(mine.x[lost]).all()
            size = abs(reference.x).max((1, 2))[:, None, None]
            ok = reference.converged
            assert (abs(mine.x - reference.x) <= 30 * EPS64 * size + 1e-323)[ok].all()
            assert (mine.residual[ok] <= 1e-13).all()
    small = np.stack([np.eye(3), 1e-39 * np.eye(3)]).astype("float32")
    assert solve(small, 1, method="tridiagonal").status.tolist() == [Status.CONVERGED, Status.DIVERGED]


def test_threads_change_nothing(monkeypatch):
    A, _ = eight(24)
    A = np.concatenate([A * (k + 1) for k in range(40)])[:317]
    monkeypatch.setenv("MATROOT_NUM_THREADS", "1")
    alone = solve(A, 4, method="tridiagonal")
    monkeypatch.setenv("MATROOT_NUM_THREADS", "3")
    together = solve(A, 4, method="tridiagonal")
    assert (alone.x == together.x).all()
    assert (alone.residual == together.residual).all()


def test_tasks_cover_the_batch():
    for B, n, cores, copied in [(1, 4, 2, False), (7, 64, 2, True), (1000, 16, 3, False), (99, 128, 4, True)]:
        parts = tasks(B, n, cores, copied)
        assert [i for part in parts for i in range(*part.indices(B))] == list(range(B))
        assert all(part.start % 8 == 0 for part in parts)
    assert len(tasks(8, 4, 2, False)) == 1  # nobody is woken for ten microseconds


@pytest.mark.parametrize("dtype", ["float32", "int16", "float64"])
def test_layouts_and_dtypes(dtype):
    A = np.round(1000 * gallery.spd(9, 1e2, batch=(4, 3), rng=1)[0] + 500 * np.eye(9)).astype(dtype)
    expected = solve(A.astype(float), 2, method="tridiagonal").x
    shifted = np.frombuffer(b" " + A.tobytes(), A.dtype, A.size, 1).reshape(A.shape)
    assert not shifted.flags.aligned
    swapped = A.astype(A.dtype.newbyteorder())
    for a in (A, np.asfortranarray(A), np.repeat(A, 2, axis=1)[:, ::2], A[::-1][::-1], shifted, swapped):
        before = a.copy()
        a.flags.writeable = False
        result = solve(a, 2, method="tridiagonal")
        assert (a == before).all()
        name = "float32" if dtype == "float32" else "float64"
        assert result.x.dtype == (a.dtype if a.dtype.kind == "f" else name)  # the order of bytes is that of a
        assert (result.x == expected.astype(result.x.dtype)).all() or dtype == "float32"
        assert distance(result.x, expected) <= 2 * EPS[name]
        assert result.compute_dtype == "float64"


def test_float32_is_rounded_before_it_is_judged():
    A, _ = problem(20, 1e3, batch=(3,), dtype="float32", seed=1)
    result = solve(A, 2, method="tridiagonal")
    X = result.x.astype(float)
    truth = np.linalg.norm(X @ X @ A - np.eye(20), axis=(1, 2)) / 20**0.5
    assert (truth > 1e-7).all()
    assert np.allclose(result.residual, truth, rtol=0.5)
    assert result.certificate == "probes"
    assert (abs(probes(20)) == 1).all()
    assert (probes(PROBES) == np.eye(8)).all()
    assert (probes(3, True) == np.eye(6, 8) * (np.arange(8) < 3)).all()


def test_ridge_and_other_rules():
    A, _ = eight(10, 1e8)
    A = np.concatenate([A, 0 * A[:1]])
    for rule in (1e-3, Ridge(relative=1e-2, absolute=1e-2), Shift(relative=1e-3)):
        mine, reference = (solve(A, 4, method=m, regularization=rule) for m in ("tridiagonal", "eigen"))
        assert (mine.status == reference.status).all()
        assert np.allclose(mine.ridge, reference.ridge, rtol=1e-9)
        assert np.allclose(mine.lambda_max, reference.lambda_max, rtol=1e-9)
        ok = reference.converged
        assert distance(mine.x[ok], reference.x[ok]) <= 1e-11
        assert np.allclose(mine.cond[ok], reference.cond[ok], rtol=1e-9)


def test_retries_reach_the_lanes():
    A, _ = eight(6, 1e3)
    A[2] = np.diag([1.0, 1, 1, 1, 1, -1e-5])
    result = solve(A, 2, method="tridiagonal", regularization=Ridge(relative=1e-6, retries=3))
    assert result.converged.all()
    assert np.isclose(result.ridge[2], 1e-4)
    assert np.allclose(np.delete(result.ridge, 2), 1e-6)


def test_beyond_the_last_class_eigen_takes_over():
    A, _ = eight(5, 1e2)
    A[3] = np.diag([1, 1, 1, 1, 1e-15])
    A[6] = np.diag([1, 1, 1, 1, 0.0])
    result, reference = solve(A, 2, method="tridiagonal"), solve(A, 2, method="eigen")
    assert (result.status == reference.status).all()
    assert (result.status[[3, 6]] == [Status.ILL_CONDITIONED, Status.SINGULAR]).all()
    assert np.isclose(result.cond[3], 1e15)
    assert (result.x[3] == reference.x[3]).all()


def test_the_kernel_and_the_ways_around_it_agree():
    """Half precisions and rules that need a spectrum go through `attempt`."""
    A, _ = gallery.spd(9, 1e3, batch=(3,), rng=2)
    half = A.astype(np.float16)
    assert distance(*(solve(half, 2, method=m).x.astype(float) for m in ("tridiagonal", "eigen"))) <= 2 * EPS["float16"]
    Z, _ = gallery.spd(9, 1e3, batch=(3,), dtype="complex128", rng=2)
    shifted = (solve(Z, 2, method=m, regularization=Shift(relative=1e-2)).x for m in ("tridiagonal", "eigen"))
    assert distance(*shifted) <= 1e-13


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("n", (1, 3, 8, 9, 20))
def test_hermitian_matrices(n, dtype):
    """They are real ones of twice the size, whose root has the same form."""
    cond = 1e3 if n > 1 else 1.0
    A, root = gallery.spd(n, cond, batch=(11,), dtype="complex128", rng=2)
    A = A.astype(dtype)
    A[3] *= 64
    for s in (Fraction(-1, 3), Fraction(1, 2)):
        result, reference = (solve_power(A, s, method=m) for m in ("tridiagonal", "eigen"))
        X = result.x
        assert result.converged.all()
        assert X.dtype == dtype
        assert result.compute_dtype == "complex128"
        assert (X == X.conj().swapaxes(1, 2)).all()
        others = np.arange(11) != 3
        assert distance(X[others], root(s)[others]) <= (5 * cond + 20 * n**0.5) * EPS[dtype]
        assert distance(X, reference.x) <= (5e3 + 100) * EPS64 + 2 * EPS[dtype]
        for name in ("cond", "lambda_min", "lambda_max"):
            assert np.allclose(getattr(result, name), getattr(reference, name), rtol=1e-9)
        wide, exact = X.astype("complex128"), A.astype("complex128")
        P = np.linalg.matrix_power(wide, s.denominator)
        gap = P @ exact - np.eye(n) if s < 0 else P - exact
        truth = np.linalg.norm(gap, axis=(1, 2)) / (n**0.5 if s < 0 else np.linalg.norm(exact, axis=(1, 2)))
        assert (result.residual <= 10 * truth + 10 * EPS64).all()
        assert (truth <= 10 * result.residual + 10 * EPS64).all()


def test_a_bad_hermitian_matrix_beside_others():
    A, _ = gallery.spd(5, 1e2, batch=(9,), dtype="complex128", rng=2)
    good = solve(A, 2, method="tridiagonal").x
    A[1], A[4] = np.nan, -A[4]
    A[6, 2, 3] = np.inf
    result = solve(A, 2, method="tridiagonal")
    assert np.flatnonzero(~result.converged).tolist() == [1, 4, 6]
    assert (result.x[result.converged] == good[result.converged]).all()
    A[0, 1, 1] += 1e-3j
    with pytest.raises(ValueError, match=r"not Hermitian: .*gen"):
        solve(A[0], 2, method="tridiagonal")
    result = solve(A, 2, method="tridiagonal")
    assert result.status[0] == Status.NOT_SYMMETRIC and np.isnan(result.x[0]).all()
    assert (result.x[result.converged] == good[result.converged]).all() and result.converged.sum() == 5


def test_asymmetry_is_refused_and_rounding_mended():
    A, _ = eight(6)
    B = A.copy()
    B[4, 0, 1] += 1e-3
    with pytest.raises(ValueError, match=r"not symmetric: max\|A - A\^H\| is .*gen"):
        solve(B[4], 2, method="tridiagonal")
    B = A.copy()
    B[4, 0, 1] += 1e-12
    mean = (B + B.swapaxes(1, 2)) / 2
    assert (solve(B, 2, method="tridiagonal").x == solve(mean, 2, method="tridiagonal").x).all()


def test_refusals():
    for s in (Fraction(-3, 2), Fraction(2), Fraction(0), 0.3, -0.3):
        with pytest.raises(ValueError, match="tridiagonal serves exponents"):
            solve_power(np.eye(3), s, method="tridiagonal")
    with pytest.raises(ValueError, match="gen"):
        solve(np.eye(3), 2, method="tridiagonal", assume_a="gen")
    assert solve(np.empty((0, 4, 4)), 2, method=Tridiagonal()).x.shape == (0, 4, 4)
    assert solve(np.empty((2, 0, 0)), 2, method=Tridiagonal()).x.shape == (2, 0, 0)


def test_the_cache_on_disk_knows_every_source(tmp_path, monkeypatch):
    """numba looks at one file, and at what a function closes over: the kernel does so over a digest of them all."""
    digest = kernel.digest()
    assert digest in [cell.cell_contents for cell in kernel.roots.py_func.__closure__]
    folder = Path(kernel.__file__).parent
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "copy" / "kernel.py"))
    assert kernel.digest() == digest
    for name in ("kernel", "lanes", "layout", "memory", "reduction", "stage"):
        source = tmp_path / "copy" / f"{name}.py"
        source.write_text(source.read_text() + "# changed\n")
        before, digest = digest, kernel.digest()
        assert digest != before


def test_everything_is_compiled_once():
    A, _ = eight(3)
    A.flags.writeable = False
    for s in (Fraction(-1, 2), Fraction(1, 3), Fraction(1)):
        for a in (A, A.astype("float32"), A + 0j):
            solve_power(a, s, method="tridiagonal", regularization=1e-6)
    assert len(kernel.roots.signatures) == 1

"""Large real matrices on one thread, by strips and tiles, beside LAPACK and BLAS."""

import numpy as np
import pytest
from table import EPS

from matroot import inv_sqrtm, one_blas_thread
from matroot.backends.cpu import kernels, products
from matroot.backends.cpu.cpu import CPU
from matroot.backends.cpu.large import kernel
from matroot.backends.cpu.large.blas import routines
from matroot.methods.tridiagonal_form import padded

KINDS = ("float32", "float64")
#: Around panels of 16 and 32, and registers of 8 and 16.
SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 18, 31, 32, 33, 34, 40, 65, 130)


def symmetric(n, kind, seed=0):
    A = np.random.default_rng(seed).standard_normal((n, n)).astype(kind)
    return (A + A.T) / 2


def definite(n, kind):
    A = symmetric(n, kind)
    A = A @ A + np.eye(n, dtype=kind)
    return (A + A.T) / 2


def forms(S):
    """Reduce S to d, e, tau and reflectors, by tiles and by LAPACK."""
    n, found = len(S), []
    for by_blas in (False, True):
        A, d, e, tau, halves = padded(n, S.dtype), *np.empty((3, n)), np.empty(2)
        A[...] = np.nan  # nothing is read that has not been written
        if by_blas:
            with one_blas_thread():
                kernel.reduced_by_blas(routines("ds"[S.itemsize == 4]), S, A, d, e, tau, halves, 0.0)
        else:
            assert kernel.reduced(S, A, d, e, tau, halves, 0.0)[0]
        found.append((A, d, e, tau, halves.prod()))
    return found


def basis(A, tau):
    """Multiply the reflectors, in float64."""
    n = len(tau)
    Q = np.eye(n)
    for i in range(n - 2, -1, -1):
        v = np.zeros(n)
        v[i + 1], v[i + 2 :] = 1, A[i, i + 2 : n]
        Q -= tau[i] * np.outer(v, v @ Q)
    return Q


def tridiagonal(d, e):
    return np.diag(d) + np.diag(e[:-1], 1) + np.diag(e[:-1], -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_the_form_is_that_of_the_matrix(n, kind):
    """Q T Q^T = S, and Q is orthogonal, to rounding of the panels and of n reflectors; e has the signs of LAPACK's."""
    S = symmetric(n, kind)
    (A, d, e, tau, scale), (_, d2, e2, *_) = forms(S)
    Q, bar = basis(A, tau), 8 * n**0.5 * EPS[kind]
    assert np.linalg.norm(Q.T @ Q - np.eye(n), 2) <= bar
    assert np.linalg.norm(Q @ tridiagonal(d, e) @ Q.T - scale * S, 2) <= bar * np.linalg.norm(scale * S, 2)
    if n <= 9:  # later entries depend on rounding
        np.testing.assert_allclose((d, e), (d2, e2), atol=n * 100 * EPS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocks", [(1, 1, 1), (5, 1, 30), (16, 16, 20), (40, 2, 1, 1, 9)])
def test_nothing_is_reflected_where_there_is_nothing(blocks, kind):
    """Blocks on the diagonal stay apart to the last bit, also within a panel and a register."""
    n, ends = sum(blocks), np.cumsum(blocks)
    S = np.zeros((n, n), kind)
    for b, end in zip(blocks, ends, strict=True):
        S[end - b : end, end - b : end] = symmetric(b, kind, end)
    A, d, e, tau, scale = forms(S)[0]
    assert (e[ends - 1] == 0).all()
    T = basis(A, tau) @ tridiagonal(d, e) @ basis(A, tau).T
    assert np.linalg.norm(T - scale * S, 2) <= 8 * n**0.5 * EPS[kind] * np.linalg.norm(scale * S, 2)
    assert (T[S == 0] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e-10, 1e-18, 1e-22, 1e-37, 1e-120, 1e-138, 1e-142, 1e-155, 1e-162, 1e-300])
def test_rows_whose_squares_are_lost(size, kind):
    """Reflectors stay orthogonal where squares of a block are denormal: it is 0 to the rest of the matrix before."""
    S = symmetric(40, kind)
    S[:20, 20:], S[20:, :20] = 0, 0
    S[:20, :20] *= S.dtype.type(size)
    A, d, e, tau, scale = forms(S)[0]
    Q, bar = basis(A, tau), 8 * 40**0.5 * EPS[kind]
    assert np.linalg.norm(Q.T @ Q - np.eye(40), 2) <= bar
    assert np.linalg.norm(Q @ tridiagonal(d, e) @ Q.T - scale * S, 2) <= bar * np.linalg.norm(scale * S, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES[1:])
def test_the_way_back_is_that_of_blas(n, kind):
    A, d, e, tau, _ = forms(definite(n, "float64"))[0]
    F = kernel.poles(d, e, np.geomspace(1e-3, 1.0, 5), np.ones(5), 1.0, 1.0, 0, False)
    T = tridiagonal(d, e)
    exact = basis(A, tau) @ sum(np.linalg.inv(T + b * np.eye(n)) for b in np.geomspace(1e-3, 1.0, 5)) @ basis(A, tau).T
    for by_blas in (False, True):
        X = padded(n, kind)
        X[...] = np.nan
        X[:n, :n] = np.triu(A[:n, :n])
        if by_blas:
            with one_blas_thread():
                kernel.root_by_blas(routines("ds"[kind == "float32"]), X, tau, F, 16)
        else:
            given, Y = X.copy(), padded(n, kind)
            Y[...] = np.nan
            kernel.root(X, X, tau, F)
            kernel.root(given, Y, tau, F)
            assert (np.triu(Y[:n, :n]) == np.triu(X[:n, :n])).all()
        gap = np.triu(X[:n, :n].astype(float) - exact)
        assert abs(gap).max() <= 8 * n**0.5 * (EPS[kind] + np.linalg.cond(T) * EPS["float64"]) * np.linalg.norm(
            exact, 2
        )


@pytest.mark.parametrize("kind", KINDS)
def test_several_threads_of_blas_take_blas(kind, monkeypatch):
    by_blas, found = [], []
    for name in ("reduced_by_blas", "root_by_blas"):
        real = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, lambda *a, real=real, name=name: by_blas.append(name) or real(*a))
    for threads in ("1", "2"):
        assert not by_blas
        monkeypatch.setenv("MATROOT_BLAS_THREADS", threads)
        found.append((inv_sqrtm(definite(130, kind)), inv_sqrtm(definite(516, kind))))
    assert by_blas == ["reduced_by_blas", "root_by_blas"]  # of the larger one
    one, two = found
    assert (one[0] == two[0]).all()
    assert abs(one[1] - two[1]).max() <= 516 * EPS[kind] * abs(one[1]).max()


@pytest.fixture
def in_use(monkeypatch):
    monkeypatch.setattr(kernels, "_decided", {"use": True})


@pytest.mark.parametrize("shape", [(64, 64), (2, 100, 72), (1, 520, 264), (3, 8, 136), (300, 512)])
def test_products_of_halves_and_of_all(shape, in_use):
    """Across the blocks of 256 rows and terms; sums of n terms round by n^(1/2) units at most, a few times."""
    A = np.random.default_rng(0).standard_normal(shape)
    G = products.gram(A)
    n, bar = shape[-1], 8 * EPS["float64"]
    size = np.linalg.norm(A, axis=(-2, -1)).max()
    assert abs(G - A.swapaxes(-1, -2) @ A).max() <= bar * shape[-2] ** 0.5 * size**2 / n
    assert (G == G.swapaxes(-1, -2)).all()
    assert (CPU().rank_k(A.swapaxes(-1, -2)) == G).all()
    H = products.commuting(G, G)
    assert abs(H - G @ G).max() <= bar * n**0.5 * np.linalg.norm(G, axis=(-2, -1)).max() ** 2 / n**0.5
    assert (H == H.swapaxes(-1, -2)).all()
    C = np.full(shape, np.nan)
    if products.multiplied(A, G, C):
        assert abs(C - A @ G).max() <= bar * n**0.5 * size * np.linalg.norm(G, axis=(-2, -1)).max() / n**0.5
    assert np.isnan(C).all() == (n >= products.LONG or shape[-2] % products.WIDE > 0)


def test_products_that_tiles_do_not_serve(in_use, monkeypatch):
    A = np.ones((2, 64, 64))
    assert products.gram(A) is not None
    for other in (A[:, :, :63], A[:, :56, :56], A.astype("float32"), A.astype(complex), A[:, :, ::-1]):
        assert products.gram(other) is None
        assert (CPU().rank_k(other.swapaxes(-1, -2)) == other.shape[1]).all()
    monkeypatch.setenv("MATROOT_BLAS_THREADS", "2")
    assert products.gram(A) is None
    monkeypatch.delenv("MATROOT_BLAS_THREADS")
    monkeypatch.setattr(kernels, "_decided", {"use": False})
    assert products.gram(A) is None

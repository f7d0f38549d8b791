"""Derivatives of roots through the tridiagonal form, against those in the eigenbasis."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS

from matroot import Ridge, frechet_derivative, use_kernels
from matroot.autodiff.divided import first_differences
from matroot.autodiff.forms import Power, evaluate
from matroot.autodiff.spectral import Spectral
from matroot.backends import cpu_backend
from matroot.backends.cpu.derivative.poles import DOUBLE, SINGLE, derivative_table
from matroot.backends.cpu.tridiagonal.poles import CLASSES
from matroot.methods.tridiagonal_derivative import derivatives, lanes_are_faster, serves

EXPONENTS = [Fraction(-1, 2), Fraction(1, 2), Fraction(-1, 4), Fraction(2, 3), Fraction(-1), Fraction(1, 8)]


def positive(n, batch, seed=0):
    X = np.random.default_rng(seed).standard_normal((batch, 2 * n + 2, n))
    return X.swapaxes(1, 2) @ X


def in_eigenbasis(A, E, s, rule, adjoint=True, ridge=None):
    A = (A + A.swapaxes(1, 2)).astype(np.float64) / 2
    at = Spectral(A, s, rule, np.ones(len(A)), ridge, 1e-14, cpu_backend())
    return (at.adjoint if adjoint else at.derivative)(E.astype(np.float64))


def distance(X, Y):
    return np.linalg.norm(X - Y, axis=(-1, -2)) / np.linalg.norm(Y, axis=(-1, -2))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("s", EXPONENTS, ids=str)
def test_poles_have_the_divided_differences(s, single):
    poles, weights, counts = derivative_table(s, SINGLE if single else DOUBLE)
    for row in (0, 2, 9, CLASSES - 1):
        w = np.geomspace(0.25 / 4.0**row, 1, 40)
        b, c = poles[row, : counts[row]], weights[row, : counts[row]]
        found = (c / ((w[:, None, None] + b) * (w[:, None] + b))).sum(-1)
        assert abs(found / first_differences(w, float(s)) - 1).max() <= (1e-7 if single else 60 * EPS["float64"])
        assert (c > 0).all() if s > 0 else (c < 0).all()


@pytest.mark.parametrize("n", [1, 2, 7, 17, 33, 64, 65, 130, 192, 233])
def test_against_the_eigenbasis(n):
    """In lanes and by LAPACK, with a last group that is not full, and directions that are not symmetric."""
    batch = 11 if n < 65 else 1
    assert lanes_are_faster(batch, n) == (n < 65)
    A, E = positive(n, batch), np.random.default_rng(1).standard_normal((batch, n, n))
    for s in EXPONENTS if n in (7, 65) else EXPONENTS[:2]:
        for rule in (None, Ridge(0.01), Ridge(absolute=0.5), Ridge(0.02, 0.1)):
            for adjoint in (True, False):
                expected = in_eigenbasis(A, E, s, rule, adjoint)
                for dtype, bound in (("float64", 1e-12), ("float32", 1e-5)):
                    assert serves(s, rule, A, E)
                    L, served = derivatives(A.astype(dtype), E.astype(dtype), s, rule, None, adjoint)
                    assert served.all() and L.dtype == dtype and (L == L.swapaxes(1, 2)).all()
                    assert distance(L, expected).max() <= bound, (s, rule, adjoint, dtype)


@pytest.mark.parametrize("n", [20, 90, 200])
def test_equal_eigenvalues(n):
    E = np.random.default_rng(0).standard_normal((1, n, n))
    E = E + E.swapaxes(1, 2)
    for dtype, bound in (("float64", 40), ("float32", 20)):
        for s in EXPONENTS:
            L, served = derivatives(4 * np.eye(n, dtype=dtype)[None], E.astype(dtype), s, None, None, True)
            expected = float(s) * 4.0 ** (float(s) - 1) * E
            assert served.all() and distance(L, expected).max() <= bound * EPS[dtype]
    # two clusters, one of which is exact
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((n, n)))[0]
    A = np.eye(n)[None] + 3 * (Q[:, :5] @ Q[:, :5].T)
    L, served = derivatives(A, E, Fraction(-1, 2), None, None, True)
    assert served.all() and distance(L, in_eigenbasis(A, E, Fraction(-1, 2), None)).max() <= 1e-13


@pytest.mark.parametrize("n", [24, 90, 250])
def test_float32_is_as_accurate_as_its_input(n):
    """The rounding of G alone moves the gradient by up to u max|Gamma| |G|; products add to that."""
    u, s = 2.0**-24, Fraction(-1, 2)
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    A = ((Q * np.geomspace(1e-6, 1, n)) @ Q.T)[None].astype("f4")
    A = (A + A.swapaxes(1, 2)) / 2
    for hidden in (False, True):
        G = np.random.default_rng(1).standard_normal((1, n, n))
        if hidden:  # nothing in the directions that the derivative magnifies
            G = Q[:, n // 2 :] @ (Q[:, n // 2 :].T @ G @ Q[:, n // 2 :]) @ Q[:, n // 2 :].T
        G = G.astype("f4")
        L, _ = derivatives(A, G, s, None, None, True)
        w = np.linalg.eigvalsh(A[0].astype("f8"))
        most = 0.5 * abs(w[0]) ** -1.5
        assert np.linalg.norm(L - in_eigenbasis(A, G, s, None)) <= 1.2 * n**0.5 * u * most * np.linalg.norm(G)


@pytest.mark.parametrize("n", [9, 70, 195])
@pytest.mark.parametrize(
    ("dtype", "size"), [("float64", 1e140), ("float64", 1e-140), ("float32", 1e16), ("float32", 1e-16)]
)
def test_scales(n, dtype, size):
    A, E = positive(n, 1), positive(n, 1, 5)
    for s in (Fraction(-1, 2), Fraction(-1)):
        expected, _ = derivatives(A, E, s, Ridge(0.01, 1.0), None, True)
        L, served = derivatives((A * size).astype(dtype), (E * size).astype(dtype), s, Ridge(0.01, size), None, True)
        assert served.all() and distance(L / size ** float(s), expected).max() <= 1e6 * EPS[dtype]


@pytest.mark.parametrize("n", [5, 80])
def test_what_is_not_served_is_decomposed(n):
    A, E = positive(n, 6), positive(n, 6, 3)
    A[1] = -A[1]
    A[2, 0, 0] = np.nan
    E[3, 1, 1] = np.inf
    A[4] = np.eye(n)  # under a ridge: its largest eigenvalue is multiple
    shift = np.array([0.5 * np.linalg.eigvalsh(A[0])[-1], 1.0, 1.0, 1.0, 0.5, np.nan])
    for form in ("adjoint", "derivative"):
        value, failed = evaluate(form, Power(Fraction(-1, 2), Ridge(0.5), "pos", "float64"), A, (E,), shift)
        assert failed.tolist() == [False, True, True, True, False, True]
        assert (np.isnan(value).all((1, 2)) == failed).all()
        good = [0, 4]
        expected = in_eigenbasis(A[good], E[good], Fraction(-1, 2), Ridge(0.5), form == "adjoint", shift[good])
        assert distance(value[good], expected).max() <= 1e-12


@pytest.mark.parametrize("gap", [1e-10, 1e-8, 1e-6, 1e-4])
@pytest.mark.parametrize("n", [3, 9, 20, 70])
def test_a_ridge_moves_with_the_larger_of_two_close_eigenvalues(n, gap):
    """The eigenvector, and so the gradient, is known up to eps over the gap."""
    Q = np.linalg.qr(np.random.default_rng(n).standard_normal((8, n, n)))[0]
    w = np.r_[np.linspace(0.1, 0.5, n - 2), 1 - gap, 1.0]
    A, E = (Q * w) @ Q.swapaxes(1, 2), np.random.default_rng(1).standard_normal((8, n, n))
    for adjoint in (True, False):
        expected = in_eigenbasis(A, E, Fraction(-1), Ridge(0.01), adjoint)
        L, served = derivatives(A, E, Fraction(-1), Ridge(0.01), None, adjoint)
        assert served.all() and distance(L, expected).max() <= 64 * EPS["float64"] / gap


def test_a_retried_ridge_moves_as_it_was_raised():
    A, E = positive(12, 2), positive(12, 2, 1)
    top = np.linalg.eigvalsh(A)[:, -1]
    for n in (1, 100):
        shift = 1e-3 * n * top
        L, served = derivatives(A, E, Fraction(-1, 2), Ridge(1e-3), shift, True)
        assert served.all()
        assert distance(L, in_eigenbasis(A, E, Fraction(-1, 2), Ridge(1e-3), True, shift)).max() <= 1e-12


def test_without_a_compiler(monkeypatch):
    A, E = positive(6, 2), positive(6, 2, 1)
    with_it = frechet_derivative(A, E, 2)
    monkeypatch.setattr("matroot.methods.tridiagonal_derivative.compiled", lambda name: None)
    assert not derivatives(A, E, Fraction(-1, 2), None, None, True)[1].any()
    assert distance(frechet_derivative(A, E, 2), with_it).max() <= 1e-12


@pytest.mark.parametrize("n", [5, 17, 70])
@pytest.mark.parametrize("size", [0.0, 5e-324, 1e-98])
def test_matrices_that_are_nothing_beside_the_ridge(n, size):
    """The derivative of A = 0 was NaN under both kinds of ridge, and that of the smallest number never came."""
    use_kernels()
    E = np.random.default_rng(0).standard_normal((n, n))
    E = E + E.T
    A, mean = np.eye(n), np.trace(E) / n  # over the eigenvectors of the largest eigenvalue
    if size == 1e-98:
        A, mean = A - 1 / n, (np.trace(E) - E.mean() * n) / (n - 1)
    found = frechet_derivative(np.stack([size * A] * 9), E, 2, regularization=Ridge(relative=1e-2, absolute=0.25))
    exact = -4 * (E + 1e-2 * mean * np.eye(n))
    assert np.allclose(found, exact, rtol=0, atol=40 * EPS["float64"] * np.linalg.norm(exact))

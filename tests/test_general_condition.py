"""The condition number of the power of a general matrix."""

from fractions import Fraction

import numpy as np
import pytest
from test_schur_newton import HOPELESS, distance

from matroot.backends.cpu import triangular as tri
from matroot.gallery import general, spd
from matroot.methods.conditioning import cond_from_eigenvalues
from matroot.methods.frechet import DifferentiablePower, cond_pth_root_general
from matroot.methods.schur_newton import schur_newton


@pytest.mark.parametrize("n", [5, 48, 100])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_condition_number_is_reported(n, dtype):
    A, _ = general(n, 1e4, rng=n, dtype=dtype)
    exact = np.linalg.cond(A)
    assert 0.9 * exact <= schur_newton(A, Fraction(1, 3)).cond <= 1.0001 * exact


def kronecker_condition(A, s):
    """||K||_2 ||A||_F / ||A^s||_F with K the matrix of E -> L(A, E), from A^s of [[A, E], [0, A]]."""
    n = len(A)
    columns = []
    for k in range(n * n):
        E = np.zeros(n * n)
        E[k] = 1
        block = np.block([[A, E.reshape(n, n)], [np.zeros((n, n)), A]])
        F = schur_newton(block, s).x
        columns.append(F[:n, n:].ravel())
    return np.linalg.norm(np.array(columns), 2) * np.linalg.norm(A) / np.linalg.norm(F[:n, :n])


@pytest.mark.parametrize("s", [Fraction(-1, 3), Fraction(1, 2), Fraction(1, 12), Fraction(-1), 0.3], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_condition_estimate_against_kronecker_form(n, dtype, s):
    A, _ = general(n, 1e2, rng=n, dtype=dtype)
    exact = kronecker_condition(A, s)
    assert 0.95 * exact <= cond_pth_root_general(A, s) <= 1.01 * exact


@pytest.mark.parametrize("p", [1, 2, 3, 12])
@pytest.mark.parametrize("n", [3, 20])
def test_condition_estimate_against_divided_differences(n, p):
    A, _ = spd(n, 1e4, rng=0)
    exact = float(cond_from_eigenvalues(np.linalg.eigvalsh(A), p))
    assert 0.9 * exact <= cond_pth_root_general(A, Fraction(-1, p)) <= 1.01 * exact


def test_derivative_against_a_finite_difference():
    rng = np.random.default_rng(0)
    R = np.asfortranarray(np.triu(rng.standard_normal((60, 60)) / 8) + 2 * np.eye(60))
    E = np.triu(rng.standard_normal((60, 60)))
    h = 1e-6
    difference = schur_newton(R + h * E, Fraction(-1, 3)).x - schur_newton(R - h * E, Fraction(-1, 3)).x
    L = DifferentiablePower(R.copy(order="F"), -1 / 3).derivative(E)
    assert distance(L, difference / (2 * h)) <= 1e-3
    assert not np.tril(L, -1).any()
    assert tri.cuts(R)[-1] == 60


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_condition_does_not_depend_on_scale(scale):
    A, _ = general(8, 1e2, rng=0)
    expected = cond_pth_root_general(A, Fraction(-1, 3))
    assert cond_pth_root_general(A * scale, Fraction(-1, 3)) == pytest.approx(expected, rel=1e-6)


def test_condition_is_infinite_without_a_root():
    for A in HOPELESS.values():
        assert cond_pth_root_general(A, Fraction(-1, 3)) == np.inf
    assert cond_pth_root_general(np.zeros((0, 0)), Fraction(1, 2)) == 0
    assert cond_pth_root_general(np.diag([1.0, 1e-320]), Fraction(-1)) == np.inf

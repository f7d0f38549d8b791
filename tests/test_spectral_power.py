"""Powers of the singular values against exact ones."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from table import EPS
from test_rectangular import distance, rectangular

from matroot import Status, polar, spectral_power

POWERS = (-1, Fraction(-1, 2), 0, Fraction(1, 3), 0.5, 1, Fraction(3, 2), 3)


def exact(A, s):
    """U S^s V^H of the rounded A in 50 digits."""
    with mpmath.workdps(50):
        U, S, V = (mpmath.svd_c if np.iscomplexobj(A) else mpmath.svd_r)(mpmath.matrix(A.tolist()))
        e = mpmath.mpf(Fraction(s).numerator) / Fraction(s).denominator
        X = U * mpmath.diag([x**e for x in S]) * V
        return np.array(X.tolist(), dtype=complex if np.iscomplexobj(A) else float)


@pytest.mark.parametrize("method", ["products", "svd"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("shape", [(4, 4), (9, 5), (5, 9)], ids=str)
def test_against_50_digits(shape, dtype, method):
    eps, out = EPS["float64"], EPS[dtype]
    for cond in (2, 1e2, 1e4):
        A, _ = rectangular(*shape, cond, dtype, rng=1)
        U = exact(A, 0)
        for found, X in [(polar(A, method=method).u, U)] + [
            (spectral_power(A, s, method=method).x, exact(A, s)) for s in POWERS
        ]:
            gram = cond**2 if method == "products" else cond
            assert distance(found, X) <= 4 * out + 200 * eps * gram
        H = np.linalg.matrix_power(A.astype(np.result_type(A, np.float64)).conj().mT @ U, 1)
        assert distance(polar(A, method=method).h, H) <= 4 * out + 200 * eps * cond


@pytest.mark.parametrize("s", POWERS, ids=str)
def test_powers(s):
    """The accuracy that the input allows, by whatever way "auto" takes."""
    for dtype in ("float32", "float64", "complex64"):
        for cond in (1.5, 30, 1e4):
            A, power = rectangular(30, 12, cond, dtype, batch=(3,))
            result = spectral_power(A, s)
            assert result.x.dtype == A.dtype and result.exponent == s
            input_error = 1 if s > 1 else cond ** (1 - max(s, 0))
            for i in range(3):
                assert distance(result.x[i], power(s)[i]) <= 60 * EPS[dtype] * input_error
            assert result.converged.all()
    assert (spectral_power(A, 0).x == polar(A).u).all()


@pytest.mark.parametrize("s", [Fraction(-1, 4), Fraction(-3, 4), Fraction(-1, 3), Fraction(-7, 8)], ids=str)
@pytest.mark.parametrize("n", [12, 40])
def test_inverse_powers_of_hard_matrices(s, n):
    """Rounding grows by cond in the equation, whose factors balance, and by cond^2|s| where X^H X has it alone."""
    for cond in (1e3, 1e9, 1e12):
        A, power = rectangular(90, n, cond)
        result = spectral_power(A, s)
        assert distance(result.x, power(s)) <= 1e-14 * cond
        assert result.residual <= 2e-14 * cond ** max(1, 2 * abs(s))
        assert result.status == (Status.CONVERGED if result.residual <= 0.5 else Status.ILL_CONDITIONED)

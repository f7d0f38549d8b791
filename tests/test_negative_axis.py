"""Eigenvalues of general matrices beside the negative real axis."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from test_schur_newton import EPS, HOPELESS, distance

from matroot._solve import solve_power
from matroot._status import Status
from matroot.methods import schur_plan as plan
from matroot.methods.schur_newton import schur_newton


@pytest.mark.parametrize("theta", [1e-2, 1e-6, 1e-12])
def test_beside_the_negative_axis(theta):
    c, s = np.cos(np.pi - theta), np.sin(theta)  # sin(pi - theta) loses digits
    X = schur_newton(np.array([[c, -s], [s, c]]), Fraction(1, 3)).x
    angle = (np.pi - theta) / 3
    assert distance(X, [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) <= 1e-14


def test_integer_powers_need_no_branch():
    A = HOPELESS["negative, hidden"]
    for a in (1, 2, -1, -3):
        assert distance(schur_newton(A, Fraction(a)).x, np.linalg.matrix_power(A, a)) <= 1e-11
    assert schur_newton(HOPELESS["singular"], Fraction(-1)).status == Status.NO_PRINCIPAL_ROOT
    assert schur_newton(HOPELESS["jordan at 0"], Fraction(2)).status == Status.CONVERGED


@pytest.mark.parametrize("s", [-3, -1, 1, 2, 5, 1.5, -1 / 3])
def test_power_of_an_eigenvalue_keeps_a_small_imaginary_part(s):
    """Beside either half of the real axis; it is a few eps off relative to itself where the power is nearly real."""
    for near in (1, -1):
        for angle in 10.0 ** -np.arange(1, 17):
            lam = 3.0 * np.array([near + 1j * angle, near - 1j * angle])
            with mpmath.workdps(50):
                exact = [mpmath.mpc(z) ** s for z in lam]
            found = plan.principal_power(lam, float(s))
            for x, z in zip(found, exact, strict=True):
                assert abs(x - complex(z)) <= 16 * EPS * abs(complex(z))
                if near == 1 or float(s).is_integer():
                    assert abs(x.imag - float(z.imag)) <= 16 * EPS * abs(float(z.imag))


@pytest.mark.parametrize("p", [-2, -1, 2, 3])
def test_whole_powers_do_not_jump_at_the_negative_axis(p):
    """Of a block that is far from normal for the distance of its eigenvalues, 1e-9, from the axis."""
    A = np.array([[-25.000000193540473, 8.4401108324527740e-08], [-4.4383341446518898e-07, -24.999999806459527]])
    with mpmath.workdps(50):
        exact = np.array((mpmath.matrix(A.tolist()) ** p).tolist(), dtype=float)
    result = solve_power(A, p, assume_a="gen")
    assert distance(result.x, exact) <= 12 * abs(p) * EPS and result.status == Status.CONVERGED
    assert result.residual <= 12 * abs(p) * EPS

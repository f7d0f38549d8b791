"""What solve says of powers of general matrices: near the negative axis, where they jump, and in float32."""

import re
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy.linalg import block_diag

from matroot import cond_pth_root, gallery, solve
from matroot._solve import solve_power
from matroot._status import Status
from matroot.methods.frechet import cond_pth_root_general

U64, U32 = 2.0**-53, 2.0**-24


def distance(X, Y):
    return np.linalg.norm(X - Y) / np.linalg.norm(Y)


def exact_power(A, s):
    wide = A.astype(complex) if np.iscomplexobj(A) else A.astype(float)
    with mpmath.workdps(60):
        lam, V = mpmath.eig(mpmath.matrix(wide.tolist()))
        s = mpmath.mpf(s.numerator) / s.denominator
        X = V * mpmath.diag([mpmath.exp(s * mpmath.log(x)) for x in lam]) * V**-1
        X = np.array(X.tolist(), dtype=complex)
    return X if np.iscomplexobj(A) else X.real


def beside_the_axis(angle, dtype=np.float64):
    """Eigenvalues at pi -+ angle, 2 and 0.5, rotated."""
    c, s = -np.cos(angle), np.sin(angle)
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    return (Q @ block_diag([[c, s], [-s, c]], 2.0, 0.5) @ Q.T).astype(dtype)


@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(-1, 3), Fraction(1, 8)], ids=str)
@pytest.mark.parametrize(("dtype", "u"), [(np.float64, U64), (np.float32, U32)])
def test_the_distance_to_the_axis_is_in_bits_lost_and_status(dtype, u, s):
    """A perturbation u moves A^s by some u / angle: below two digits that is no CONVERGED."""
    for k in range(1, 17):
        A = beside_the_axis(10.0**-k, dtype)
        result = solve_power(A, s, assume_a="gen")
        if result.status == Status.NO_PRINCIPAL_ROOT:
            assert 10.0**-k < 32 * u
            continue
        cond = cond_pth_root_general(A, s)
        assert np.log2(cond) - 1 <= float(result.bits_lost)
        assert (result.status == Status.CONVERGED) == (u * 2.0 ** float(result.bits_lost) <= 1e-2)
        if result.status == Status.CONVERGED:
            assert distance(result.x, exact_power(A, s)) <= 32 * U64 * (cond + 1) + (u if dtype is np.float32 else 0)
        if u * cond > 1e-1:
            assert result.status == Status.ILL_CONDITIONED


@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(-1, 3), Fraction(1, 8)], ids=str)
def test_one_complex_eigenvalue_by_the_axis_has_no_conjugate_to_be_coupled_with(s):
    """The derivative sees nothing; only a perturbation that moves it across the axis matters."""
    for angle, status in ((1e-3, Status.CONVERGED), (1e-8, Status.CONVERGED), (1e-16, Status.ILL_CONDITIONED)):
        lam = -np.cos(angle) + 1j * np.sin(angle)
        A = np.array([[lam, 2.0], [0, 1.0]])
        result = solve_power(A, s, assume_a="gen")
        assert result.status == status
        if status == Status.CONVERGED:
            assert distance(result.x, exact_power(A, s)) <= 1e-14
    single = solve_power(A.astype(np.complex64), s, assume_a="gen")
    assert single.status == Status.ILL_CONDITIONED


GENERAL = {
    "frank": gallery.frank(12),
    "transition": gallery.rating_transitions(),
    "jordan": gallery.jordan(5, 0.5)[0],
    "random": gallery.general(20, 1e4, rng=0)[0],
    "complex": gallery.general(20, 1e4, rng=0, dtype=complex)[0],
    "positive": gallery.spd(12, 1e8, rng=0)[0],
    "beside the axis": beside_the_axis(1e-5),
}


@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(-1, 3), Fraction(-1), Fraction(1, 12)], ids=str)
@pytest.mark.parametrize("name", GENERAL)
def test_bits_lost_are_those_of_the_map(name, s):
    A = GENERAL[name]
    result = solve_power(A, s, assume_a="gen")
    bits = np.log2(max(cond_pth_root_general(A, s), 1))
    assert bits - 1 <= float(result.bits_lost) <= bits + 4
    if result.status == Status.CONVERGED:
        digits = int(re.search(r"about (\d+) digit", result.message).group(1))
        left = np.log10(2) * (53 - float(result.bits_lost))
        assert left - 2 <= digits <= left + 0.5  # less where the residual is larger


@pytest.mark.parametrize("rtol", [1e-2, 1e-3])
def test_float32_keeps_rtol(rtol):
    """Float32 arithmetic near the axis loses what kappa does not show."""
    for angle in np.geomspace(1e-7, 1e-1, 13):
        A = beside_the_axis(angle, np.float32)
        for p in (1, 2, 3, 8):
            for inverse in (True, False):
                result = solve(A, p, inverse=inverse, assume_a="gen", rtol=rtol)
                if result.status == Status.CONVERGED:
                    assert distance(result.x, exact_power(A, Fraction(-1 if inverse else 1, p))) <= rtol


@pytest.mark.parametrize("s", [-1.78, 1.5 * 2**0.5, Fraction(-5, 3), Fraction(7, 3)], ids=str)
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-8])
def test_squarings_and_whole_powers_keep_rtol(s, rtol):
    """Each doubles the relative error of what it is taken of."""
    rng = np.random.default_rng(3)
    for n in (2, 3, 4) * 5:
        eigenvalue = rng.uniform(0.3, 3) * np.exp(1j * rng.uniform(-2.5, 2.5))
        A = np.triu(rng.standard_normal((n, n)), 1) + eigenvalue * np.eye(n)
        full, fast = (solve_power(A, s, assume_a="gen", rtol=r) for r in (None, rtol))
        assert distance(fast.x, full.x) <= rtol
        assert full.status != Status.CONVERGED or fast.status == Status.CONVERGED


def test_less_than_the_output_holds_is_not_promised():
    A = gallery.general(6, 10.0, rng=0, dtype=np.float32)[0]
    assert solve(A, 3, assume_a="gen", rtol=1e-6).status == Status.CONVERGED
    assert solve(A, 3, assume_a="gen", rtol=1e-8).status == Status.ILL_CONDITIONED


@pytest.mark.parametrize("scale", [1.0, 1j, 1e-170])
def test_a_power_that_vanishes(scale):
    """A^2 = 0 is no underflow, and its relative condition number is infinite."""
    A = np.array([[0.0, -6.25], [0.0, 0.0]]) * scale
    for s in (2, 3):
        result = solve_power(A, Fraction(s), assume_a="gen")
        assert result.status == Status.ILL_CONDITIONED and not result.x.any() and result.residual == 0
        assert cond_pth_root_general(A, float(s)) == np.inf
    almost = np.array([[1e-200, 1.0], [0.0, 1e-200]])
    assert solve_power(almost, Fraction(2), assume_a="gen").x[0, 1] == 2e-200


def test_condition_of_an_inverse_with_negative_eigenvalues():
    assert cond_pth_root(np.array([[0.0, 1.0], [1.0, 0.0]]), 1, assume_a="gen") == pytest.approx(1.0)
    A = np.diag([1.0, -1e-3])
    assert cond_pth_root(A, 1, assume_a="gen") == pytest.approx(1e3, rel=1e-5)

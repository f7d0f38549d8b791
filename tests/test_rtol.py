"""What rtol promises: a forward error below it, or a status that says so; float32 arithmetic only where it can."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, NAMED, SPECTRA, distance, problem

from matroot import Ridge, Status, gallery, solve
from matroot._solve import solve_power
from matroot.backends.cpu.tridiagonal.pole_table import COARSE
from matroot.methods.base import Problem
from matroot.methods.eigen import sharpened
from matroot.methods.tridiagonal_single import WAY_BACK
from matroot.pipeline import retries

RTOL = 1e-3


def forward_error(x, A, s):
    """Against the root in float64 of the matrix as it was given."""
    w, Q = np.linalg.eigh(A.astype(np.float64))
    exact = (Q * w ** float(s)) @ Q.T
    return np.linalg.norm(x - exact, 2) / np.linalg.norm(exact, 2)


@pytest.mark.parametrize("method", ("auto", "eigen", "coupled_newton", "minimax"))
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_converged_means_below_rtol(method, spectrum):
    for n, cond, p in ((40, 1e4, 2), (40, 1e5, 4), (150, 1e4, 4), (150, 3e4, 2), (150, 1e6, 4)):
        A, _ = gallery.spd(n, cond, spectrum, rng=1, dtype="float32")
        result = solve(A, p, method=method, rtol=RTOL)
        assert result.converged, result.message
        assert forward_error(result.x, A, Fraction(-1, p)) <= RTOL


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_large_float32(spectrum):
    """A decomposition in float32 where 4 eps cond / p allows it, no worse than a coupled iteration; else float64."""
    n, p = 400, 4
    for cond, dtype in ((1e4, "float32"), (1e6, "float64")):
        A, _ = gallery.spd(n, cond, spectrum, rng=1, dtype="float32")
        auto = solve(A, p, rtol=RTOL)  # which reduces in float64, goes back in float32, and is faster
        assert (auto.method.name, auto.compute_dtype, auto.status) == ("tridiagonal", "float32", Status.CONVERGED)
        way_back = WAY_BACK * n**0.5  # in float32
        assert forward_error(auto.x, A, Fraction(-1, p)) <= way_back + COARSE.target
        result = solve(A, p, rtol=RTOL, method="eigen")
        assert result.compute_dtype == dtype
        assert result.status == Status.CONVERGED
        assert forward_error(result.x, A, Fraction(-1, p)) <= (
            4 * EPS["float32"] * cond / p if dtype[-2:] == "32" else 1e-6
        )


def test_float32_by_name_is_kept_and_says_that_it_falls_short():
    A, _ = gallery.spd(100, 1e5, rng=2, dtype="float32")
    for method in ("eigen", "coupled_newton"):
        result = solve(A, 2, method=method, rtol=RTOL, compute_dtype="float32")
        assert (result.compute_dtype, result.status) == ("float32", Status.ILL_CONDITIONED)
        assert "float64" in result.message


def test_float64_that_cannot_hold_rtol_says_so():
    A, _ = gallery.spd(30, 1e8, rng=2)
    for method in ("auto", "eigen", "coupled_newton"):
        assert solve(A, 2, method=method, rtol=1e-9).status == Status.ILL_CONDITIONED
        assert solve(A, 2, method=method, rtol=1e-4).status == Status.CONVERGED


@pytest.mark.parametrize("n", (30, 390))
def test_each_matrix_of_a_stack_gets_its_own_precision(n):
    conds = (1e2, 1e6, 1e3)
    A = np.stack([gallery.spd(n, cond, rng=3, dtype="float32")[0] for cond in conds])
    A[2, 0, 0] = np.nan
    result = solve(A, 4, method="eigen", rtol=RTOL)
    assert result.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.NONFINITE_INPUT]
    assert result.compute_dtype == "float64"
    for a, x in zip(A[:2], result.x[:2], strict=True):
        assert np.array_equal(x, solve(a, 4, method="eigen", rtol=RTOL).x)
    assert solve(A[0], 4, method="eigen", rtol=RTOL).compute_dtype == "float32"


@pytest.mark.parametrize("method", ("eigen", "minimax"))
def test_a_look_spares_an_inverse_in_vain(method, monkeypatch):
    tried = []
    once = retries.attempt
    monkeypatch.setattr(retries, "attempt", lambda A, job: tried.append(job.dtype.name) or once(A, job))
    for cond, wanted in ((1e1, "float32"), (1e5, "float64")):  # 1e6 leaves one digit of the inverse of a float32 matrix
        A, _ = gallery.spd(200, cond, rng=4, dtype="float32")
        assert solve(A, 1, rtol=RTOL, method=method).status == Status.CONVERGED
        assert tried.pop() == wanted and not tried


def test_a_ridge_that_bounds_cond_spares_the_look(monkeypatch):
    monkeypatch.setattr(retries, "lanczos", None)
    A, _ = gallery.spd(400, 1e8, rng=4, dtype="float32")
    result = solve(A, 2, rtol=RTOL, regularization=Ridge(relative=1e-3), method="eigen")
    assert (result.compute_dtype, result.status) == ("float32", Status.CONVERGED)


@pytest.mark.parametrize("s", (-1.0, -0.5, -0.25, 0.5))
@pytest.mark.parametrize("dtype", ("float64", "complex128"))
def test_sharpened_removes_first_order_errors(s, dtype):
    """From a decomposition with errors of 1e-6 in the basis and the eigenvalues, and a ridge."""
    n, rtol, ridge = 40, 1e-5, 1e-3
    A, _ = gallery.spd(n, 1e3, dtype=dtype, rng=5)
    rng = np.random.default_rng(6)
    w, Q = np.linalg.eigh(A + ridge * np.eye(n))
    exact = (Q * w**s) @ Q.conj().T
    K = rng.standard_normal((n, n)) * 1e-6
    Q, _ = np.linalg.qr(Q @ (np.eye(n) + K - K.T))
    w = w + 1e-6 * rng.standard_normal(n)
    X = (Q * w**s) @ Q.conj().T
    before, size = np.linalg.norm(X - exact, 2), np.linalg.norm(exact, 2)
    single = np.float32 if dtype == "float64" else np.complex64
    X, A, Q, w = X.astype(single), A.astype(single), Q.astype(single), w.astype(np.float32)  # sets eps
    sharpened(X, A, Q, w, ridge, s, rtol)
    after = np.linalg.norm(X - exact, 2)
    assert after <= max(before / 8, rtol * size) and after < before


def test_an_indefinite_matrix_is_not_tried_again_in_float64():
    """Its eigenvalues were computed in float64 already; with a ridge that may grow it is tried again."""
    A = np.diag([-1e-3, 1.0, 2.0, 3.0]).astype("float32")
    for method in ("minimax", "coupled_newton"):
        result = solve(A, 3, rtol=1e-3, method=method)
        assert result.status == Status.NOT_POSITIVE and result.compute_dtype == "float32"
        assert np.isclose(result.lambda_min, -1e-3)
        mended = solve(A, 3, rtol=1e-3, method=method, regularization=Ridge(relative=1e-5, retries=3))
        assert mended.status == Status.CONVERGED and mended.ridge > 1e-3


REAL = (-np.pi, -np.e / 4, 0.123456789, np.e)
POWERS = ((-1, 1), (-1, 3), (-3, 4), (-5, 2), (-15, 4), (1, 2), (3, 2), (15, 8), (15, 4))


@pytest.mark.parametrize("dtype", ("float64", "float32"))
@pytest.mark.parametrize("rtol", (0.3, 1e-2, 1e-4))
@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_rtol_is_kept_by_every_exponent(row, rtol, dtype):
    """CONVERGED is within rtol, also where a root is taken to a power after it."""
    for s in (*(Fraction(*f) for f in POWERS), *REAL):
        for cond, spectrum in ((3.0, "geometric"), (1e3, "arithmetic")):
            A, _ = problem(12, cond, spectrum, dtype=dtype, seed=3)
            try:
                result = solve_power(A, s, method=row.method, rtol=rtol, compute_dtype=row.arithmetic(dtype))
            except ValueError:
                continue  # not an exponent of this method
            error = forward_error(result.x, A, s)
            assert error <= rtol if result.converged else error <= 1e-2 + rtol, (s, cond, error)
            if cond == 3:
                assert result.converged, (s, result.message)


@pytest.mark.parametrize("n", (3, 5, 8))
@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_rtol_is_kept_by_powers_of_singular_matrices(row, n):
    """An iteration may meet 0 as it likes; a residual that is beyond rtol is not explained by cond = inf."""
    A = n * np.eye(n) - 1
    for s in (Fraction(4, 3), Fraction(5, 3), Fraction(7, 3), Fraction(9, 8)):
        if row.method.refuses(Problem(s=s), n):
            continue
        for rtol in (1e-4, 1e-7, 1e-9):
            result = solve_power(A, s, method=row.method, rtol=rtol)
            assert not result.converged or distance(result.x, A * float(n) ** (float(s) - 1)) <= rtol


def test_the_largest_degree_with_the_largest_rtol():
    for assume_a in ("pos", "gen"):
        assert solve_power(np.diag([1.0, 2.0]), Fraction(2, 1023), rtol=0.99, assume_a=assume_a).converged


@pytest.mark.parametrize("inverse", (True, False))
@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_what_no_dtype_can_hold_is_not_converged(row, inverse):
    """float32 holds no rtol of 1e-8, whatever the arithmetic; float64 none of 1e-16. Both say what they can hold."""
    for dtype, rtol, single in (("float32", 1e-8, False), ("float64", 1e-8, True), ("float64", 1e-16, False)):
        if single and not row.single:
            continue
        A, _ = problem(9, 10, dtype=dtype, seed=1)
        compute = "float32" if single else None
        result = solve(A, 2, inverse=inverse, method=row.method, rtol=rtol, compute_dtype=compute)
        assert result.status == Status.ILL_CONDITIONED
        assert f"rtol = {rtol:.1e} is less than float{'64' if rtol < 1e-15 else '32'} can hold" in result.message
        assert result.rtol == rtol
        easier = solve(A, 2, inverse=inverse, method=row.method, rtol=1e-5 if rtol == 1e-8 else 1e-13)
        assert easier.status == Status.CONVERGED

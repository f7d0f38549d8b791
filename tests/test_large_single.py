"""Roots of large float32 matrices to an rtol: what is computed in float32, and that rtol holds."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, SPECTRA, distance, problem

from matroot import Floor, Ridge, Shift, Status, Tridiagonal, gallery, solve
from matroot._solve import solve_power
from matroot.backends.cpu.tridiagonal.pole_table import COARSE
from matroot.methods import tridiagonal_single as single
from matroot.methods.tridiagonal_large import Solver

BY_LAPACK = Tridiagonal(lanes=False)
RTOL = 1e-3


@pytest.fixture
def reductions(monkeypatch):
    """The precision of every reduction, and whether it served; estimates are made from n = 100 on."""
    done = []
    solve_in = Solver.solve

    def watched(self, S, out, kind, back, begun=None):
        facts = solve_in(self, S, out, kind, back, begun)
        done.append((kind.__name__, bool(facts[0])))
        return facts

    monkeypatch.setattr(Solver, "solve", watched)
    monkeypatch.setattr(single, "ESTIMATED_FROM", 100)
    return done


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("s", [Fraction(-1, 4), Fraction(-1, 2), Fraction(1, 3), Fraction(-1)], ids=str)
def test_rtol_holds_in_float32(reductions, spectrum, s):
    n = 300
    for cond in (1e1, 1e3):
        A, root = problem(n, cond, spectrum, dtype="float32", seed=1)
        result = solve_power(A, s, method=BY_LAPACK, rtol=RTOL)
        assert result.converged and result.residual <= 10 * RTOL
        assert (result.x == result.x.T).all() and result.x.dtype == np.float32
        # LAPACK's error for clusters, that of the way back, and that of the poles
        bar = 24 * EPS["float32"] * cond * max(abs(float(s)), 1 / 3) + single.WAY_BACK * n**0.5 + COARSE.target
        assert distance(result.x, root(s)) <= min(RTOL, bar)
    assert ("float32", True) in reductions


def test_float64_where_float32_does_not_hold_rtol(reductions):
    for cond, spectrum, taken in (
        (1e2, "geometric", [("float32", True)]),
        (1e4, "two_cluster", [("float32", False), ("float64", True)]),  # the estimate knows nothing of clusters
        (1e6, "geometric", [("float64", True)]),
    ):
        A, root = problem(200, cond, spectrum, dtype="float32", seed=2)
        reductions.clear()
        result = solve(A, 4, method=BY_LAPACK, rtol=RTOL)
        assert reductions == taken
        assert result.converged
        assert distance(result.x, root(-0.25)) <= RTOL
        if taken[0][0] == "float64":
            assert distance(result.x, root(-0.25)) <= single.WAY_BACK * 200**0.5 + COARSE.target


@pytest.mark.slow
@pytest.mark.parametrize("p", [2, 4])
def test_a_geometric_spectrum_is_reduced_once(reductions, p):
    """Near the largest condition number that float32 holds: a reduction that does not serve is paid for in vain."""
    A, _ = problem(1536, 1e4, "geometric", dtype="float32", seed=3)
    assert solve(A, p, method=BY_LAPACK, rtol=RTOL).converged
    assert reductions == [("float64" if p == 2 else "float32", True)]


def test_only_where_it_is_asked_for(reductions):
    A, _ = gallery.spd(120, 1e1, rng=3)
    B = A.astype("float32")
    for result in (
        solve(A, 2, method=BY_LAPACK, rtol=RTOL),
        solve(B, 2, method=BY_LAPACK),
        solve(B, 2, method=BY_LAPACK, rtol=1e-6),
        solve(B, 2, method=BY_LAPACK, rtol=RTOL, compute_dtype="float64"),
    ):
        assert result.compute_dtype == "float64"
    assert reductions == [("float64", True)] * 4


def test_the_result_says_that_float32_was_used(reductions):
    """In a batch for any matrix; for a part of the work, the way back; and a second attempt repeats it."""
    A = np.array([problem(200, cond, dtype="float32", seed=2)[0] for cond in (1e6, 1e2)])
    for given in (A, A[0], A[1]):
        result = solve(given, 4, method=BY_LAPACK, rtol=RTOL)
        assert result.converged.all() and result.compute_dtype == "float32"
    assert {kind for kind, _ in reductions} == {"float32", "float64"}
    rule = Floor(1e-3)
    assert solve(A[0], 4, method=BY_LAPACK, rtol=RTOL, regularization=rule).compute_dtype == "float64"
    assert solve(A[1], 4, method=BY_LAPACK, rtol=RTOL, regularization=rule).compute_dtype == "float32"
    together = solve(A, 4, method=BY_LAPACK, rtol=RTOL, regularization=rule)
    assert together.compute_dtype == "float32" and together.changed.tolist() == [100, 0]


def test_a_ridge_promises(reductions, monkeypatch):
    """No estimate of cond is made, whatever the matrix; the ridge is that of the eigenvalues."""
    monkeypatch.setattr(single, "inverses", None)
    A = problem(150, 1e8, dtype="float32", seed=4)[0]
    for rule in (1e-2, Ridge(relative=1e-2, absolute=0.5)):
        mine = solve(A, 4, method=BY_LAPACK, rtol=RTOL, regularization=rule)
        other = solve(A, 4, method="eigen", regularization=rule)
        assert mine.converged
        assert distance(mine.x, other.x) <= RTOL
        assert np.allclose(mine.ridge, other.ridge, rtol=1e-5)
    assert reductions == [("float32", True)] * 2
    reductions.clear()
    solve(A, 4, method=BY_LAPACK, rtol=RTOL, regularization=Shift(1e-2))
    assert reductions == [("float64", True)]


@pytest.mark.slow
def test_bad_and_uneven_matrices(reductions):
    A = gallery.spd(120, 1e1, batch=(6,), rng=5)[0].astype("float32")
    good = solve(A, 2, method=BY_LAPACK, rtol=RTOL)
    B = A.copy()
    B[1] *= -1
    B[2] = 0
    B[3, 5, 6] = B[3, 6, 5] = np.nan
    B[4, 100, 3] *= 1 + 1e-6
    result = solve(B, 2, method=BY_LAPACK, rtol=RTOL)
    assert result.status.tolist() == [
        *(Status.CONVERGED, Status.NOT_POSITIVE, Status.SINGULAR, Status.NONFINITE_INPUT),
        *(Status.CONVERGED, Status.CONVERGED),
    ]
    assert (result.x[[0, 5]] == good.x[[0, 5]]).all()
    assert distance(result.x[4], good.x[4]) <= 1e-4
    alone = solve(B[0], 2, method=BY_LAPACK, rtol=RTOL)
    assert (alone.x == good.x[0]).all()


@pytest.mark.parametrize("exponent", [-100, -60, 60, 120])
def test_powers_of_two_leave_and_come_back(exponent):
    A = gallery.spd(110, 10, rng=6)[0].astype("float32")
    X = solve(A, 2, method=BY_LAPACK, rtol=RTOL, regularization=0.1).x
    Y = solve(np.ldexp(A, exponent), 2, method=BY_LAPACK, rtol=RTOL, regularization=0.1).x
    assert (np.ldexp(Y, exponent // 2) == X).all()


def test_every_kind_of_array_gives_the_same(reductions):
    A = gallery.spd(110, 1e2, rng=7)[0].astype("float32")
    X = solve(A, 2, method=BY_LAPACK, rtol=RTOL).x
    fixed = A.copy()
    fixed.flags.writeable = False
    for given in (fixed, np.asfortranarray(A), np.repeat(A, 2, 0)[::2], np.repeat(A, 2, 1)[:, ::2]):
        assert (solve(given, 2, method=BY_LAPACK, rtol=RTOL).x == X).all()
    assert reductions == [("float32", True)] * 5

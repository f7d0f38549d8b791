"""Roots by LAPACK's reduction: `Tridiagonal` without lanes. tests/table.py holds it to the bars of all methods."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, distance, forward_bar, problem, true_residual

from matroot import Ridge, Status, Tridiagonal, gallery, select_method, solve
from matroot._solve import solve_power
from matroot.backends.cpu.large import kernel
from matroot.methods import tridiagonal_large as large
from matroot.methods.tridiagonal_large import Solver, large_roots
from matroot.methods.tridiagonal_report import LONE, SERVED, SIZES, lanes_are_faster

EPS64 = EPS["float64"]
BY_LAPACK = Tridiagonal(lanes=False)
EXPONENTS = [Fraction(*f) for f in ((-1, 1), (-1, 2), (-1, 3), (-2, 3), (1, 2), (2, 3), (1, 1))]


def reference(A, s):
    w, Q = np.linalg.eigh(A)
    return (Q * w ** float(s)) @ Q.T


@pytest.mark.parametrize("n", [2, 3, 9, 15, 16, 17, 18, 32, 33, 34, 49, 401])
def test_sizes_at_the_edges_of_panels(n):
    """Panels of 16 reflectors up to n = 400, of 32 beyond; the last row has none."""
    A, root = gallery.spd(n, 1e3, rng=n)
    for s in EXPONENTS:
        result = solve_power(A, s, method=BY_LAPACK)
        assert result.converged
        assert result.method == BY_LAPACK
        assert distance(result.x, root(s)) <= 2 * forward_bar(1e3, s, n, EPS64), s
        assert (result.x == result.x.T).all()


def test_it_is_really_lapack_that_served(monkeypatch):
    served = []
    call = Solver.__call__

    def watched(self, a, out, begun=None):
        facts = call(self, a, out, begun)
        served.append(facts[0])
        return facts

    monkeypatch.setattr(Solver, "__call__", watched)
    A, _ = gallery.spd(100, 1e4, batch=(2,), rng=0)
    for given in (A, A.astype("float32"), A[0], A.transpose(0, 2, 1), A[::-1]):
        solve(given, 2)
        assert served == [SERVED] * (len(given) if given.ndim == 3 else 1)
        served.clear()
    for s in EXPONENTS:
        solve_power(A[:1], s, method=BY_LAPACK)
        solve_power(A[0], s, method=BY_LAPACK)
        assert served == [SERVED] * 2
        served.clear()
    solve(np.concatenate([A, A, A]), 2)
    assert not served  # six of n = 100 go in lanes


TRIDIAGONAL = {
    "second difference": lambda n: (2.0 + 1e-3 + 0 * np.arange(n), -np.ones(n - 1)),
    "graded": lambda n: (np.geomspace(1, 1e-10, n), 0.4 * np.geomspace(1, 1e-10, n)[1:]),
    "graded upwards": lambda n: (np.geomspace(1e-10, 1, n), 0.4 * np.geomspace(1e-10, 1, n)[:-1]),
    "decoupled": lambda n: (2.0 + np.arange(n) % 3, np.where(np.arange(n - 1) % 7 == 6, 0, 0.5)),
    "hardly coupled": lambda n: (1.0 + np.arange(n) % 2, np.geomspace(1e-1, 1e-320, n - 1)),
    "underflowing": lambda n: (1.0 + np.arange(n) % 5, np.full(n - 1, 1e-200)),
    "equal": lambda n: (np.ones(n), np.zeros(n - 1)),
    "nearly equal": lambda n: (np.ones(n), np.full(n - 1, 1e-9)),
    "strongly coupled": lambda n: (np.tile([1.0, 1.0 + 1e-8], n)[:n], np.where(np.arange(n - 1) % 2, 0.0, 1.0 - 1e-8)),
}


@pytest.mark.parametrize("name", TRIDIAGONAL)
@pytest.mark.parametrize("n", [40, 300])
def test_the_form_that_is_there_already(name, n):
    """Ratios that underflow, or are 0, or just below 1 over the whole length, from block to block."""
    d, e = TRIDIAGONAL[name](n)
    A = np.diag(d) + np.diag(e, 1) + np.diag(e, -1)
    cond = np.linalg.cond(A)
    for s in (Fraction(-1, 2), Fraction(-1), Fraction(1, 3)):
        report = large_roots(A[None], X := np.empty((1, n, n)), s)
        assert report.served.all()
        assert distance(X[0], reference(A, s)) <= 3 * forward_bar(cond, s, n, EPS64), s


@pytest.mark.parametrize("exponent", [-1040, -700, -1, 0, 1, 3, 700, 1000])
@pytest.mark.parametrize("s", [Fraction(-1, 2), Fraction(1, 3), Fraction(-1)], ids=str)
def test_powers_of_two_leave_and_come_back(exponent, s):
    A, _ = gallery.spd(70, 10, rng=1)
    B = np.ldexp(A, exponent)
    if exponent < -1000:
        A = np.ldexp(B, -exponent)  # rounded
    expected = np.linalg.eigh(A)
    expected = (expected[1] * expected[0] ** float(s)) @ expected[1].T
    result = solve_power(B, s, method=BY_LAPACK)
    if float(s) * -abs(exponent) < -1020 or abs(float(s) * exponent) > 1020:
        return  # the root itself leaves the range: a status says so, see the tests of ranges
    whole, rest = divmod(s * exponent, 1)
    assert distance(np.ldexp(result.x, -int(whole)) / 2.0 ** float(rest), expected) <= 100 * EPS64
    assert result.converged
    assert np.isclose(np.ldexp(result.lambda_max, -exponent), 1, rtol=1e-6)


def test_the_largest_numbers():
    A = np.diag(np.full(70, 1.7e308))
    A[0, 1] = A[1, 0] = 1e307
    result = solve(A, 2, method=BY_LAPACK)
    assert result.converged
    assert np.allclose(result.x[2:, 2:], np.eye(68) / 1.7e308**0.5, rtol=1e-13, atol=0)


def test_bad_matrices_beside_good_ones():
    A, _ = gallery.spd(70, 1e2, batch=(8,), rng=2)
    good = solve(A, 2, method=BY_LAPACK)
    B = A.copy()
    B[1] *= -1
    B[2] = 0
    B[3, 5, 6] = B[3, 6, 5] = np.nan
    B[4, 9, 9] = np.inf
    B[5, 69, 69] = -1
    B[6] = np.diag(np.r_[np.ones(69), 1e-15])
    before = B.copy()
    result, eigen = solve(B, 2, method=BY_LAPACK), solve(B, 2, method="eigen")
    assert (B.view(np.uint64) == before.view(np.uint64)).all()
    assert (result.status == eigen.status).all()
    assert result.status.tolist()[1:6] == [
        Status.NOT_POSITIVE,
        Status.SINGULAR,
        Status.NONFINITE_INPUT,
        Status.NONFINITE_INPUT,
        Status.NOT_POSITIVE,
    ]
    assert np.array_equal(result.x[6], eigen.x[6], equal_nan=True)
    assert (result.x[[0, 7]] == good.x[[0, 7]]).all()


def test_a_batch_is_a_loop():
    A, _ = gallery.spd(66, 1e5, batch=(5,), rng=3)
    together = solve(A, 3, method=BY_LAPACK, regularization=1e-6)
    for k in range(5):
        alone = solve(A[k], 3, method=BY_LAPACK, regularization=1e-6)
        for field in ("x", "cond", "lambda_max", "lambda_min", "ridge", "residual"):
            assert np.array_equal(getattr(together, field)[k], getattr(alone, field)), field


def test_every_kind_of_array_gives_the_same():
    A, _ = gallery.spd(70, 1e3, dtype="float32", rng=4)
    A = A.astype(float)
    X = solve(A, 2, method=BY_LAPACK).x
    fixed = A.copy()
    fixed.flags.writeable = False
    for given in (fixed, np.asfortranarray(A), A[::-1, ::-1][::-1, ::-1], np.repeat(A, 2, 0)[::2]):
        assert (solve(given, 2, method=BY_LAPACK).x == X).all()
    single = solve(A.astype("float32"), 2, method=BY_LAPACK)
    assert single.x.dtype == np.float32
    assert single.compute_dtype == "float64"
    assert distance(single.x, X) <= 2 * EPS["float32"]
    whole = np.rint(1e6 * A).astype(int)
    assert distance(solve(whole, 2, method=BY_LAPACK).x, reference(whole, -0.5)) <= 1e-11


def test_asymmetry_is_refused_and_rounding_mended():
    A, _ = gallery.spd(70, 1e2, rng=5)
    B = A.copy()
    B[60, 3] += 1e-3
    with pytest.raises(ValueError, match=r"not symmetric: max\|A - A\^H\| is .*gen"):
        solve(B, 2, method=BY_LAPACK)
    B = A.copy()
    B[60, 3] += 1e-12
    assert (solve(B, 2, method=BY_LAPACK).x == solve((B + B.T) / 2, 2, method=BY_LAPACK).x).all()


def test_ridges_and_retries():
    A, _ = gallery.spd(70, 1e8, batch=(2,), rng=6)
    for rule in (1e-3, Ridge(relative=1e-2, absolute=1e-2), Ridge(absolute=3.0)):
        mine, other = (solve(A, 4, method=m, regularization=rule) for m in (BY_LAPACK, "eigen"))
        assert mine.converged.all()
        for field in ("ridge", "lambda_max", "lambda_min", "cond"):
            assert np.allclose(getattr(mine, field), getattr(other, field), rtol=1e-9), field
        assert distance(mine.x, other.x) <= 1e-12
    A[1] = np.diag(np.r_[np.ones(69), -1e-5])
    result = solve(A, 2, method=BY_LAPACK, regularization=Ridge(relative=1e-6, retries=3))
    assert result.converged.all()
    assert np.allclose(result.ridge, [1e-6, 1e-4])


@pytest.mark.parametrize("s", [Fraction(-1, 2), Fraction(-1, 3), Fraction(2, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_residual_is_that_of_what_is_returned(s, dtype, monkeypatch):
    A, _ = problem(100, 1e4, dtype=dtype, seed=7)
    X = np.empty((1, 100, 100), dtype)
    residual = large_roots(A[None], X, s).residual[0]
    truth = true_residual(A, X[0], s)
    assert truth / 3 <= residual <= 3 * truth
    # The weights are spoilt: the certificate must see it, and nothing else does.
    table = large.table

    def spoilt(*args):
        found = table(*args)
        return found._replace(w=found.w * (1 + 1e-6))

    monkeypatch.setattr(large, "table", spoilt)
    residual = large_roots(A[None], X, s).residual[0]
    assert 1e-7 <= true_residual(A, X[0], s) / 3 <= residual <= 3 * true_residual(A, X[0], s)


def test_what_the_reduction_may_not_hold_is_decomposed():
    """Two clusters of 250 each: LAPACK's reduction is off by 8 units of eps cond / p, four are vouched for."""
    A, root = gallery.spd(500, 1e8, "two_cluster", rng=8)
    unit = EPS64 * 1e8 / 2
    for rtol, name in ((5 * unit, "eigen"), (50 * unit, "tridiagonal")):
        report = large_roots(A[None], np.empty((1, 500, 500)), Fraction(-1, 2), rtol=rtol)
        assert bool(report.served[0]) == (name == "tridiagonal")
        result = solve(A, 2, rtol=rtol)
        assert result.converged
        assert distance(result.x, root(-0.5)) <= rtol


def test_which_way_is_taken():
    assert all(lanes_are_faster(1, n) == (n < LONE) for n in range(1, SIZES[0] + 1))
    assert all(lanes_are_faster(2, n) for n in range(1, SIZES[0] + 1))
    assert not lanes_are_faster(1, SIZES[0] + 1)
    assert all(lanes_are_faster(8 * k, n) for k in (1, 5) for n in (100, SIZES[-1]))
    assert not lanes_are_faster(1000, SIZES[-1] + 1)
    assert [lanes_are_faster(B, 192) for B in (5, 6, 8, 9, 12)] == [False, True, True, False, True]
    assert "no eigenvectors" in select_method(np.empty((4, 256, 256)), 4).reason
    assert "side by side" in select_method(np.empty((8, 224, 224)), 4).reason


def test_the_cache_on_disk_knows_every_source():
    digest = kernel._digest()
    for function in (kernel.reduced, kernel.root):
        assert digest in [cell.cell_contents for cell in function.py_func.__closure__]

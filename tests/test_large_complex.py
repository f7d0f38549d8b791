"""Hermitian matrices by LAPACK's hetrd. tests/table.py holds the method to the bars of all methods."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from table import EPS, NAMED, SPECTRA, conditioning, conjugate, distance, forward_bar, problem

from matroot import (
    Floor,
    PseudoInverse,
    Ridge,
    Shift,
    Status,
    TargetCondition,
    Tridiagonal,
    gallery,
    select_method,
    solve,
)
from matroot._solve import solve_power
from matroot.backends.linalg import add_to_diagonal, hermitian_part
from matroot.methods import tridiagonal_large as large
from matroot.methods import tridiagonal_single as single
from matroot.methods.tridiagonal_large import large_roots
from matroot.methods.tridiagonal_report import COMPLEX_LONE, COMPLEX_SIZES, SERVED, lanes_are_faster
from matroot.pipeline import kernel

EPS64 = EPS["float64"]
BY_LAPACK = Tridiagonal(lanes=False)
EXPONENTS = [Fraction(*f) for f in ((-1, 1), (-1, 2), (-1, 3), (-2, 3), (1, 2), (2, 3), (1, 1))]
N = 70


def hermitian(w, seed=0):
    """A matrix with eigenvalues w, and the map from f(w) to f(A)."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((len(w), len(w))) + 1j * rng.standard_normal((len(w), len(w))))[0]
    A = (Q * w) @ conjugate(Q)
    return (A + conjugate(A)) / 2, lambda f: (Q * f) @ conjugate(Q)


@pytest.fixture
def no_decomposition(monkeypatch):
    monkeypatch.setattr(kernel, "solve_chunk", None)


@pytest.mark.parametrize("n", [1, 2, 3, 9, 16, 17, 18, 33, 257])
def test_sizes_at_the_edges_of_panels(n, no_decomposition):
    """The last reflector, of length 1, makes the last entry beside the diagonal real."""
    cond = 1e3 if n > 1 else 1.0
    A, root = gallery.spd(n, cond, dtype="complex128", rng=n)
    for s in EXPONENTS:
        report = large_roots(A[None], X := np.empty((1, n, n), complex), s)
        assert report.served.all()
        assert distance(X[0], root(s)) <= 2 * forward_bar(cond, s, n, EPS64), s
        assert (X[0] == conjugate(X[0])).all()
        if s.numerator == -1 or s > 0:
            assert (solve_power(A, s, method=BY_LAPACK).x == X[0]).all()


@pytest.mark.parametrize("method", [name for name in NAMED if 2 in NAMED[name].degrees])
@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
def test_asymmetry_of_rounding_under_a_ridge(method, dtype):
    """Above 256 KB numpy may write a sum into one of its terms, in the order of that term."""
    n, eps = 190, EPS[dtype]
    A, _ = hermitian(np.geomspace(1e-3, 1, n))
    A = A.astype(dtype)
    A[0, 1] *= 1 + 2 * eps
    w, Q = np.linalg.eigh(hermitian_part(A.astype(complex)))
    for given in (A, A[None]):
        result = solve(given, 2, method=method, regularization=Ridge(absolute=0.1))
        X = (Q * (w + 0.1) ** -0.5) @ conjugate(Q)
        assert result.converged.all() and distance(result.x.reshape(n, n), X) <= 2 * forward_bar(11.0, -0.5, n, eps, 12)
        assert (result.residual < 100 * n**0.5 * eps).all()


def test_sums_go_to_matrices_in_c_order():
    for n in (3, 150):
        A = hermitian_part(np.ones((2, n, n), complex))
        assert A.flags.c_contiguous
        add_to_diagonal(A, np.array([1.0, 2.0]))
        assert (A[1].diagonal() == 3).all()
        with pytest.raises(ValueError, match="C order"):
            add_to_diagonal(A.swapaxes(1, 2), 1.0)


def test_it_is_really_lapack_that_served(monkeypatch):
    served = []
    call = large.Solver.__call__

    def watched(self, a, out, begun=None):
        facts = call(self, a, out, begun)
        served.append((out.dtype.kind, facts[0]))
        return facts

    monkeypatch.setattr(large.Solver, "__call__", watched)
    A, _ = gallery.spd(100, 1e4, batch=(3,), dtype="complex128", rng=0)
    for given in (A, A.astype("complex64"), A[0], A.transpose(0, 2, 1), A[::-1]):
        assert solve(given, 2).converged.all()
        assert served == [("c", SERVED)] * (len(given) if given.ndim == 3 else 1)
        served.clear()
    solve(A[0].real, 2)
    assert served == [("f", SERVED)]


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_bars_at_a_size_that_has_panels(spectrum):
    for cond in (1e2, 1e8):
        A, root = problem(300, cond, spectrum, dtype="complex128", seed=3)
        for s in (Fraction(-1, 4), Fraction(1, 2)):
            result = solve_power(A, s, method=BY_LAPACK)
            assert result.converged
            assert distance(result.x, root(s)) <= 2 * forward_bar(cond, s, 300, EPS64), s


@pytest.mark.parametrize("s", [Fraction(-1, 2), Fraction(-1, 3), Fraction(3, 4)], ids=str)
def test_fifty_digits(s):
    n = 12
    A, _ = gallery.spd(n, 1e5, dtype="complex128", rng=2)
    result = solve_power(A, s, method=BY_LAPACK)
    with mpmath.workdps(50):
        w, Q = mpmath.eighe(mpmath.matrix(A.tolist()))
        root = Q * mpmath.diag([x ** (mpmath.mpf(s.numerator) / s.denominator) for x in w]) * Q.H
        gap = mpmath.matrix(result.x.tolist()) - root
        error = mpmath.norm(gap) / mpmath.norm(root)
    assert error <= forward_bar(1e5, s, n, EPS64)


def test_the_certificate_reads_imaginary_parts():
    """Each of them counts as much as a real part."""
    A, _ = hermitian(np.geomspace(1e-2, 1, N))
    solver = large.Solver(N, A.dtype, Fraction(-1), large.NONE, None, False)
    X = np.linalg.inv(A)

    def certified(B, Y):
        arguments = 0.0, np.ones(2), 1.0, solver.pairs, solver.order
        return solver.compiled.certificate(large.in_pairs(B), large.in_pairs(np.array(Y)), *arguments)

    assert certified(A, X) <= 1e-12
    for part in (1.0, 1j):
        size = 1e-6 * np.linalg.norm(X) * part
        spoilt = X.copy()
        spoilt[3, 7] += size
        spoilt[7, 3] += np.conj(size)
        assert 1e-8 < certified(A, spoilt) < 1e-4
    assert certified(A, X.conj()) > 0.1
    assert certified(A, X.real.astype(complex)) > 0.1


def test_powers_of_two_leave_and_come_back():
    A, root = gallery.spd(N, 10, dtype="complex128", rng=1)
    for exponent in (-1000, -61, 62, 1000):
        result = solve(A * 2.0**exponent, 2, method=BY_LAPACK)
        assert result.converged
        half, odd = divmod(exponent, 2)
        assert distance(result.x * 2.0**half * 2 ** (odd / 2), root(-0.5)) <= 100 * EPS64
        assert np.isclose(np.ldexp(result.lambda_max, -exponent), 1, rtol=1e-6)


def test_bad_and_uneven_matrices_beside_good_ones():
    A, _ = gallery.spd(N, 1e2, batch=(8,), dtype="complex128", rng=2)
    good = solve(A, 2, method=BY_LAPACK)
    B = A.copy()
    B[1] *= -1
    B[2] = 0
    B[3, 5, 6] = np.nan
    B[4, 9, 9] = np.inf
    B[5, 8, 8] += 1e-3j
    B[6, 60, 3] += 1e-12j
    before = B.copy()
    result, eigen = solve(B, 2, method=BY_LAPACK), solve(B, 2, method="eigen")
    assert np.array_equal(B, before, equal_nan=True)
    assert (result.status == eigen.status).all()
    assert result.status.tolist()[1:6] == [
        Status.NOT_POSITIVE,
        Status.SINGULAR,
        Status.NONFINITE_INPUT,
        Status.NONFINITE_INPUT,
        Status.NOT_SYMMETRIC,
    ]
    assert (result.x[[0, 7]] == good.x[[0, 7]]).all()
    assert (result.x[6] == solve((B[6] + conjugate(B[6])) / 2, 2, method=BY_LAPACK).x).all()
    with pytest.raises(ValueError, match=r"not Hermitian: .*gen"):
        solve(B[5], 2, method=BY_LAPACK)


def test_every_kind_of_array_gives_the_same_and_a_batch_is_a_loop():
    A, _ = gallery.spd(N, 1e3, batch=(2,), dtype="complex128", rng=4)
    together = solve(A, 3, method=BY_LAPACK, regularization=1e-6)
    fixed = A[0].copy()
    fixed.flags.writeable = False
    for given in (A[0], fixed, np.asfortranarray(A[0]), A[0].T.conj(), np.repeat(A[0], 2, 0)[::2]):
        alone = solve(given, 3, method=BY_LAPACK, regularization=1e-6)
        for field in ("x", "cond", "lambda_max", "lambda_min", "ridge", "residual"):
            assert np.array_equal(getattr(together, field)[0], getattr(alone, field)), field
    one = solve(A.astype("complex64"), 3, method=BY_LAPACK, regularization=1e-6)
    assert (one.x.dtype, one.compute_dtype) == ("complex64", "complex128")
    assert (one.x == conjugate(one.x)).all() and distance(one.x, together.x) <= 500 * EPS["complex64"]


def test_real_matrices_have_the_same_root_as_complex_ones():
    A, root = gallery.spd(N, 1e3, rng=5)
    result = solve(A.astype(complex), 2, method=BY_LAPACK)
    assert distance(result.x, root(-0.5)) <= 2 * forward_bar(1e3, -0.5, N, EPS64)
    assert abs(result.x.imag).max() == 0


SPECTRA_TO_CUT = {
    "nothing below": np.geomspace(1e-3, 1, N),
    "one below": np.r_[1e-8, np.geomspace(1e-3, 1, N - 1)],
    "a tenth": np.r_[np.zeros(7), np.geomspace(1e-3, 1, N - 7)],
    "rank 2": np.where(np.arange(N) < N - 2, 0.0, np.linspace(0.3, 1, N)),
    "indefinite": np.linspace(-0.4, 1.0, N),
}


@pytest.mark.parametrize("name", SPECTRA_TO_CUT)
@pytest.mark.parametrize("rule", [Floor(1e-4), PseudoInverse(1e-4), PseudoInverse(0.0, 1e-4)], ids=str)
def test_a_cut_spectrum_is_what_the_rule_says(name, rule, no_decomposition):
    w = SPECTRA_TO_CUT[name]
    A, function = hermitian(w)
    above, floor = w > 1e-4, isinstance(rule, Floor)
    v = np.where(above, w, 1e-4)
    least = v.min() if floor else w[above].min()
    for s in (Fraction(-1, 2), Fraction(1, 3)):
        result = solve_power(A, s, regularization=rule)
        assert result.method.name == "tridiagonal"
        assert distance(result.x, function(v ** float(s) * (above | floor))) < 2 * forward_bar(1 / least, s, N, EPS64)
        assert result.converged and (result.x == conjugate(result.x)).all()
        assert result.changed == (~above).sum()
        assert np.isclose(result.cond, 1 / least, rtol=1e-6)
        assert result.residual < 20 * s.denominator * conditioning(1 / least, s) * N**0.5 * EPS64


def test_rules_that_shift():
    A, _ = gallery.spd(N, 1e8, batch=(2,), dtype="complex128", rng=6)
    for rule in (1e-3, Shift(relative=1e-2), TargetCondition(100.0)):
        mine, other = (solve(A, 4, method=m, regularization=rule) for m in (BY_LAPACK, "eigen"))
        assert mine.converged.all()
        for field in ("ridge", "lambda_max", "lambda_min", "cond"):
            assert np.allclose(getattr(mine, field), getattr(other, field), rtol=1e-9), field
        assert distance(mine.x, other.x) <= 1e-12


def test_complex64_to_an_rtol(monkeypatch):
    """Single precision where it holds the rtol, and the result says so."""
    monkeypatch.setattr(single, "ESTIMATED_FROM", 100)
    for cond, arithmetic in ((1e2, "complex64"), (1e6, "complex64")):  # the way back alone, for the second
        A, root = problem(200, cond, dtype="complex64", seed=2)
        result = solve(A, 4, method=BY_LAPACK, rtol=1e-3)
        assert result.converged and result.compute_dtype == arithmetic
        assert distance(result.x, root(-0.25)) <= 1e-3
        assert (result.x == conjugate(result.x)).all()
        wide = solve(A, 4, method=BY_LAPACK, rtol=1e-3, compute_dtype="complex128")
        assert wide.compute_dtype == "complex128" and not (wide.x == result.x).all()


def test_which_way_is_taken():
    last = COMPLEX_SIZES[-1]
    assert lanes_are_faster(2, COMPLEX_SIZES[0], True) and not lanes_are_faster(1, COMPLEX_LONE, True)
    assert lanes_are_faster(8, 32, True) and not lanes_are_faster(800, last + 1, True)
    assert [lanes_are_faster(B, last, True) for B in (4, 7, 8, 12, 16)] == [False, False, True, False, True]
    for n in (40, 300, 2000):
        assert select_method(np.empty((n, n), complex), 2).name == "tridiagonal"
        assert select_method(np.empty((n, n), complex), 2, regularization=Floor(1e-6)).name == "tridiagonal"
    assert select_method(np.empty((2000, 2000), complex), 1).name == "minimax"


def test_the_largest_in_lanes():
    """Real matrices of twice the size: the bars do not know."""
    n = COMPLEX_SIZES[-1]
    A = np.stack([problem(n, 1e6, dtype="complex128", seed=seed)[0] for seed in range(8)])
    result = solve(A, 2)
    assert result.method.in_lanes(A) and result.converged.all()
    for i in range(8):
        root = problem(n, 1e6, dtype="complex128", seed=i)[1]
        assert distance(result.x[i], root(-0.5)) <= 2 * forward_bar(1e6, -0.5, n, EPS64)

"""Rules that cut the spectrum of large matrices: the vectors above the cut, the rule, and the certificate."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, distance, forward_bar

from matroot import Floor, PseudoInverse, Status, Tridiagonal, select_method, solve
from matroot._solve import solve_power
from matroot.methods import tridiagonal_large_cut
from matroot.pipeline import kernel

EPS64 = EPS["float64"]
BY_LAPACK = Tridiagonal(lanes=False)
N = 90
RULES = (Floor(1e-4), PseudoInverse(1e-4), Floor(5e-5, 5e-5), PseudoInverse(0.0, 1e-4))
SPECTRA = {
    "nothing below": np.geomspace(1e-3, 1, N),
    "one below": np.r_[1e-8, np.geomspace(1e-3, 1, N - 1)],
    "a tenth": np.r_[np.zeros(9), np.geomspace(1e-3, 1, N - 9)],
    "geometric": np.geomspace(1e-9, 1, N),
    "two values": np.where(np.arange(N) < N // 2, 1e-6, 1.0),
    "rank 2": np.where(np.arange(N) < N - 2, 0.0, np.linspace(0.3, 1, N)),
    "indefinite": np.linspace(-0.4, 1.0, N),
}


def with_spectrum(w, seed=0):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(w), len(w))))[0]
    A = (Q * w) @ Q.T
    return (A + A.T) / 2, lambda f: (Q * f) @ Q.T


@pytest.fixture
def no_decomposition(monkeypatch):
    monkeypatch.setattr(kernel, "solve_chunk", None)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("s", [Fraction(-1, 2), Fraction(1, 3)], ids=str)
def test_a_cut_spectrum_is_what_the_rule_says(name, s, no_decomposition):
    w = SPECTRA[name]
    A, function = with_spectrum(w)
    above = w > 1e-4
    for rule in RULES:
        result = solve_power(A, s, regularization=rule)
        assert result.method.name == "tridiagonal"
        floor = isinstance(rule, Floor)
        v = np.where(above, w, 1e-4)
        least = v.min() if floor else w[above].min()
        expected = function(v ** float(s) * (above | floor))
        assert distance(result.x, expected) < 2 * forward_bar(1 / least, s, N, EPS64), rule
        assert result.status == Status.CONVERGED
        assert (result.x == result.x.T).all()
        assert result.changed == (~above).sum()
        assert result.ridge == 0
        assert np.isclose(result.cond, 1 / least, rtol=1e-6)
        assert np.isclose(result.lambda_max, 1)
        if floor:
            assert result.rank is None and np.isclose(result.lambda_min, least, rtol=1e-6)
        else:
            assert result.rank == above.sum()
            assert np.isclose(result.lambda_min, 0 if (~above).any() else least, rtol=1e-6, atol=0)
        assert result.residual < 20 * s.denominator * (1 / least if s < 0 else 1) * N**0.5 * EPS64


@pytest.mark.parametrize("rule", [Floor(1e-4), PseudoInverse(1e-4)], ids=str)
@pytest.mark.parametrize("s", [Fraction(-1, 2), Fraction(2, 3)], ids=str)
def test_the_residual_is_that_of_the_cut_matrix(rule, s, monkeypatch):
    """Also where the vectors are wrong, and what they span."""
    A, _ = with_spectrum(SPECTRA["a tenth"])
    w, Q = np.linalg.eigh(A)
    w = np.where(w > 1e-4, w, 1e-4 if isinstance(rule, Floor) else 0)
    kept = tridiagonal_large_cut.kept

    def spoilt(size):
        def turned(*args):
            found = kept(*args)
            Y = found.vectors + size * np.random.default_rng(0).standard_normal(found.vectors.shape)
            return found._replace(vectors=np.linalg.qr(Y)[0])

        return turned

    for size in (1e-9, 1e-5):
        monkeypatch.setattr(tridiagonal_large_cut, "kept", spoilt(size))
        found = solve_power(A, s, regularization=rule, method=BY_LAPACK, rtol=0.5)
        a, b, X = abs(s.numerator), s.denominator, found.x
        goal = (Q * (w > 0)) @ Q.T if s < 0 else (Q * w**a) @ Q.T
        error = np.linalg.matrix_power(X, b) @ ((Q * w) @ Q.T if s < 0 else np.eye(N)) - goal
        true = np.linalg.norm(error) / (N**0.5 if s < 0 else np.linalg.norm(goal))
        assert size / 10 < true / 5 < found.residual < 5 * true


def test_powers_of_two_float32_and_batches():
    spectra = [SPECTRA[name] for name in ("a tenth", "nothing below", "rank 2")]
    A = np.array([with_spectrum(w)[0] for w in spectra])
    for rule in (Floor(1e-4), PseudoInverse(1e-4)):
        together = solve(A, 2, regularization=rule, method=BY_LAPACK)
        assert together.converged.all()
        assert together.changed.tolist() == [9, 0, N - 2]
        for k in range(3):
            alone = solve(A[k], 2, regularization=rule, method=BY_LAPACK)
            for field in ("x", "cond", "lambda_max", "lambda_min", "residual", "changed"):
                assert np.array_equal(getattr(together, field)[k], getattr(alone, field)), field
        scaled = solve(np.ldexp(A, 300), 2, regularization=rule, method=BY_LAPACK)
        assert (np.ldexp(scaled.x, 150) == together.x).all()
        single = solve(A.astype("float32"), 2, regularization=rule, method=BY_LAPACK, rtol=1e-3)
        assert single.converged.all() and single.x.dtype == np.float32
        assert distance(single.x, together.x) <= 1e-3


def test_in_lanes_first_and_by_lapack_where_something_is_cut():
    """A batch of n = 130: eight go side by side, the one that is cut is reduced again."""
    w = np.geomspace(1e-3, 1, 130)
    A = np.array([with_spectrum(w, seed)[0] for seed in range(8)])
    A[3] -= 2e-3 * np.eye(130)
    result = solve(A, 2, regularization=PseudoInverse(1e-4))
    assert result.converged.all()
    below = (np.linalg.eigvalsh(A[3]) < 1e-4).sum()
    assert result.changed.tolist() == [0, 0, 0, below, 0, 0, 0, 0]
    assert np.array_equal(result.x[3], solve(A[3], 2, regularization=PseudoInverse(1e-4), method=BY_LAPACK).x)
    assert np.array_equal(result.x[0], solve(A, 2).x[0])


def test_what_has_no_root_is_decomposed():
    A, _ = with_spectrum(SPECTRA["a tenth"])
    for given, rule in (
        (-A - 0.1 * np.eye(N), Floor(1e-4)),
        (np.zeros((N, N)), PseudoInverse()),
        (A - 0.1 * np.eye(N), Floor(0.0)),
        (-A - 0.1 * np.eye(N), PseudoInverse(1e-4)),
    ):
        mine = solve(given, 2, regularization=rule, method=BY_LAPACK)
        other = solve(given, 2, regularization=rule, method="eigen")
        assert (mine.status, mine.changed) == (other.status, other.changed)
        assert not mine.converged or np.array_equal(mine.x, other.x)


def test_an_older_scipy(monkeypatch):
    from scipy.linalg import lapack

    A, _ = with_spectrum(SPECTRA["a tenth"])
    expected = solve(A, 2, regularization=Floor(1e-4), method=BY_LAPACK).x
    monkeypatch.delattr(lapack, "dstevd", raising=False)
    assert distance(solve(A, 2, regularization=Floor(1e-4), method=BY_LAPACK).x, expected) < 1e-11


def test_where_auto_takes_it():
    for n, batch, rtol, name in (
        *((1024, 1, None, "tridiagonal"), (80, 1, None, "tridiagonal"), (130, 8, None, "tridiagonal")),
        *((1024, 1, 1e-3, "tridiagonal"), (130, 1, 1e-3, "eigen"), (64, 1, 1e-3, "tridiagonal")),
    ):
        A = np.empty((batch, n, n))
        assert select_method(A, 2, regularization=Floor(1e-6), rtol=rtol).name == name

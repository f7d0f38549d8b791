"""Rules that cut the spectrum, in lanes: the eigenvectors, the rule, the certificate, and who is decomposed at all."""

from fractions import Fraction

import numpy as np
import pytest
from numba import njit
from table import EPS, conjugate, distance, forward_bar

from matroot import Floor, PseudoInverse, Ridge, Shift, Status, TargetCondition, solve
from matroot._solve import solve_power
from matroot.backends.cpu.tridiagonal import eigenvectors, reduction
from matroot.backends.cpu.tridiagonal.memory import address
from matroot.methods.tridiagonal import Tridiagonal
from matroot.pipeline import kernel

EPS64 = EPS["float64"]
SIZES = (1, 2, 3, 4, 5, 8, 13, 32, 65)
SPECTRA = {
    "geometric": lambda n: np.geomspace(1e-9, 1, n),
    "one value": lambda n: np.full(n, 0.7),
    "two values": lambda n: np.where(np.arange(n) < n // 2, 1e-6, 1.0),
    "rank 2": lambda n: np.where(np.arange(n) < n - 2, 0.0, np.linspace(0.3, 1, n)),
    "indefinite": lambda n: np.linspace(-0.4, 1, n),
    "zero": lambda n: np.zeros(n),
    "whole numbers": lambda n: np.arange(n) % 4 / 4.0,
}


@njit
def decompose(A, n, d, e, tau, Q, work):
    A, d, e, tau, Q, work = address(A), address(d), address(e), address(tau), address(Q), address(work)
    reduction.tridiagonalize(A, n, d, e, tau, work)
    eigenvectors.basis(Q, A, n, tau, work)
    eigenvectors.diagonalize(d, e, Q, n, work)


@njit
def outer(F, Q, w, n, work, added):
    F, Q, w, work = address(F), address(Q), address(w), address(work)
    if added:
        eigenvectors.add_outer(F, Q, w, n)
    else:
        eigenvectors.outer(F, Q, w, n, work)


def with_spectra(*spectra, seed=0, complex_=False):
    """A stack of matrices of these spectra, and the function that gives Q diag(f) Q^H of them."""
    rng = np.random.default_rng(seed)
    w = np.array(spectra)
    G = rng.standard_normal((*w.shape, w.shape[-1]))
    Q = np.linalg.qr(G + 1j * rng.standard_normal(G.shape) if complex_ else G)[0]
    A = (Q * w[:, None]) @ conjugate(Q)
    return (A + conjugate(A)) / 2, lambda f: (Q * f[:, None]) @ conjugate(Q)


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_eigenvectors_of_eight_unlike_matrices(n):
    """Lanes converge at different times, and split in different places."""
    w = [spectrum(n) for spectrum in SPECTRA.values()]
    stack, _ = with_spectra(*w, np.geomspace(1e-3, 1, n))
    stack[5] = np.diag(np.random.default_rng(2).standard_normal(n))  # nothing to rotate
    i, j = np.tril_indices(n)
    A = np.ascontiguousarray(stack[:, i, j].T).ravel()
    d, e, tau = np.empty(8 * n), np.empty(8 * n), np.empty(16 * n)
    Q, work = np.empty(32 * n * -(-n // 4)), np.empty(8 * (24 * n + 16))
    decompose(A, n, d, e, tau, Q, work)
    vectors = Q.reshape(-(-n // 4), n, 4, 8).transpose(3, 0, 2, 1).reshape(8, -1, n)
    assert (vectors[:, n:] == 0).all()
    vectors = vectors[:, :n]
    found = d.reshape(n, 8).T
    bar = 10 * n**0.5 * EPS64
    assert abs(vectors.swapaxes(1, 2) @ vectors - np.eye(n)).max() < bar
    assert abs((vectors * found[:, None]) @ vectors.swapaxes(1, 2) - stack).max() < 2 * bar
    assert np.allclose(np.sort(found), np.linalg.eigvalsh(stack), rtol=0, atol=bar)
    F, G = np.zeros(A.size), np.ones(A.size)
    weights = np.where(np.arange(n) % 3 == 1, 0, found.T.ravel().reshape(n, 8).T).T.ravel()
    for where, added in ((F, True), (G, False)):
        outer(where, Q, weights, n, work, added)
        expected = (vectors * weights.reshape(n, 8).T[:, None]) @ vectors.swapaxes(1, 2)
        assert np.allclose(where.reshape(-1, 8).T, expected[:, i, j], rtol=0, atol=bar)


@pytest.mark.parametrize("s", [Fraction(-1, 2), Fraction(-1, 4), Fraction(1, 3), Fraction(2, 3)], ids=str)
@pytest.mark.parametrize("n", [2, 3, 8, 13, 40])
@pytest.mark.parametrize("complex_", [False, True])
def test_a_cut_spectrum_is_what_the_rule_says(s, n, complex_):
    """Powers, counts, condition numbers and residuals, for spectra that begin at, below and above a cut of 1e-4."""
    others = [np.geomspace(2e-3, 1, n), np.r_[8e-5, np.geomspace(2e-3, 1, n - 1)]]
    w = np.sort([SPECTRA[name](n) for name in SPECTRA if name != "zero"] + others)
    w[:, -1] = 1
    w[abs(w - 1e-4) < 1e-5] = 3e-5
    A, function = with_spectra(*w, complex_=complex_)
    kept = w > 1e-4
    for rule in (Floor(1e-4), PseudoInverse(1e-4), Floor(5e-5, 5e-5), PseudoInverse(0.0, 1e-4)):
        result = solve_power(A, s, regularization=rule)
        v = np.where(kept, w, 1e-4)
        f = v ** float(s) * (kept | isinstance(rule, Floor))
        least = np.where(kept | isinstance(rule, Floor), v, 1).min(-1)
        for k in range(len(w)):
            bar = forward_bar(1 / least[k], s, n, EPS64)
            assert distance(result.x[k], function(f)[k]) < 2 * bar, (rule, k)
        assert (result.status == Status.CONVERGED).all()
        assert (result.x == conjugate(result.x)).all()
        assert (result.changed == (~kept).sum(-1)).all()
        assert (result.ridge == 0).all()
        assert np.allclose(result.cond, 1 / least, rtol=1e-9)
        assert np.allclose(result.lambda_max, 1)
        if isinstance(rule, Floor):
            assert result.rank is None
            assert np.allclose(result.lambda_min, least)
        else:
            assert (result.rank == kept.sum(-1)).all()
        by_eigen = solve_power(A, s, regularization=rule, method="eigen")
        assert (result.changed == by_eigen.changed).all()
        assert (result.residual < 20 * s.denominator * (1 / least if s < 0 else 1) * n**0.5 * EPS64).all()


@pytest.mark.parametrize("rule", [Floor(1e-4), PseudoInverse(1e-4), Floor(absolute=1e-4)], ids=str)
def test_the_residual_is_that_of_the_cut_matrix(rule):
    """A root that was rounded to float32 has the residual of that, in the cut directions too."""
    A, _ = with_spectra(np.r_[1e-7, 1e-3, 0.1, 1.0])
    A = A.astype(np.float32)
    found = solve(A, 2, regularization=rule)
    w, Q = np.linalg.eigh(A[0].astype(np.float64))
    w[0] = 1e-4 if isinstance(rule, Floor) else 0
    X = found.x[0].astype(np.float64)
    true = np.linalg.norm(X @ X @ (Q * w) @ Q.T - (Q * (w > 0)) @ Q.T) / 2
    assert true > 1e-6
    assert float(found.residual[0]) == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("s", (Fraction(-1, 2), Fraction(-3, 4), Fraction(1, 2), -0.37), ids=str)
def test_float32_arithmetic_cuts_at_its_own_place_and_is_told_so(s):
    """The residual is that against the cut of the matrix as given; in float32 the cut lies elsewhere."""
    rng = np.random.default_rng(5)
    for n in (2, 3, 20, 40):
        for share in 10 ** rng.uniform(-4, -1, 8):
            w = np.sort(10 ** rng.uniform(-4, 0, n))
            for rule in (Floor(share), PseudoInverse(share)):
                kept = np.maximum(w, share * w[-1]) if isinstance(rule, Floor) else np.where(w > share * w[-1], w, 0)
                found = solve_power(np.diag(w), s, regularization=rule, method="eigen", compute_dtype="float32")
                assert found.compute_dtype == "float32"
                f, x = np.where(kept > 0, np.where(kept > 0, kept, 1) ** float(s), 0), found.x.diagonal()
                if s == Fraction(-1, 2):
                    true = np.linalg.norm(x**2 * kept - (kept > 0)) / n**0.5
                else:
                    b = s.denominator if isinstance(s, Fraction) else 1
                    true = np.linalg.norm(x**b - f**b) / np.linalg.norm(f**b)
                assert true / 4 - 1e-13 < found.residual < 4 * true + 1e-13, (n, rule)


def test_only_what_is_cut_is_decomposed(monkeypatch):
    """What lies above the cut is solved as without a rule, to the last bit."""
    rows = []
    cut_roots = kernel.cut_roots

    def counted(stack, *args):
        rows.append(len(stack))
        return cut_roots(stack, *args)

    monkeypatch.setattr(kernel, "cut_roots", counted)
    monkeypatch.setattr(kernel, "solve_chunk", None)
    A, _ = with_spectra(*[np.geomspace(1e-3, 1, 9)] * 20)
    for rule in (Floor(1e-4), PseudoInverse(1e-4)):
        assert np.array_equal(solve(A, 2, regularization=rule).x, solve(A, 2).x)
    assert rows == []
    A[[3, 11]] -= 2e-3 * np.eye(9)
    for rule in (Floor(1e-4), PseudoInverse(1e-4)):
        result = solve(A, 2, regularization=rule)
        assert np.flatnonzero(result.changed).tolist() == [3, 11]
    assert rows == [2, 2]


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize("rule", [Floor(1e-4), PseudoInverse(1e-4)], ids=str)
def test_a_cut_matrix_knows_nothing_of_its_batch(rule, dtype):
    """Beside any neighbours, good or bad, in any lane."""
    w = [spectrum(10) for spectrum in SPECTRA.values()]
    A, _ = with_spectra(*w, *w[::-1], *w, complex_=dtype == "complex128")
    A[3] *= 1e30
    A[8] = np.nan
    A[12] *= -1
    A = A.astype(dtype)
    method = Tridiagonal(lanes=True)
    together = solve(A, 4, method=method, regularization=rule)
    for k in range(len(A)):
        alone = solve(A[k], 4, method=method, regularization=rule)
        for field in ("x", "status", "cond", "lambda_max", "lambda_min", "ridge", "residual", "changed", "rank"):
            if getattr(alone, field) is not None:
                mine = getattr(together, field)[k]
                assert np.array_equal(mine, getattr(alone, field), equal_nan=True), (field, k)


def test_shifted_batches_are_those_of_the_ridge_that_was_added():
    """`Shift` and `TargetCondition` are ridges of a size that the kernel finds."""
    w = np.array([np.r_[low, np.geomspace(1e-2, 1, 6)] for low in (-0.3, -1e-8, 0.0, 1e-5, 1e-2, -0.9, -3.0)])
    A, _ = with_spectra(*w)
    for rule, wanted in (
        (Shift(1e-3), np.maximum(1e-3 * abs(w).max(-1) - w[:, 0], 0)),
        (Shift(absolute=2e-3), np.maximum(2e-3 - w[:, 0], 0)),
        (TargetCondition(100), np.maximum(w[:, -1] - 100 * w[:, 0], 0) / 99),
    ):
        result = solve(A, 2, regularization=rule)
        assert (result.status == Status.CONVERGED).all()
        assert np.allclose(result.ridge, wanted, rtol=1e-12, atol=1e-15)
        for k in range(len(w)):
            same = solve(A[k], 2, regularization=Ridge(absolute=float(result.ridge[k])))
            assert distance(result.x[k], same.x) < 1e-11


@pytest.mark.parametrize("n", [20, 110])
def test_rules_by_lapack(n):
    """One matrix after the other; what is cut goes to `Eigen`."""
    w = np.array([np.geomspace(1e-3, 1, n), np.r_[1e-6, np.geomspace(1e-3, 1, n - 1)], np.linspace(-0.3, 1, n)])
    A, function = with_spectra(*w)
    method = Tridiagonal(lanes=False)
    for rule, v in (
        (Shift(1e-2), w + np.maximum(1e-2 - w[:, :1], 0)),
        (TargetCondition(100), w + np.maximum(1 - 100 * w[:, :1], 0) / 99),
        (Floor(1e-4), np.maximum(w, 1e-4)),
        (PseudoInverse(1e-4), np.where(w > 1e-4, w, np.inf)),
    ):
        result = solve(A, 2, method=method, regularization=rule)
        assert (result.status == Status.CONVERGED).all()
        assert distance(result.x, function(v**-0.5)) < 2 * forward_bar(1e4, -0.5, n, EPS64)
        if isinstance(rule, Floor | PseudoInverse):
            assert result.changed.tolist() == (w <= 1e-4).sum(-1).tolist()


def test_absolute_cuts_are_in_the_units_of_the_matrix():
    w = np.array([1e-9, 1e-7, 1e-3, 1.0])
    for scale in (1.0, 1e-30, 1e30):
        A, function = with_spectra(w * scale)
        for method in ("tridiagonal", "eigen"):
            result = solve(A, 2, method=method, regularization=Floor(absolute=1e-6 * scale))
            assert distance(result.x, function(np.maximum(w, 1e-6)[None] ** -0.5) / scale**0.5) < 1e-8
            result = solve(A, 2, method=method, regularization=PseudoInverse(0.0, absolute=1e-6 * scale))
            exact = function(np.where(w > 1e-6, w, np.inf)[None] ** -0.5) / scale**0.5
            assert distance(result.x, exact) < 1e-10
            assert result.rank.tolist() == [2]


def test_counts_are_of_rules_that_cut():
    A = np.diag([1.0, 0.5, 1e-12])
    for rule in (None, 1e-3, Ridge(absolute=0.1)):
        result = solve(A, 2, regularization=rule)
        assert result.changed is None
        assert result.rank is None
    assert int(solve(A, 2, regularization=Floor(1e-4)).changed) == 1
    assert int(solve(A, 2, regularization=PseudoInverse(1e-4), method="eigen").rank) == 2
    assert "rank: 2" in repr(solve(A, 2, regularization=PseudoInverse(1e-4)))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Floor, {"absolute": -1.0}), (Floor, {"relative": "1"}), (PseudoInverse, {"absolute": np.nan})],
)
def test_wrong_cuts_are_refused(kind, options):
    with pytest.raises(ValueError, match="must be a finite number >= 0"):
        kind(**options)

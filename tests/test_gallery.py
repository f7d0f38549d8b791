"""The gallery against the definitions of its matrices."""

from fractions import Fraction
from math import comb

import mpmath
import numpy as np
import pytest
import scipy.linalg

from matroot import gallery
from matroot.gallery import transitions

EPS = np.finfo(float).eps / 2


def relative_error(X, exact):
    return np.linalg.norm(X - exact, 2) / np.linalg.norm(exact, 2)


@pytest.mark.parametrize("n", [0, 1, 2, 31, 128])
@pytest.mark.parametrize("spectrum", gallery.SPECTRA)
def test_spectra_run_from_one_to_one_over_cond(n, spectrum):
    lam = gallery.eigenvalues(n, 1e6, spectrum)
    assert lam.shape == (n,) and np.all(np.diff(lam) <= 0)
    positive = lam[lam > 0]
    assert len(positive) == (n - n // 2 if spectrum == "low_rank" else n)
    if len(positive) > 1:
        np.testing.assert_allclose(positive[[0, -1]], [1, 1e-6], rtol=1e3 * EPS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("spectrum", gallery.SPECTRA)
def test_spd_has_its_spectrum_to_working_precision(spectrum, dtype):
    n, cond = 40, 1e4
    A, _ = gallery.spd(n, cond, spectrum, batch=(2, 3), dtype=dtype, rng=1)
    assert A.shape == (2, 3, n, n) and A.dtype == dtype
    assert np.array_equal(A, A.conj().mT)
    lam = np.linalg.eigvalsh(A.astype(np.complex128))[..., ::-1]
    assert np.abs(lam - gallery.eigenvalues(n, cond, spectrum)).max() < 10 * np.finfo(dtype).eps


@pytest.mark.parametrize("cond", [1.0, 1e6, 1e12])
@pytest.mark.parametrize("spectrum", gallery.SPECTRA[:-1])
def test_spd_root_against_forty_digits(spectrum, cond):
    """The promised eps*cond*|s|, with n*eps for the basis, which is orthogonal to that."""
    n = 12
    A, root = gallery.spd(n, cond, spectrum, rng=2)
    with mpmath.workdps(40):
        lam, Q = mpmath.eigsy(mpmath.matrix(A.tolist()))
        for s in (-1, 0.5, Fraction(-1, 4), Fraction(2, 3)):
            exact = Q * mpmath.diag([x ** mpmath.mpf(float(s)) for x in lam]) * Q.T
            exact = np.array(exact.tolist(), dtype=float)
            assert relative_error(root(s), exact) < EPS * cond * abs(s) + 2 * n * EPS


def test_spd_powers_multiply():
    A, root = gallery.spd(31, 1e5, batch=(2,), dtype=complex, rng=3)
    X = root(Fraction(1, 3))
    np.testing.assert_allclose(X @ X @ X, A, atol=1e-14)
    np.testing.assert_allclose(root(-1) @ A, np.broadcast_to(np.eye(31), A.shape), atol=1e-9)


def test_low_rank_powers_are_those_of_the_pseudo_inverse():
    A, root = gallery.spd(9, 100.0, "low_rank", rng=4)
    np.testing.assert_allclose(root(-1), np.linalg.pinv(A, rcond=1e-10), atol=1e-11)
    P = root(0)
    np.testing.assert_allclose(P @ P, P, atol=1e-14)
    assert np.trace(P) == pytest.approx(5)
    np.testing.assert_allclose(root(-0.5) @ A @ root(-0.5), P, atol=1e-13)


def test_spd_seeds():
    A, _ = gallery.spd(5, 10.0, rng=7)
    B, _ = gallery.spd(5, 10.0, rng=np.random.default_rng(7))
    C, _ = gallery.spd(5, 10.0)
    assert np.array_equal(A, B) and not np.array_equal(A, C)


def test_spd_in_half_precision():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        A, root = gallery.spd(6, 10.0, dtype=dtype, rng=0)
        assert A.dtype == dtype and root(0.5).dtype == np.float64
        assert np.abs(A.astype(float) - root(1)).max() <= float(ml_dtypes.finfo(dtype).eps)


REFUSED = {
    "cond below 1": (lambda: gallery.spd(3, 0.5), "cond must be"),
    "infinite cond": (lambda: gallery.spd(3, np.inf), "cond must be"),
    "negative n": (lambda: gallery.spd(-1, 2), "n must be"),
    "unknown spectrum": (lambda: gallery.spd(3, 2, "flat"), "geometric"),
    "spd of integers": (lambda: gallery.spd(3, 2, dtype=int), "floating"),
    "angle of pi": (lambda: gallery.general(3, max_angle=np.pi), "max_angle"),
    "general of low rank": (lambda: gallery.general(3, 2, "low_rank"), "low_rank"),
    "eigenvector_cond below 1": (lambda: gallery.general(3, eigenvector_cond=0.1), "eigenvector_cond"),
    "general of integers": (lambda: gallery.general(3, dtype=int), "floating"),
    "negative Jordan block": (lambda: gallery.jordan(3, -1.0)[1](0.5), "negative real axis"),
    "indefinite toeplitz": (lambda: gallery.toeplitz(3, 1, 0, 1)[1](0.5), "negative real axis"),
    "bidiagonal toeplitz": (lambda: gallery.toeplitz(3, 0), "must not be 0"),
    "rho of 1": (lambda: gallery.kms(3, 1.0), "rho"),
    "no samples": (lambda: gallery.wishart(3, 0), "samples"),
    "fast rates": (lambda: gallery.embeddable_transitions(3, rate=4), "rate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_is_wanted(case):
    call, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        call()


def test_orthogonal_is_haar_distributed_in_phase():
    Q = gallery.orthogonal(3, batch=(4000,), rng=0)
    np.testing.assert_allclose(Q @ Q.mT, np.broadcast_to(np.eye(3), Q.shape), atol=1e-14)
    # of a Haar matrix every entry has mean 0 and variance 1/n; the raw Q of a QR code has a one-signed first
    # column
    assert np.abs(Q.mean(axis=0)).max() < 4 / np.sqrt(3 * 4000)
    assert np.abs((Q**2).mean(axis=0) - 1 / 3).max() < 0.03


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 30])
def test_general_has_its_moduli_angles_and_roots(n, dtype):
    cond, angle = 1e3, 2.0
    A, root = gallery.general(n, cond, max_angle=angle, batch=(2,), dtype=dtype, rng=5)
    assert A.dtype == dtype
    lam = np.linalg.eigvals(A)
    r = np.abs(lam)
    assert np.abs(np.angle(lam)).max() < angle + 1e-8
    np.testing.assert_allclose(r.max(axis=-1), 1, rtol=1e-8)
    np.testing.assert_allclose(r.min(axis=-1), 1 if n == 1 else 1 / cond, rtol=1e-8)
    if n >= 3:
        assert np.abs(lam.imag).max() > 0.1 / cond
        assert relative_error(A[0], A[0].conj().T) > 0.1
    for p in (2, 3, 12):
        X = root(Fraction(1, p))
        assert np.isrealobj(X) == np.isrealobj(A)
        np.testing.assert_allclose(np.linalg.matrix_power(X, p), A, atol=1e-12)
        for one, lone in zip(X, A, strict=True):
            oracle = scipy.linalg.fractional_matrix_power(lone, 1 / p)
            assert relative_error(one, oracle) < 1e3 * EPS * cond


def test_general_eigenvector_condition_one_is_normal():
    A, _ = gallery.general(10, eigenvector_cond=1.0, rng=6)
    np.testing.assert_allclose(A @ A.T, A.T @ A, atol=1e-14)


@pytest.mark.parametrize("eigenvalue", [4.0, 0.1, -1 + 2j])
def test_jordan(eigenvalue):
    J, root = gallery.jordan(5, eigenvalue)
    X = root(Fraction(1, 3))
    np.testing.assert_allclose(X @ X @ X, J, atol=1e-10 * np.abs(X).max() ** 3)
    np.testing.assert_allclose(root(-1) @ J, np.eye(5), atol=1e-12 * np.abs(root(-1)).max())
    assert abs(np.angle(X[0, 0])) < np.pi / 3


@pytest.mark.parametrize("off", [(-1.0, -0.5), (1.0, 0.25), (-1.0, 0.5)])
def test_toeplitz_against_scipy(off):
    A, root = gallery.toeplitz(9, off[0], 3.0, off[1])
    assert np.array_equal(A, scipy.linalg.toeplitz([3, off[0]] + [0] * 7, [3, off[1]] + [0] * 7))
    for s in (1, -1, 0.5, Fraction(-1, 3)):
        oracle = scipy.linalg.fractional_matrix_power(A, float(s))
        assert relative_error(root(s), oracle) < 1e-12


def test_named_matrices_against_their_definitions():
    n = 6
    assert np.array_equal(gallery.hilbert(n), scipy.linalg.hilbert(n))
    assert np.array_equal(gallery.pascal(n), scipy.linalg.pascal(n))
    assert gallery.pascal(29)[-1, -1] == comb(56, 28)
    F = gallery.frank(n)
    assert np.linalg.det(F) == pytest.approx(1)
    lam = np.sort(np.linalg.eigvals(F).real)
    np.testing.assert_allclose(lam * lam[::-1], 1, rtol=1e-9)
    K = gallery.kms(n, -0.3)
    assert np.array_equal(K, scipy.linalg.toeplitz((-0.3) ** np.arange(n)))
    inverse = np.linalg.inv(gallery.lehmer(n))
    np.testing.assert_allclose(np.triu(inverse, 2), 0, atol=1e-12)
    assert gallery.lehmer(n)[1, 3] == 0.5


def test_wishart():
    C = gallery.wishart(5, 20000, dtype=complex, rng=0)
    assert np.array_equal(C, C.conj().T)
    np.testing.assert_allclose(C, np.eye(5), atol=0.05)
    W = gallery.wishart(8, 3, batch=(2,), dtype=np.float32, rng=0)
    assert W.dtype == np.float32 and np.linalg.matrix_rank(W.astype(float), rtol=1e-5).tolist() == [3, 3]


def test_rating_transitions_are_stochastic():
    P = gallery.rating_transitions()
    assert P.shape == (len(gallery.RATINGS),) * 2
    np.testing.assert_allclose(P.sum(axis=1), 1, rtol=4 * EPS)
    assert (P >= 0).all() and P[-1, -1] == 1
    assert (np.linalg.eigvals(P).real > 0.4).all()  # so the principal roots exist
    sums = np.sum(transitions._PER_CENT, axis=1)  # as printed: two rows do not add up
    np.testing.assert_allclose(sums, [100, 100, 100, 100, 100, 99.99, 100.01, 100], atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 8, 20])
def test_embeddable_transitions_have_stochastic_roots(n):
    P, root = gallery.embeddable_transitions(n, rate=1.5, rng=n)
    month = root(Fraction(1, 12))
    for M in (P, month):
        assert (M >= 0).all()
        np.testing.assert_allclose(M.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(np.linalg.matrix_power(month, 12), P, atol=1e-14)
    np.testing.assert_allclose(scipy.linalg.fractional_matrix_power(P, 1 / 12), month, atol=1e-12)

"""Derivatives of powers, of first and second order, against 50 digits and against differences of the powers."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from table import EPS

import matroot
from matroot import (
    Floor,
    PseudoInverse,
    Ridge,
    RootError,
    Shift,
    TargetCondition,
    frechet_derivative,
    spectral_derivative,
    use_kernels,
)
from matroot._solve import solve_power
from matroot.autodiff.divided import first_differences, first_differences_of_root, second_differences, second_products
from matroot.autodiff.forms import FORMS, Power, evaluate

EXPONENTS = [*(Fraction(sign, p) for p in range(1, 9) for sign in (-1, 1)), Fraction(-3, 4), 2.5, 0.1, -np.pi, 0.999]
SPECTRA = {
    "spread": np.geomspace(1e-6, 1, 5),
    "equal": np.array([1.0, 1.0, 1.0, 1e-3, 1e-3]),
    "clustered": np.array([1.0, 1 + 1e-9, 1 + 1e-15, 0.5, 0.5 * (1 + 1e-7)]),
    "identity": np.ones(5),
}


def quotient(a, b, s):
    return s * a ** (s - 1) if a == b else (a**s - b**s) / (a - b)


def exact_second(a, b, c, s):
    a, b, c = sorted((a, b, c))
    return s * (s - 1) / 2 * a ** (s - 2) if a == c else (quotient(a, b, s) - quotient(b, c, s)) / (a - c)


def real(s):
    return mpmath.mpf(s.numerator) / s.denominator if isinstance(s, Fraction) else mpmath.mpf(s)


def exact(A, E, s):
    """L(A, E) by eigenvalues in 50 digits."""
    w, Q = mpmath.eigsy(mpmath.matrix(A.tolist()))
    M, n = Q.T * mpmath.matrix(E.tolist()) * Q, len(w)
    for i in range(n):
        for j in range(n):
            same = abs(w[i] - w[j]) < mpmath.mpf(10) ** -30 * abs(w[i])
            M[i, j] *= quotient(w[i], w[i] if same else w[j], s)
    return np.array((Q * M * Q.T).tolist(), dtype=object)


def matrix(w, seed=0):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(w), len(w))))[0]
    A = (Q * w) @ Q.T
    return (A + A.T) / 2


def directions(n, count=3, seed=1):
    E = np.random.default_rng(seed).standard_normal((count, n, n))
    return E + E.swapaxes(1, 2)


def form(name, power, A, *given):
    value, failed = evaluate(name, power, A[None], tuple(E[None] for E in given))
    assert not failed.any()
    return value[0]


@pytest.mark.parametrize("s", EXPONENTS, ids=str)
def test_divided_differences_in_every_entry(s):
    """Equal, close and distant eigenvalues, and 12 orders of magnitude."""
    w = np.array([1e-12, 1e-12 * (1 + 1e-6), 1e-5, 0.3, 0.3, 0.3 * (1 + 1e-15), 0.3 * (1 + 1e-4), 0.33, 0.4, 1.0])
    n = len(w)
    with mpmath.workdps(60):
        W, S = [mpmath.mpf(float(v)) for v in w], real(s)
        first = np.array([[float(quotient(a, b, S)) for b in W] for a in W])
        second = np.array([[[float(exact_second(a, b, c, S)) for c in W] for b in W] for a in W])
    # The rounding of s itself: 1e-12 to the power s feels it 28 times.
    found = first_differences(w, float(s))
    assert abs(found / first - 1).max() <= 30 * EPS["float64"]
    by_root = first_differences_of_root(w, s)
    assert by_root is None or abs(by_root / first - 1).max() <= 30 * EPS["float64"]
    T = second_differences(w, float(s), found, np.ones(n, bool), slice(0, n))
    size = abs(second) + abs(first[:, :, None]) / np.maximum(np.maximum(w[:, None, None], w[:, None]), w)
    assert (abs(T - second) <= 60 * EPS["float64"] * size).all()

    E, H, _ = directions(n)
    by_products = second_products(w, s, E, H)
    if by_products is not None:
        reference = np.einsum("ikj,ik,kj->ij", second, E, H)
        reference = reference + reference.T
        room = np.einsum("ikj,ik,kj->ij", abs(second), abs(E), abs(H))
        assert (abs(by_products - reference) <= 60 * EPS["float64"] * (room + room.T)).all()


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e150])
def test_against_50_digits(spectrum, scale):
    w = SPECTRA[spectrum]
    A, E = matrix(w) * scale, directions(len(w))[0] * scale
    for s in EXPONENTS:
        if scale != 1 and abs(s) > 1:
            continue
        L = frechet_derivative(A, E, s=s)
        with mpmath.workdps(50):
            X = exact(A, E, real(s))
            size = mpmath.sqrt(sum(v**2 for v in X.ravel()))
            gap = mpmath.sqrt(sum((v - mpmath.mpf(float(u))) ** 2 for u, v in zip(L.ravel(), X.ravel(), strict=True)))
            error = float(gap / size)
        assert error <= EPS["float64"] * (10 * abs(float(s) - 1) * w.max() / w.min() + 20), s
        assert (L == L.T).all()


RULES = [
    None,
    Ridge(0.05),
    Ridge(absolute=0.01),
    Ridge(0.01, 0.02),
    Floor(0.05),
    Floor(0.02, absolute=0.05),
    Shift(0.1),
    Shift(absolute=0.05),
    Shift(1e-9),
    TargetCondition(20.0),
    TargetCondition(1e9),
    PseudoInverse(0.05),
    PseudoInverse(0.0, absolute=0.05),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_derivatives_under_every_rule(rule):
    """Of the regularized power as it is computed, differences of which are taken; and all four forms agree."""
    w = np.array([1.0, 0.8, 0.3, 0.3, 0.03, 0.02])
    A, h = matrix(w), 1e-6
    E, H, G = directions(len(w))
    for s in (Fraction(-1, 2), Fraction(2, 3), 0.37, Fraction(2)):
        power = Power(s, rule, "pos", "float64")

        def moved(t, s=s):
            return solve_power(A + t * E, s, regularization=rule).x

        L, D = form("derivative", power, A, E), form("second", power, A, E, H)
        numerical = (moved(h) - moved(-h)) / (2 * h)
        assert np.linalg.norm(L - numerical) <= 1e-7 * np.linalg.norm(L)
        plus, minus = (form("derivative", power, A + t * H, E) for t in (h, -h))
        assert np.linalg.norm(D - (plus - minus) / (2 * h)) <= 1e-7 * np.linalg.norm(D)
        assert np.vdot(form("adjoint", power, A, G), E) == pytest.approx(np.vdot(G, L), rel=1e-12, abs=1e-12)
        S = form("second_adjoint", power, A, E, G)
        assert np.vdot(S, H) == pytest.approx(np.vdot(G, D), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("scale", [1e-150, 12.0, 1e150])
@pytest.mark.parametrize("rule", [None, Ridge(0.05)], ids=str)
def test_scaling(rule, scale):
    """The form of c A in the directions c E is c^s times that of A."""
    A, E, H = matrix(SPECTRA["equal"]), *directions(5)[:2]
    for s in (Fraction(-1, 2), 0.3):
        power = Power(s, rule, "pos", "float64")
        for name in FORMS:
            given = (E,) if name in FORMS[:2] else (E, H)
            scaled = form(name, power, A * scale, *(d * scale for d in given)) / scale ** float(s)
            expected = form(name, power, A, *given)
            assert np.linalg.norm(scaled - expected) <= 1e-10 * np.linalg.norm(expected)


def test_the_ridge_moves_with_the_largest_eigenvalue():
    """A = diag(4, 1) with the ridge 4 r: moving 4 by t moves both eigenvalues, by (1 + r) t and r t."""
    A, E, r = np.diag([4.0, 1.0]), np.diag([1.0, 0.0]), 0.25
    L = frechet_derivative(A, E, 2, regularization=r)
    assert L == pytest.approx(-0.5 * np.diag([1.25 * 5**-1.5, 0.25 * 2**-1.5]))
    floor = frechet_derivative(np.diag([4.0, 1.0]), E, 1, regularization=Floor(0.5))
    assert floor == pytest.approx(-np.diag([1 / 16, 0.5 / 4]))  # the floor is 2, and moves by t / 2
    none = frechet_derivative(np.diag([4.0, 0.0]), np.ones((2, 2)), 1, regularization=PseudoInverse())
    assert none == pytest.approx(np.array([[-1 / 16, 1 / 16], [1 / 16, 0.0]]))


def test_equal_largest_eigenvalues_share_the_ridge():
    L = frechet_derivative(np.eye(2), np.diag([1.0, 0.0]), 1, regularization=Ridge(1.0))
    assert L == pytest.approx(-np.diag([1.5, 0.5]) / 4)


def power_of(A, s):
    w, V = mpmath.eig(A)
    return V * mpmath.diag([lam**s for lam in w]) * V**-1


@pytest.mark.parametrize("kind", ["real", "complex", "defective"])
def test_general_matrices_against_differences_in_90_digits(kind):
    rng, n = np.random.default_rng(3), 3
    A = rng.standard_normal((n, n)) + 3 * np.eye(n)
    if kind == "complex":
        A = A + 1j * rng.standard_normal((n, n))
    if kind == "defective":
        A = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 2.0]])
    E, H = rng.standard_normal((2, n, n))
    for s in (Fraction(-1, 2), Fraction(1, 3), Fraction(-1)):
        with mpmath.workdps(90):
            M, e, h = (mpmath.matrix(v.tolist()) for v in (A, E, H))
            t, S = mpmath.mpf(10) ** -18, real(s)
            plus, minus = power_of(M + t * e, S), power_of(M - t * e, S)
            first = (plus - minus) / (2 * t)
            mixed = [power_of(M + t * (i * e + j * h), S) * i * j for i in (-1, 1) for j in (-1, 1)]
            second = sum(mixed[1:], mixed[0]) / (4 * t**2)
        first, second = (np.array(x.tolist(), dtype=complex) for x in (first, second))
        power = Power(s, None, "gen", "float64")
        L, D = frechet_derivative(A, E, s=s, assume_a="gen"), form("second", power, A, E, H)
        assert np.linalg.norm(L - first) <= 50 * EPS["float64"] * np.linalg.norm(first)
        assert np.linalg.norm(D - second) <= 200 * EPS["float64"] * np.linalg.norm(second)
        G = rng.standard_normal((n, n))
        assert np.vdot(form("adjoint", power, A, G), E).real == pytest.approx(np.vdot(G, L).real)
        S = form("second_adjoint", power, A, E, G)
        assert np.vdot(S, H).real == pytest.approx(np.vdot(G, D).real)


def test_general_with_a_ridge():
    rng = np.random.default_rng(0)
    A, E, G = rng.standard_normal((3, 4, 4))
    A = A + 4 * np.eye(4)
    L = frechet_derivative(A, E, 3, assume_a="gen", regularization=0.1)

    def moved(t):
        return matroot.inverse_pth_root(A + t * E, 3, assume_a="gen", regularization=0.1)

    assert L == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-6, abs=1e-9)
    power = Power(Fraction(-1, 3), Ridge(0.1), "gen", "float64")
    assert np.vdot(form("adjoint", power, A, G), E) == pytest.approx(np.vdot(G, L))
    with pytest.raises(ValueError, match="absolute"):
        form("second", power, A, E, E)


def test_a_batch_is_a_loop_and_broadcasts():
    A = np.stack([matrix(SPECTRA["spread"], seed) for seed in range(3)])
    E = directions(5, 2)
    L = frechet_derivative(A[:, None], E, 3)
    assert L.shape == (3, 2, 5, 5)
    for i in range(3):
        for j in range(2):
            one = frechet_derivative(A[i], E[j], 3)
            assert np.linalg.norm(L[i, j] - one) <= 1e-9 * np.linalg.norm(one)
    assert frechet_derivative(np.zeros((0, 3, 3)), np.zeros((3, 3)), 2).shape == (0, 3, 3)
    assert (frechet_derivative(A[0].tolist(), E[0].tolist(), 3) == frechet_derivative(A[0], E[0], 3)).all()
    assert frechet_derivative(A.astype("f4"), E[0].astype("f4"), 2).dtype == np.float32


@pytest.mark.parametrize("function", [frechet_derivative, spectral_derivative])
def test_the_result_has_the_wider_dtype(function):
    """complex64 of a complex and a float64 array had lost its imaginary part; float16 and float32 gave float16."""
    A, E, turn = np.array([[4.0, 1.0], [1.0, 3.0]]), np.array([[1.0, 2.0], [2.0, -3.0]]), np.array([[0, 1j], [-1j, 0]])
    argument = 2 if function is frechet_derivative else 0.5
    for one, other, wider in (
        ("complex64", "float64", "complex128"),
        ("float64", "complex64", "complex128"),
        ("float16", "float32", "float32"),
        ("float32", "float16", "float32"),
        ("float32", "int64", "float32"),
        ("int64", "float16", "float16"),
        ("int64", "int64", "float64"),
    ):
        a, e = ((M + turn if dtype[0] == "c" else M).astype(dtype) for dtype, M in ((one, A), (other, E)))
        found = function(a, e, argument)
        exact = function(*(M.astype(np.result_type(M, float)) for M in (a, e)), argument)
        assert found.dtype == wider
        assert np.allclose(found, exact, rtol=0, atol=40 * EPS[wider] * abs(exact).max())


def test_a_matrix_without_derivative():
    stack = np.stack([np.eye(2), -np.eye(2), np.full((2, 2), np.nan), np.diag([1.0, 0.0])])
    E = np.broadcast_to(np.eye(2), stack.shape)
    with pytest.raises(RootError, match="3 of 4"):
        frechet_derivative(stack, E, 2)
    for name in FORMS:
        given = (E,) if name in FORMS[:2] else (E, E)
        value, failed = evaluate(name, Power(Fraction(1, 2), None, "pos", "float64"), stack, given)
        assert failed.tolist() == [False, True, True, True]
        assert np.isfinite(value[0]).all() and np.isnan(value[1:]).all()


def test_second_derivatives_of_singular_matrices():
    """They were NaN for A^2."""
    A, (E, H, G) = np.diag([0.0, 0.0, 1.0, 2.0]), directions(4)
    squares = E @ H @ A + E @ A @ H + A @ E @ H
    exact = {1: np.zeros((4, 4)), 2: E @ H + H @ E, 3: squares + H @ E @ A + H @ A @ E + A @ H @ E}
    for s, D in exact.items():
        power = Power(Fraction(s), None, "pos", "float64")
        for stack in (A, np.zeros((4, 4)))[: 1 if s == 3 else 2]:
            assert form("second", power, stack, E, H) == pytest.approx(D, abs=1e-13)
            assert (form("second_adjoint", power, stack, E, G) * H).sum() == pytest.approx((G * D).sum(), abs=1e-12)
    found = form("second", Power(Fraction(5, 2), None, "pos", "float64"), A, E, H)[:2, :2]
    beside = np.diag([1.0, 2**0.5])  # f[0, 0, x] = x^(1/2)
    assert found == pytest.approx(E[:2, 2:] @ beside @ H[2:, :2] + H[:2, 2:] @ beside @ E[2:, :2])
    for name in FORMS[2:]:
        value, failed = evaluate(name, Power(Fraction(3, 2), None, "pos", "float64"), A[None], (E[None], H[None]))
        assert failed.all() and np.isnan(value).all()


@pytest.mark.parametrize("s", [Fraction(3, 2), Fraction(4, 3), 1.7, Fraction(5, 2)])
def test_derivatives_above_exponent_1_of_singular_general_matrices(s):
    """Between null vectors the difference is 0; it was some 1e18 times a rounding error."""
    V = np.array([[1.0, 0.0, 0.0, 2.0], [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    E, inverse, w = np.arange(16.0).reshape(4, 4) % 5 - 2, np.linalg.inv(V), np.array([0.0, 0.0, 1.0, 3.0])
    with np.errstate(invalid="ignore", divide="ignore"):
        quotients = (w[:, None] ** float(s) - w ** float(s)) / (w[:, None] - w)
    quotients = np.where(w[:, None] == w, float(s) * w ** (float(s) - 1), quotients)
    exact = V @ (quotients * (inverse @ E @ V)) @ inverse
    for turn in (1.0, np.exp(0.5j)):
        A = turn * (V * w) @ inverse
        found = frechet_derivative(A, turn * E, s=s, assume_a="gen")
        assert np.allclose(found, turn ** float(s) * exact, rtol=0, atol=1e-12)
        G = np.cos(np.arange(16.0)).reshape(4, 4)
        power = Power(s, None, "gen", "float64")
        adjoint = form("adjoint", power, A, G + 0j * turn)
        assert (G * found).sum() == pytest.approx((adjoint.conj() * turn * E).sum())
        assert evaluate("second", power, A[None], (A[None], A[None]))[1].all()
    assert not frechet_derivative(np.zeros((2, 2)), np.ones((2, 2)), s=s, assume_a="gen").any()


def test_a_singular_general_matrix_has_a_derivative_from_exponent_1_on():
    P = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.1, 0.1, 0.8]])
    E = directions(3)[0]
    for s in (Fraction(1, 3), Fraction(-1, 3), Fraction(-1)):
        with pytest.raises(RootError):
            frechet_derivative(P, E, s=s, assume_a="gen")
    assert frechet_derivative(P, E, s=2, assume_a="gen") == pytest.approx(P @ E + E @ P)


def test_wrong_arguments():
    A = np.eye(3)
    for call, error, words in (
        (lambda: frechet_derivative(A, A), TypeError, "give p"),
        (lambda: frechet_derivative(A, A, 2, s=0.5), TypeError, "give p"),
        (lambda: frechet_derivative(A, A[:2], 2), ValueError, "like a"),
        (lambda: frechet_derivative(A, "E", 2), TypeError, "e must be an array"),
        (lambda: frechet_derivative(A, [[1.0]], 2), ValueError, "like a"),
        (lambda: frechet_derivative(np.ones((2, 3, 3)), np.ones((4, 3, 3)), 2), ValueError, "broadcast"),
        (lambda: frechet_derivative(np.triu(np.ones((3, 3))), A, 2), ValueError, "symmetric"),
        (lambda: frechet_derivative(A, A, 0), ValueError, "positive"),
    ):
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("n", [2, 8, 40, 300])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_has_no_derivative(n, bad):
    """In the matrix or in the direction; the reduction of large matrices takes an infinite last row for a fine one."""
    use_kernels()
    A, E = np.diag(np.arange(1.0, n + 1)), np.ones((n, n))
    for i in (0, n - 1):
        broken = A.copy()
        broken[i, i] = bad
        for pair in ((broken, E), (A, broken)):
            for stack in (pair, (np.stack([A, pair[0]]), np.stack([E, pair[1]]))):
                with pytest.raises(RootError, match="NaN or infinity"):
                    frechet_derivative(*stack, 2)


@pytest.mark.parametrize("size", [1e-300, 1e300])
@pytest.mark.parametrize("s", [-(2**-0.5), 2**-0.5, -0.123456789])
def test_real_exponents_at_the_ends_of_the_range(s, size):
    """s - 1 is rounded in float64, and 2^(1000 (s - 1)) with it: 400 roundings of the result."""
    A = np.array([[size]])
    with mpmath.workdps(40):
        exact = float(mpmath.mpf(s) * mpmath.mpf(size) ** (mpmath.mpf(s) - 1) * mpmath.mpf(size))
    assert frechet_derivative(A, A, s=s)[0, 0] == pytest.approx(exact, rel=16 * 2.0**-53, abs=0)

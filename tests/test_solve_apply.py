"""A^s B of sparse matrices, operators and functions: the error is below its bound."""

import math
import warnings
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from matroot import (
    Floor,
    Ridge,
    RootError,
    Status,
    frechet_derivative,
    gallery,
    solve_apply,
)
from matroot.applied.krylov import Krylov
from matroot.applied.operators import operator
from matroot.applied.shifted import rule
from matroot.backends.arrays import take

sparse = pytest.importorskip("scipy.sparse")
linalg = pytest.importorskip("scipy.sparse.linalg")

EPS = 2.0**-53
EXPONENTS = (Fraction(-1, 2), Fraction(-1, 3), Fraction(-1), -0.7, Fraction(1, 2), Fraction(1, 8), 0.9)
FORMS = {
    "csr": sparse.csr_array,
    "coo": sparse.coo_matrix,
    "csc": sparse.csc_matrix,
    "operator": linalg.aslinearoperator,
    "function": lambda A: lambda v: A @ v,
}


def columns(n, k=3, dtype="f8", seed=1):
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((n, k)) + (1j * rng.standard_normal((n, k)) if np.dtype(dtype).kind == "c" else 0)
    return B.astype(dtype)


def errors(X, exact):
    return np.linalg.norm(X - exact, axis=0) / np.linalg.norm(exact, axis=0)


def power(A, s, B):
    w, Q = np.linalg.eigh(A)
    return (Q * w ** float(s)) @ (Q.conj().T @ B)


def grid(m):
    """The Laplacian of a grid of m x m points."""
    T = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    return (sparse.kron(T, sparse.eye_array(m)) + sparse.kron(sparse.eye_array(m), T)).tocsr()


def of_reference(cond):
    """The error of a reference by eigh in float64."""
    return 40 * EPS * cond


@pytest.mark.parametrize(
    ("form", "dtype"), [("csr", "f8"), ("coo", "f8"), ("csc", "c16"), ("operator", "f8"), ("function", "c16")]
)
def test_the_error_is_below_its_bound_and_rtol(form, dtype):
    for cond, rtol in ((3.0, None), (1e3, 1e-3), (1e6, 1e-8), (1e6, None)):
        A, root = gallery.spd(40, cond, "power_law", dtype=np.dtype(dtype), rng=0)
        B = columns(40, 2, dtype)
        for s in EXPONENTS:
            methods = ("auto",) if form in ("operator", "function") else ("lanczos", "poles")
            for method in methods:
                result = solve_apply(FORMS[form](A), None, B, s=s, rtol=rtol, method=method)
                off = errors(result.x, root(s) @ B)
                assert (off <= result.error + of_reference(cond)).all()
                assert (result.error <= (rtol or 1e-2)).all() and (result.status == 0).all()
                assert rtol or (result.error <= 2000 * EPS + 400 * EPS * cond).all()


def test_against_fifty_digits():
    n = 24
    with mpmath.workdps(50):
        angles = [mpmath.pi * j / (n + 1) for j in range(1, n + 1)]
        Q = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(n):
                Q[i, j] = mpmath.sqrt(mpmath.mpf(2) / (n + 1)) * mpmath.sin((i + 1) * angles[j])
        w = [2 - 2 * mpmath.cos(t) for t in angles]
        B = columns(n, 1)
        for s in (Fraction(-1, 2), Fraction(1, 4)):
            F = mpmath.diag([x ** (mpmath.mpf(s.numerator) / s.denominator) for x in w])
            exact = np.array((Q * F * Q.T * mpmath.matrix(B.tolist())).tolist(), dtype=float)
            A = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
            for method in ("lanczos", "poles"):
                result = solve_apply(A, None, B, s=s, method=method)
                off = errors(result.x, exact)
                assert off <= result.error <= 1e-11 and off < 100 * EPS * float(w[-1] / w[0])


def test_random_problems_keep_their_bounds():
    """Clustered, spread and tiny spectra, wide scales, ridges: no error above its bound, no rtol missed."""
    for i in range(60):
        rng = np.random.default_rng(i)
        n, cond, e = int(rng.integers(2, 40)), 10 ** rng.uniform(0, 8), int(rng.integers(-900, 900))
        w = np.geomspace(1 / cond, 1, n) if i % 2 else 1 / cond + rng.random(n) ** 3
        Q = gallery.orthogonal(n, rng=rng)
        A = (Q * w) @ Q.T
        A = (A + A.T) / 2
        s = EXPONENTS[i % len(EXPONENTS)]
        rtol = 10 ** rng.uniform(-8, -2)
        ridge = 10 ** rng.uniform(-6, 0) if i % 3 == 0 else 0.0
        a = FORMS[list(FORMS)[i % 5]](np.ldexp(A, e))
        rule_ = Ridge(absolute=float(np.ldexp(ridge, e))) if ridge else None
        B = columns(n, 2)
        result = solve_apply(a, None, B, s=s, rtol=rtol, regularization=rule_)
        exact = power(A + ridge * np.eye(n), s, B)
        back = -Fraction(s) * e
        x = np.ldexp(result.x, math.floor(back)) * 2.0 ** float(back - math.floor(back))
        off = errors(x, exact)
        assert (off <= result.error + of_reference(cond)).all(), i
        assert (result.error <= rtol).all(), i
        assert result.certificate == "bound" or not ridge


class TestBounds:
    def test_a_lower_bound_or_a_ridge_or_pivots_make_a_bound_of_an_estimate(self):
        A, B = grid(12), columns(144, 1)
        least = 8 * np.sin(np.pi / 26) ** 2
        assert solve_apply(A, 2, B, method="lanczos").certificate == "estimate"
        assert solve_apply(A, 2, B, method="lanczos", lambda_min=0.99 * least).certificate == "bound"
        assert solve_apply(A, 2, B, method="lanczos", regularization=1e-3).certificate == "bound"
        assert solve_apply(A, 2, B, method="lanczos", inverse=False, rtol=1e-6).certificate == "bound"
        assert solve_apply(A, 2, B, method="poles").certificate == "bound"

    def test_a_wrong_lower_bound_is_refused(self):
        with pytest.raises(ValueError, match=r"lambda_min = 1.000e\+00 is no lower bound: a has a Ritz value of"):
            solve_apply(grid(12), 2, columns(144, 1), lambda_min=1.0)

    def test_a_result_that_is_off_is_above_the_bound(self):
        """The bound is no formality: it is within a factor of 1e3 of the error, and follows it."""
        A, root = gallery.spd(200, 1e3, "geometric", rng=0)
        B = columns(200, 1)
        ratios = []
        for steps in range(30, 100, 10):
            result = solve_apply(lambda v: A @ v, 2, B, max_iter=steps, lambda_min=0.9e-3)
            ratios.append(float((result.error / errors(result.x, root(Fraction(-1, 2)) @ B))[0]))
            assert result.status[0] == Status.MAX_ITER
        known = [r for r in ratios if np.isfinite(r)]
        assert len(known) >= 4 and 1 <= min(known) and np.median(known) < 1e3

    def test_the_residuals_of_damaged_factors_are_in_the_bound(self, monkeypatch):
        honest = linalg.splu

        class Damaged:
            def __init__(self, factors):
                self.factors = factors

            def __getattr__(self, name):
                return getattr(self.factors, name)

            def solve(self, B):
                return self.factors.solve(B) * (1 + 1e-6 * np.cos(np.arange(len(B)))[:, None])

        monkeypatch.setattr(linalg, "splu", lambda *args, **options: Damaged(honest(*args, **options)))
        B = columns(36, 2)
        for s in (Fraction(-1, 2), Fraction(1, 2)):
            result = solve_apply(grid(6), None, B, s=s, method="poles")
            off = errors(result.x, power(grid(6).toarray(), s, B))
            assert (off > 1e-8).all() and (off <= result.error).all() and result.error.max() < 1e-3

    def test_poles_are_as_accurate_as_they_say(self):
        for s in EXPONENTS:
            for accuracy in (1e-4, 1e-10):
                found = rule(s, 1e-6, 3.0, accuracy)
                x = np.geomspace(1e-6, 3.0, 500)[:, None]
                f = (found.w / (x + found.t)).sum(1) * (x[:, 0] if s > 0 else 1)
                assert abs(f * x[:, 0] ** -float(s) - 1).max() <= found.delta + 1e-14


class TestMemory:
    def test_vectors_that_are_not_kept_are_computed_again(self):
        A, _ = gallery.spd(40, 100.0, rng=0)
        B = columns(40, 2)
        start = B / np.linalg.norm(B, axis=0)
        C = np.random.default_rng(0).standard_normal((30, 2))
        found = []
        for kept in (2**20, 5 * start.nbytes):
            count = []
            krylov = Krylov(lambda V, count=count: (count.append(1), A @ V)[1], start, np, kept)
            for _ in range(30):
                krylov.step(EPS)
            Y, drift, again = krylov.combined(C)
            assert len(count) == 30 + again and np.allclose(drift, 1)
            found.append(Y)
            assert len(krylov.vectors) == (31 if again == 0 else 5)
        assert again == 26
        assert np.allclose(*found, rtol=1e-10)

    def test_products_are_counted_and_columns_go_together(self):
        A, _ = gallery.spd(80, 1e3, rng=0)
        calls = []

        def product(V):
            calls.append(V.shape)
            return A @ V

        result = solve_apply(product, 2, columns(80, 5), rtol=1e-6)
        assert result.n_products == sum(shape[1] for shape in calls)
        assert calls[-1] == (80, 5) and calls.count((80, 5)) == result.n_iter
        calls.clear()
        assert solve_apply(product, 2, columns(80, 1)[:, 0]).x.shape == (80,)
        assert set(calls) == {(80,)}


class TestChoice:
    def test_bands_are_factorized_and_random_graphs_are_not(self):
        band = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(400, 400))
        result = solve_apply(band, 2, columns(400, 1), rtol=1e-6)
        assert result.method == "poles" and result.n_factorizations == result.n_iter + 2
        rng = np.random.default_rng(0)
        W = sparse.csr_array(rng.random((300, 300)) * (rng.random((300, 300)) < 0.03))
        W = W + W.T
        L = sparse.diags_array(W.sum(0)) - W
        result = solve_apply(L, 2, columns(300, 1), rtol=1e-6, regularization=Ridge(absolute=0.1))
        assert result.method == "lanczos" and result.n_factorizations == 0

    def test_lanczos_gives_way_to_factorizations_that_cost_no_more(self):
        A = grid(16) - 0.99 * 8 * np.sin(np.pi / 34) ** 2 * sparse.eye_array(256)  # cond 1e4
        scattered = np.random.default_rng(0).permutation(256)
        result = solve_apply(A.tocsr()[scattered][:, scattered], 2, columns(256, 20), rtol=1e-9)
        assert result.method == "poles" and result.status.max() == 0

    def test_inertia_finds_an_eigenvalue_that_vectors_miss(self):
        A = sparse.block_diag([grid(8), sparse.csr_array([[1e-9]])]).tocsr()
        B = columns(65, 1)
        B[-1] = 1e-3
        result = solve_apply(A, 2, B, method="poles", rtol=1e-6)
        assert result.lambda_min == pytest.approx(1e-9, rel=1e-3)
        assert errors(result.x, power(A.toarray(), -0.5, B)) <= result.error


def test_the_bound_of_the_largest_eigenvalue_holds():
    for seed in range(20):
        w = np.geomspace(1e-8, 1, 300) ** (1 + seed % 4)
        A = gallery.orthogonal(300, rng=seed) if seed < 3 else np.eye(300)
        A = (A * w) @ A.T
        from matroot.applied.operators import spectrum

        b = np.ones((300, 1))
        found = spectrum(operator(lambda v, A=A: A @ v, b, take(b)[1], False, 0.0))
        assert found.smallest >= -1e-14 and found.largest <= 1 + 1e-12 <= found.above


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
@pytest.mark.parametrize("form", ["function", "sparse", "dense"])
@pytest.mark.parametrize("absolute", [0.0, 1.0, 1e300])
def test_numbers_of_any_size_beside_a_matrix_of_any_size(size, form, absolute):
    A = np.diag([1.0, 2.0, 4.0]) * size
    a = {"function": lambda v: A @ v, "sparse": sparse.csr_array(A), "dense": A}[form]
    result = solve_apply(a, 2, np.ones(3), regularization=Ridge(absolute=absolute))
    assert result.status == 0 and result.ridge == absolute
    assert np.allclose(result.x, (A.diagonal() + absolute) ** -0.5, rtol=1e-14)
    for low in (1e-305, 1e-5 * size):
        assert solve_apply(a, 2, np.ones(3), lambda_min=low).status == 0
    if form != "dense":
        with pytest.raises(ValueError, match="is no lower bound"):
            solve_apply(a, 2, np.ones(3), lambda_min=1e305)


def test_subnormal_operators_and_matrices_without_a_power():
    tiny = sparse.diags_array([2.0**-1030, 2.0**-1032])
    for a in (tiny, lambda v: tiny @ v):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert solve_apply(a, 2, np.array([1.0, 0.0])).x[0] == pytest.approx(2.0**515)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for A in (np.zeros((3, 3)), -np.eye(3), np.full((3, 3), np.nan)):
            assert str(solve_apply(A, 2, np.ones((3, 2))))
            with pytest.raises(RootError):
                frechet_derivative(np.where(A == -1, np.inf, A), np.eye(3), 2)


@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(-1, 2), 0.3])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_a_negative_definite_function_has_no_power(s, n):
    """Its largest eigenvalue is negative, and so nothing bounds it from above: x = 0 with error 0 is no answer."""
    A = -np.diag(np.linspace(1, 2, n))
    for a in (lambda v: A @ v, linalg.aslinearoperator(A), sparse.csr_array(A)):
        for b in (np.ones(n), np.ones((n, 2))):
            result = solve_apply(a, None, b, s=s)
            assert (result.status == Status.NOT_POSITIVE).all() and np.isnan(result.x).all()
    zero = solve_apply(lambda v: 0 * v, 2, np.ones(n), inverse=False)
    assert zero.status == 0 and not zero.x.any() and zero.error == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_products_that_are_not_finite_have_a_status_and_no_warning(bad):
    for n in (1, 3, 40):
        for at in {0, n - 1}:

            def a(v, at=at):
                w = 2.0 * v
                w[at] = bad
                return w

            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result = solve_apply(a, 2, np.ones(n))
                assert result.status == Status.NONFINITE_INPUT and str(result)


def test_the_message_of_an_indefinite_matrix_says_nothing_beside():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for a in (np.diag([1.0, -2.0]), sparse.csr_array(np.diag([1.0, -2.0]))):
            assert "not all positive" in str(solve_apply(a, 3, np.ones(2), inverse=False))
        v = np.array([0.3, 0.7])  # what a ridge relative to lambda_max = 0 leaves is rounding
        assert solve_apply(-np.outer(v, v), 3, np.ones(2), inverse=False, regularization=Floor(0.005)).status != 0


@pytest.mark.parametrize("s", [Fraction(1, 2), Fraction(1, 7)])
def test_an_eigenvalue_in_the_rounding_of_lapack_is_in_the_bound(s):
    """It may be taken for 0, and its power is then an error that the bound has to hold."""
    blind = 0
    for angle in np.linspace(0.1, 1.4, 60):
        v = np.array([np.cos(angle), np.sin(angle)])
        A = np.outer(v, v)
        with mpmath.workdps(50):
            w, Q = mpmath.eigsy(mpmath.matrix(A.tolist()))
            if not w[0] > 0:
                continue
            f = Q * mpmath.diag([x ** (mpmath.mpf(s.numerator) / s.denominator) for x in w]) * Q.T
        exact = np.array([float(f[0, 0]), float(f[1, 0])])
        result = solve_apply(A, None, np.array([1.0, 0.0]), s=s)
        assert np.linalg.norm(result.x - exact) <= result.error * np.linalg.norm(exact)
        blind += np.linalg.eigvalsh(A)[0] <= 0
    assert blind

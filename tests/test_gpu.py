"""The GPU path without a card: every solve on a double of cupy's arrays that cannot be asked for a value."""

from fractions import Fraction

import numpy as np
import pytest
from cupy_double import Waited, ndarray, waiting_forbidden
from table import distance

from matroot import (
    CoupledNewton,
    Eigen,
    Floor,
    HigherOrder,
    Minimax,
    NewtonDB,
    PseudoInverse,
    Ridge,
    Shift,
    Status,
    TargetCondition,
    fractional_power,
    frechet_derivative,
    gallery,
    solve,
)
from matroot._bars import forward_error_bound
from matroot._solve import solve_power

EPS = {"float64": 2.0**-53, "float32": 2.0**-24}
SPECTRA = ("geometric", "two_cluster", "power_law")
METHODS = (
    Minimax(),
    Minimax(accurate=True),
    Eigen(),
    Eigen(refine=False),
    CoupledNewton(),
    HigherOrder(order=3),
    NewtonDB(),
)


pytestmark = pytest.mark.usefixtures("cupy")


def on_device(A):
    return ndarray(np.array(A))


def blind(A, p, **options):
    """A solve that may not ask the device anything."""
    with waiting_forbidden():
        return solve(on_device(A), p, **options)


def serves(method, p):
    return not isinstance(method, NewtonDB) or p in (2, 4, 8)


def test_the_double_refuses_questions():
    a = on_device(np.eye(3))
    for question in (bool, float, int, ndarray.get, lambda a: a[a > 0], lambda a: a.item(), lambda a: 1 if a else 0):
        with waiting_forbidden(), pytest.raises(Waited):
            question(a)
    with pytest.raises(TypeError, match="numpy array among device arrays"):
        a + np.eye(3)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(a)


@pytest.mark.slow
@pytest.mark.parametrize("p", range(1, 9))
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_forward_error_of_inverse_roots(p, method):
    if not serves(method, p):
        return
    eps = EPS["float64"]
    for n in (2, 31, 64):
        for cond in (1e1, 1e4, 1e6, 1e9, 1e12):
            stack, roots = zip(*(gallery.spd(n, cond, s, rng=n) for s in SPECTRA), strict=True)
            result = blind(np.stack(stack), p, method=method)
            bar = (4 if method == Minimax(accurate=True) else 3) * cond / p * eps + 10 * n * eps
            bar *= 8 if method == Eigen(refine=False) else 1  # LAPACK's eigenvalues are off by 10 eps
            for X, root in zip(result.x.get(), roots, strict=True):
                assert distance(X, root(Fraction(-1, p))) <= bar, (n, cond)
                assert (X == X.T).all()
            assert np.isin(result.status.get(), (Status.CONVERGED, Status.ILL_CONDITIONED)).all()
            assert np.allclose(np.log10(result.cond.get()), np.log10(cond), atol=0.05)


@pytest.mark.parametrize("p", range(2, 9))
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_forward_error_of_roots(p, method):
    if not serves(method, p):
        return
    for cond in (1e1, 1e5, 1e10):
        A, root = gallery.spd(31, cond, rng=p)
        result = blind(A, p, method=method, inverse=False)
        bar = 30 * float(forward_error_bound(np.array(cond), Fraction(1, p), 2.0**-53)) + 500 * 2.0**-53
        assert distance(result.x.get(), root(Fraction(1, p))) <= bar
        assert result.status.get() == Status.CONVERGED


@pytest.mark.parametrize("s", [0, 1, 3, *(Fraction(*f) for f in ((3, 4), (5, 2), (-2, 3), (-3, 2), (-7, 4)))])
@pytest.mark.parametrize("method", ["auto", "coupled_newton", "higher_order"])
def test_rational_exponents(s, method):
    A, root = gallery.spd(12, 1e3, rng=1)
    with waiting_forbidden():
        result = solve_power(on_device(A), Fraction(s), method=method)
    assert distance(result.x.get(), root(Fraction(s))) <= 1e-10
    assert result.residual.get() <= 1e-15 * 1e3 ** max(1, -Fraction(s).numerator)  # of X^b A^a - I


def test_irrational_exponent():
    A, root = gallery.spd(12, 1e3, rng=1)
    X = fractional_power(on_device(A), -0.1234567890123)
    assert distance(X.get(), root(-0.1234567890123)) <= 1e-13


@pytest.mark.parametrize("method", ["coupled_newton", "higher_order", "newton_db", "eigen"])
@pytest.mark.parametrize("inverse", [True, False])
def test_same_as_the_cpu(method, inverse):
    """Iterates, step counts, statuses and certificates are the CPU's."""
    A = np.stack([gallery.spd(40, cond, rng=3)[0] for cond in (1e2, 1e5, 1e8)])
    ours, theirs = blind(A, 4, method=method, inverse=inverse), solve(A, 4, method=method, inverse=inverse)
    bound = 30 * forward_error_bound(theirs.cond, theirs.exponent, 2.0**-53) + 1e-13
    for X, Y, most in zip(ours.x.get(), theirs.x, bound, strict=True):
        assert distance(X, Y) <= most
    if method == "newton_db" or (inverse and method == "coupled_newton"):  # the same products in the same order
        assert np.allclose(ours.x.get(), theirs.x, rtol=0, atol=1e-17 * abs(theirs.x).max())
    assert (ours.status.get() == theirs.status).all()
    assert np.allclose(ours.cond.get(), theirs.cond, rtol=1e-2)
    if method == "eigen":
        assert ours.n_products == theirs.n_products == 5
    else:
        assert (ours.n_iter.get() == theirs.n_iter).all()
    if inverse and method != "eigen":
        assert np.allclose(ours.residual.get(), theirs.residual, rtol=0.5)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("inverse", [True, False])
def test_bad_matrices_leave_the_others_alone(method, inverse):
    good = [gallery.spd(12, cond, rng=0)[0] for cond in (1e1, 1e6)]
    nan, zero = np.full((12, 12), np.nan), np.zeros((12, 12))
    indefinite = good[0] - 0.3 * np.eye(12)
    askew = good[0] + np.triu(good[0], 1)
    infinite = good[0].copy()
    infinite[0, 0] = np.inf
    batch = np.stack([good[0], nan, zero, indefinite, askew, infinite, good[1]])
    result = blind(batch, 2, method=method, inverse=inverse)
    at_zero = Status.SINGULAR if inverse else Status.CONVERGED
    wanted = [0, Status.NONFINITE_INPUT, at_zero, Status.NOT_POSITIVE, Status.NOT_SYMMETRIC, Status.NONFINITE_INPUT, 0]
    assert result.status.get().tolist() == wanted
    x = result.x.get()
    assert np.isfinite(x).all((-1, -2)).tolist() == [code == 0 for code in wanted]
    assert (x[[0, 6]] == blind(np.stack(good), 2, method=method, inverse=inverse).x.get()).all()
    for i, word in {1: "NaN", 3: "not all positive", 4: "symmetric", 5: "infinity"}.items():
        assert word in result.sentence(i)
    if not inverse:
        assert (x[2] == 0).all()


@pytest.mark.parametrize("p", [2, 4, 8])
def test_root_of_a_singular_matrix(p):
    rng = np.random.default_rng(0)
    for n in (8, 40):
        Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
        w = np.r_[0, 0, 0, np.geomspace(1e-5, 1, n - 3)]
        A = (Q * w) @ Q.T
        result = blind((A + A.T) / 2, p, inverse=False)
        assert result.status.get() in (Status.CONVERGED, Status.ILL_CONDITIONED)
        # A is known to eps, and so are its zeros: to eps^(1/p) in the root
        assert distance(result.x.get(), (Q * w ** (1 / p)) @ Q.T) <= 5 * n**0.5 * (2.0**-53) ** (1 / p)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e-6, 1e6, 1e30, 1e300])
@pytest.mark.parametrize("method", ["auto", "eigen", "newton_db"])
def test_scales(scale, method):
    A, root = gallery.spd(16, 1e4, rng=0)
    for inverse in (True, False):
        s = Fraction(-1 if inverse else 1, 4)
        X = blind(scale * A, 4, method=method, inverse=inverse).x.get()
        assert distance(X / scale ** float(s), root(s)) <= 1e-12


@pytest.mark.parametrize("method", ["auto", "eigen", "coupled_newton"])
def test_roots_beyond_the_range_of_the_dtype(method):
    A = np.stack([np.eye(2), 2 * np.eye(2)])
    for scale, s in ((1e-30, 2), (1e30, 2), (1e30, -2), (1e-30, -2)):
        with waiting_forbidden():
            result = solve_power(on_device((scale * A).astype("float32")), Fraction(s), method=method)
        assert (result.status.get() == Status.DIVERGED).all() and np.isnan(result.x.get()).all()
        assert "left the range of float32" in result.sentence(0)


@pytest.mark.parametrize("p", [1, 2, 8])
@pytest.mark.parametrize("method", ["auto", "eigen"])
def test_the_root_of_zero(method, p):
    result = blind(np.zeros((2, 3, 3)), p, inverse=False, method=method)
    assert (result.status.get() == 0).all() and (result.x.get() == 0).all() and (result.residual.get() == 0).all()


@pytest.mark.parametrize(
    "rule",
    [
        Ridge(relative=1e-3),
        Ridge(absolute=0.02),
        Shift(relative=1e-2),
        TargetCondition(50.0),
        Floor(1e-2),
        PseudoInverse(1e-3),
    ],
    ids=repr,
)
def test_regularizations(rule):
    A = np.stack([gallery.spd(20, 1e5, s, rng=0)[0] for s in SPECTRA]) * 7
    result, reference = blind(A, 4, regularization=rule), solve(A, 4, regularization=rule, method="eigen")
    assert np.allclose(result.x.get(), reference.x, rtol=1e-2, atol=1e-2 * abs(reference.x).max())
    assert np.allclose(result.ridge.get(), reference.ridge, rtol=1e-2)
    assert (result.status.get() == 0).all() and (result.residual.get() < 1e-10).all()
    if rule.changes_spectrum:
        assert isinstance(result.method, Eigen)
    else:  # what was reported as added is what was added
        for a, x, ridge in zip(A, result.x.get(), result.ridge.get(), strict=True):
            assert np.allclose(np.linalg.matrix_power(x, 4) @ (a + ridge * np.eye(20)), np.eye(20), atol=1e-9)


def test_a_floor_shortens_the_work():
    A, _ = gallery.spd(20, 1e5, rng=0)
    for method in ("minimax", "coupled_newton", "newton_db"):
        free, held = (blind(A, 4, method=method, regularization=r).n_products for r in (None, 1e-4))
        assert held < 0.8 * free


def test_retries_raise_the_ridge_and_end():
    A = np.stack([np.diag([1.0, 0.5, -1e-4]), np.eye(3), np.zeros((3, 3)), np.full((3, 3), np.nan)])
    result = solve(on_device(A), 2, regularization=Ridge(relative=1e-6, retries=4))
    assert result.status.get().tolist() == [0, 0, Status.SINGULAR, Status.NONFINITE_INPUT]
    assert np.allclose(result.ridge.get()[:2], [1e-3, 1e-6], rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 0), (0, 0), (1, 1), (2, 3, 1, 1)])
def test_small_and_empty(shape):
    result = blind(np.full(shape, 16.0), 4)
    assert result.x.shape == shape and result.status.shape == shape[:-2]
    assert np.allclose(result.x.get(), 0.5)


@pytest.mark.parametrize("method", ["eigen", "minimax", "coupled_newton", "newton_db"])
def test_the_rounding_of_float32_denies_no_root(method):
    """A covariance of fewer samples than features: some eigenvalues are zeros that rounding has made negative.

    An iteration may fail there; that there is no root would be wrong.
    """
    B = np.random.default_rng(0).standard_normal((10, 40), dtype="float32")
    C = B.T @ B
    C = (C + C.T) / 2
    assert np.linalg.eigvalsh(C.astype(float))[0] < 0
    result = blind(C, 2, method=method, inverse=False)
    assert result.status.get() != Status.NOT_POSITIVE
    if method == "eigen":
        X = result.x.get().astype(float)
        assert result.status.get() == Status.CONVERGED
        assert np.linalg.norm(X @ X - C, 2) <= 40 * 2.0**-24 * np.linalg.norm(C, 2)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [None, 0.1, Floor(0.5), PseudoInverse()], ids=str)
def test_derivatives(rule):
    A = np.stack([np.diag([1.0, 2.0, 3.0]), np.diag([1.0, 1.0, 2.0])])
    E = np.broadcast_to(np.ones((3, 3)), A.shape).copy()
    for s in (Fraction(-1, 3), 0.3):
        found = frechet_derivative(on_device(A), on_device(E), s=s, regularization=rule)
        assert isinstance(found, ndarray)
        assert np.allclose(found.get(), frechet_derivative(A, E, s=s, regularization=rule), rtol=1e-13)

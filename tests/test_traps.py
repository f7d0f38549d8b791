"""One test for every trap of the numerics, each seen in a published implementation."""

import re
from fractions import Fraction

import numpy as np
import pytest
from table import EPS, ITERATIONS, METHODS, NAMED, distance, problem, true_residual

from matroot import RootError, Status, fractional_power, gallery, inverse_pth_root, solve

ROWS = list(NAMED.values())


@pytest.mark.parametrize("row", [row for row in METHODS if row.single], ids=str)
def test_1_convergence_of_the_iteration_is_no_certificate(row):
    """float32, p = 2, kappa = 1e8: M - I is 4e-7 and the root is wrong by half. Never CONVERGED."""
    for spectrum in ("geometric", "two_cluster", "power_law", "arithmetic"):
        for n in (2, 8, 31, 64):
            for seed in range(3):
                A, _ = gallery.spd(n, 1e8, spectrum, rng=seed)
                for p in (p for p in row.degrees if p <= 4):
                    result = solve(A.astype(np.float32), p, method=row.method, compute_dtype="float32")
                    assert result.status != Status.CONVERGED, result.message
                    if result.status == Status.ILL_CONDITIONED:
                        assert re.search(r"digits? (is|are) left", result.message)
                        assert "float64" in result.message


def test_1_by_auto():
    A = gallery.spd(12, 1e8, rng=0)[0].astype(np.float32)
    single = solve(A, 2, compute_dtype="float32")
    assert single.compute_dtype == "float32"
    assert single.status != Status.CONVERGED


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_1_the_residual_is_of_the_returned_root(row):
    """Where float32 arithmetic fails, the residual says by how much."""
    for cond in (1e5, 1e6, 1e7):
        A, _ = problem(20, cond, dtype="float32", seed=1)
        result = solve(A, 2, method=row.method, compute_dtype=row.arithmetic("float32"))
        if result.status <= Status.ILL_CONDITIONED:
            truth = true_residual(A, result.x, result.exponent)
            assert 0.1 * truth <= result.residual <= 10 * truth


@pytest.mark.parametrize("row", METHODS, ids=str)
def test_2_every_degree_and_not_only_powers_of_two(row):
    """Powers by round(log2 p) are 24 % off at p = 3; the identity does not tell one degree from another."""
    w = np.array([1.0, 16.0, 81.0, 2.0])
    Q = gallery.orthogonal(4, rng=0)
    for p in [*row.degrees, *(p for p in (11, 13, 16) if row.degrees == tuple(range(1, 9)) or p == 16)]:
        for inverse in (True, False) if p > 1 or row.single else (True,):
            s = -1 / p if inverse else 1 / p
            X = solve((Q * w) @ Q.T, p, inverse=inverse, method=row.method).x
            assert distance(X, (Q * w**s) @ Q.T) <= 3e-13


def test_2_sixteen_times_the_identity():
    """16 I does not tell -1/4 from -1/2 where the method only scales: here it must."""
    for row in ROWS:
        for p in row.degrees:
            assert np.allclose(inverse_pth_root(16 * np.eye(3), p, method=row.method), 16 ** (-1 / p) * np.eye(3))


@pytest.mark.parametrize("row", ITERATIONS, ids=str)
def test_3_nothing_is_left_of_the_solve_before(row):
    """A start from the last root looks converged and is wrong: every solve starts anew, from what commutes with A."""
    A, root = problem(12, 1e4, seed=2)
    nearby = A + 1e-3 * np.diag(np.arange(12.0)) * np.linalg.norm(A)
    fresh = solve(A, 4 if 4 in row.degrees else 2, method=row.method).x
    solve(nearby, 4, method=row.method)
    again = solve(A, 4, method=row.method).x
    assert (fresh == again).all()
    assert distance(again, root(-1 / 4)) <= row.bar(1e4, -1 / 4, 12, EPS["float64"])
    assert np.linalg.norm(again @ A - A @ again) <= 1e-12 * np.linalg.norm(again)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_4_no_absolute_epsilon(row, dtype):
    """1e-30 I gives 1e15, not 3e9 and not NaN; 1e30 I gives 1e-15 and not 0."""
    for scale in (1e-30, 1e30):
        for compute in map(row.arithmetic, ("float32", "float64")):
            for n in (1, 5):
                X = inverse_pth_root((scale * np.eye(n)).astype(dtype), 2, method=row.method, compute_dtype=compute)
                assert np.allclose(X, scale**-0.5 * np.eye(n), rtol=1e-5, atol=0)


@pytest.mark.parametrize("s", ["-3/2", "-5/4", "5/4", -1.5707])
def test_4_a_root_near_the_largest_number_is_certified(s):
    """What brings it back to units of one for the certificate must not leave the range on the way."""
    power = float(Fraction(s))
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    for part in (0.55, 0.76, 0.99):
        edge = np.exp((np.log(part) + np.log(np.finfo(float).max)) / power)
        A = (Q * np.array([1.0, 1.5, 2.0, 4.0]) ** -np.sign(power) * edge) @ Q.T
        for assume_a in ("pos", "gen"):
            result = solve((A + A.T) / 2, s=s if isinstance(s, float) else Fraction(s), assume_a=assume_a)
            assert (result.status, result.residual < 1e-13) == (Status.CONVERGED, True), result


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_5_hopeless_input_ends_soon(row):
    """Zero, a zero block, NaN, an indefinite matrix: a bounded number of iterations, and a status."""
    A, _ = problem(6, 10, batch=(5,), seed=3)
    A[0], A[1, 2:, :], A[1, :, 2:], A[2], A[3] = 0, 0, 0, np.nan, -A[3]
    for p in row.degrees:
        result = solve(A, p, method=row.method)
        assert (result.status[:4] >= Status.MAX_ITER).all()
        assert result.converged[4]
        assert (result.n_iter <= 120).all()
        assert np.isnan(result.x[:4]).all()
        with pytest.raises(RootError, match="4 of 5"):
            inverse_pth_root(A, p, method=row.method)


@pytest.mark.parametrize("row", ITERATIONS, ids=str)
def test_6_the_error_may_grow_before_it_falls(row):
    """A rule that stops when the error grew by 1.2 stops falsely on the first step at p = 8, kappa = 1e2."""
    for p in row.degrees:
        for cond in (10, 1e2, 1e3):
            for spectrum in ("geometric", "two_cluster", "power_law"):
                A, root = problem(64, cond, spectrum, seed=4)
                result = solve(A, p, method=row.method)
                assert result.converged
                assert distance(result.x, root(-1 / p)) <= row.bar(cond, -1 / p, 64, EPS["float64"])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_7_float32_input_keeps_its_digits(row):
    """float32 eigh gives negative eigenvalues at kappa = 1e8; the default computes in float64 and does not."""
    for seed in range(5):
        w = np.geomspace(1, 1e-6, 25)
        Q = gallery.orthogonal(25, rng=seed)
        A = ((Q * w) @ Q.T).astype(np.float32)
        A = (A + A.T) / 2
        lam, V = np.linalg.eigh(A.astype(float))
        assert lam[0] > 0
        result = solve(A, 2, method=row.method)
        assert result.compute_dtype == "float64"
        assert result.converged
        assert distance(result.x, (V * lam**-0.5) @ V.T) <= 4 * EPS["float32"]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_8_a_matrix_does_not_see_its_batch(row):
    """An easy matrix, a hard one and a hopeless one together: each as alone, also those that leave the stack early."""
    A = np.stack([problem(16, cond, seed=5)[0] for cond in (1, 1e8, 10, 1e4, 1e2)])
    A[2] -= 0.5 * np.eye(16)
    batch = solve(A, 2, method=row.method)
    assert batch.status[2] == Status.NOT_POSITIVE
    for i in range(5):
        alone = solve(A[i], 2, method=row.method)
        assert np.array_equal(batch.x[i], alone.x, equal_nan=True)
        assert batch.n_iter[i] == alone.n_iter
        assert batch.status[i] == alone.status


@pytest.mark.parametrize("row", ITERATIONS, ids=str)
def test_9_an_iterate_before_convergence_is_no_root(row):
    A, _ = problem(16, 1e6, seed=6)
    for k in (1, 2, 5):
        result = solve(A, 4, method=row.method, max_iter=k)
        if result.n_iter > k or result.converged:
            continue  # a schedule may end within k steps
        assert result.status == Status.MAX_ITER
        assert f"after {k} iterations" in result.message
        assert result.residual > 1e-9 or np.isnan(result.residual)
        with pytest.raises(RootError, match="not converged"):
            inverse_pth_root(A, 4, method=row.method, max_iter=k)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_9_one_by_one_is_not_one(row):
    for p in row.degrees:
        assert np.allclose(inverse_pth_root(np.array([[5.0]]), p, method=row.method), 5 ** (-1 / p), rtol=1e-14)
        assert np.isclose(solve(np.array([[5.0]]), p, method=row.method).lambda_max, 5)


def test_any_exponent():
    """A^{3/4} is not (A^{1/4})^3 rounded thrice, and A^0 is I."""
    A, root = problem(10, 1e3, seed=7)
    for s in (0.75, -0.75, 0, 1, -1, 2):
        assert distance(fractional_power(A, s), root(s)) <= 3e3 * 10 * EPS["float64"]
    assert distance(fractional_power(A, 0), np.eye(10)) <= 40 * EPS["float64"]

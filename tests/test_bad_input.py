"""Bad numbers end fast in a status, and never in a neighbour."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from table import NAMED, problem

import matroot
from matroot import Floor, Ridge, RootError, Shift, Status, TargetCondition, fractional_power, inverse_pth_root, solve
from matroot.backends.linalg import hermitian_part

ROWS = list(NAMED.values())
EYE = np.eye(3)


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
def test_bad_matrices_may_be_nan(kind):
    batch = np.stack([np.eye(2), np.diag([1.0, -1.0]), 4 * np.eye(2)])
    if kind != "numpy":
        module = pytest.importorskip(kind)
        batch = module.tensor(batch) if kind == "torch" else module.numpy.asarray(batch)
    for options in ({}, {"method": "coupled_newton", "max_iter": 1, "rtol": 1e-15}):
        X = np.asarray(matroot.inv_sqrtm(batch, on_bad="nan", **options))
        assert np.isnan(X[1]).all() and (options or np.allclose(X[2], np.eye(2) / 2))
    with pytest.raises(ValueError, match="on_bad must be 'raise' or 'nan', got 'ignore'"):
        matroot.pth_root(batch, 2, on_bad="ignore")


INDEFINITE = problem(6, 1e2, seed=2)[0] - 0.3 * np.eye(6)
BAD = {
    "NaN": (np.where(np.eye(6) > 0, np.nan, 1.0), Status.NONFINITE_INPUT),
    "one NaN": (np.eye(6) + np.where(np.arange(36).reshape(6, 6) == 7, np.nan, 0), Status.NONFINITE_INPUT),
    "inf": (np.diag([1.0, np.inf, 1, 1, 1, 1]), Status.NONFINITE_INPUT),
    "-inf": (np.diag([1.0, -np.inf, 1, 1, 1, 1]), Status.NONFINITE_INPUT),
    "zero": (np.zeros((6, 6)), Status.SINGULAR),
    "a zero row": (np.diag([1.0, 1, 1, 0, 1, 1]), Status.SINGULAR),
    "indefinite": ((INDEFINITE + INDEFINITE.T) / 2, Status.NOT_POSITIVE),
    "negative": (-np.eye(6), Status.NOT_POSITIVE),
    "slightly indefinite": (np.diag([1.0, 1, 1, 1, 1, -1e-4]), Status.NOT_POSITIVE),
    "hardly indefinite": (np.diag([1.0, 1, 1, 1, 1, -1e-17]), Status.SINGULAR),
    "hardly definite": (np.diag([1.0, 1, 1, 1, 1, 1e-17]), Status.SINGULAR),
    "negative and large": (np.diag([1e-3, 1e-3, 1, 1, 1, -1e3]), Status.NOT_POSITIVE),
}  # fmt: skip


@pytest.mark.parametrize(("A", "status"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bad_matrices_end_in_a_status(row, A, status):
    for p in (2, 8):
        for compute in ("float64", "float32"):
            result = solve(A, p, method=row.method, compute_dtype=row.arithmetic(compute))
            assert result.status == status, result.message
            assert np.isnan(result.x).all()
            assert np.isnan(result.residual)
            assert not result.converged
            with pytest.raises(RootError, match=r"the matrix (has|holds|is singular|is zero)") as error:
                inverse_pth_root(A, p, method=row.method, compute_dtype=row.arithmetic(compute))
            assert isinstance(error.value, np.linalg.LinAlgError)


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_bad_matrix_leaves_its_batch_alone(row, inverse):
    """Bit for bit: every number of the others is what it is without the bad one."""
    good, _ = problem(6, 1e4, batch=(7,), seed=3)
    expected = solve(good, 2, method=row.method, inverse=inverse)
    for name, (A, status) in BAD.items():
        batch = np.insert(good, 3, A, axis=0)
        result = solve(batch, 2, method=row.method, inverse=inverse)
        if inverse:
            assert result.status[3] == status, name
        rest = np.delete(np.arange(8), 3)
        for field in (
            "x",
            "companion",
            "status",
            "residual",
            "cond",
            "bits_lost",
            "n_iter",
            "lambda_max",
            "lambda_min",
            "ridge",
        ):
            values = getattr(result, field)
            if values is not None:
                assert np.array_equal(values[rest], getattr(expected, field)), (name, field)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_batch_of_everything_bad(row):
    batch = np.stack([A for A, _ in BAD.values()])
    result = solve(batch, 4, method=row.method)
    assert list(result.status) == [status for _, status in BAD.values()]
    assert isinstance(result.message, str)
    assert isinstance(repr(result), str)
    with pytest.raises(RootError, match=r"12 of 12 matrices have no root; the first, a\[0\], holds NaN"):
        inverse_pth_root(batch, 4, method=row.method)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_root_of_zero_is_zero(row):
    """A^{1/p} exists for every semidefinite matrix; the zero matrix has no inverse root."""
    for p in row.degrees:
        A = np.zeros((2, 3, 3))
        A[1] = EYE
        result = solve(A, p, inverse=False, method=row.method)
        assert result.converged.all()
        assert (result.x[0] == 0).all()
        assert result.residual[0] == 0
        assert np.allclose(result.x[1], EYE, rtol=1e-14)


def test_semidefinite_roots_by_eigen():
    """Rank-deficient matrices have a square root; rounding below zero counts as zero."""
    for seed in range(20):
        B = np.random.default_rng(seed).standard_normal((10, 4))
        A = B @ B.T
        result = solve(A, 2, inverse=False)
        assert result.converged
        assert np.linalg.norm(result.x @ result.x - A) <= 1e-13 * np.linalg.norm(A)
        assert solve(A, 2).status == Status.SINGULAR  # its smallest eigenvalues are rounding errors


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_rank_deficient_has_no_inverse_root(row):
    for seed in range(5):
        B = np.random.default_rng(seed).standard_normal((10, 4))
        for dtype in ("float64", "float32"):
            result = solve((B @ B.T).astype(dtype), 2, method=row.method, compute_dtype=row.arithmetic(dtype))
            assert result.status == Status.SINGULAR, result.message
            assert np.isnan(result.x).all() and "PseudoInverse" in result.message
            # A root of the regularized matrix is fine.
            cured = solve((B @ B.T).astype(dtype), 2, method=row.method, regularization=1e-3)
            assert cured.converged


def test_no_indefinite_matrix_passes():
    """From -1e-12 of lambda_max on, in float64, none is taken for positive definite."""
    for row in ROWS:
        for seed in range(8):
            Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((9, 9)))[0]
            for negative in (-1.0, -1e-3, -1e-6, -1e-9, -1e-12):
                w = np.geomspace(1, 1e-4, 9)
                w[-1] = negative
                A = (Q * w) @ Q.T
                result = solve((A + A.T) / 2, 2, method=row.method)
                assert result.status == Status.NOT_POSITIVE, (str(row), negative, result.message)
                assert np.isclose(result.lambda_min, negative, rtol=1e-2, atol=1e-15)
                assert f"{result.lambda_min:.1e}" in result.message
                assert "Ridge" in result.message


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bad_at_every_scale(row, scale):
    for A, status in BAD.values():
        assert solve(A * scale, 2, method=row.method).status == status


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_subnormal(row):
    tiny = np.finfo(np.float64).smallest_subnormal
    for p in row.degrees:
        result = solve(np.eye(3) * 4 * tiny, p, method=row.method)
        if p == 1:  # 1 / 2e-323 is beyond float64
            assert result.status == Status.DIVERGED
            assert "range of float64" in result.message
            assert np.isnan(result.x).all()
        else:
            assert result.converged
            assert np.allclose(np.diag(result.x), (4 * tiny) ** (-1 / p), rtol=1e-12)
    assert solve(np.diag([1.0, 0.1]) * tiny, 2, method=row.method).status == Status.SINGULAR  # 0.1 rounds to 0
    f32 = np.eye(3, dtype=np.float32) * np.float32(1e-44)
    assert np.allclose(
        np.diag(inverse_pth_root(f32, 2, method=row.method)), float(np.float32(1e-44)) ** -0.5, rtol=1e-6
    )


def test_a_root_beyond_the_range_of_its_dtype():
    """float16 ends at 65504: said, not silently infinite."""
    a = (np.eye(2) * 1e-5).astype(np.float16)
    result = solve(a, 1)
    assert result.status == Status.DIVERGED
    assert "range of float16" in result.message
    assert solve(a, 2).converged
    with pytest.raises(RootError, match="float16"):
        inverse_pth_root(a, 1)


def test_entries_at_the_end_of_the_range():
    """Norms may overflow where no entry does."""
    big = np.finfo(np.float64).max
    A = np.full((4, 4), 0.4 * big) + np.diag([0.5 * big] * 4)
    for row in ROWS:
        result = solve(A, 2, method=row.method)
        assert result.converged
        assert np.allclose(result.x @ (A / big) @ result.x * big, np.eye(4), atol=1e-12)
    uneven = A.copy()
    uneven[0, 1] *= 1 - 1e-12
    assert solve(uneven, 2).converged
    general = solve(np.triu(A), 3, assume_a="gen")
    assert general.converged


# General matrices


def test_first_failure_is_named_with_its_index():
    a = np.stack([EYE] * 6).reshape(2, 3, 3, 3).copy()
    a[1, 0], a[1, 2] = -EYE, np.nan
    with pytest.raises(RootError, match=r"2 of 6 matrices have no root; the first, a\[1, 0\], .*-1\.0e\+00"):
        inverse_pth_root(a, 2)
    with pytest.raises(RootError, match=r"1 of 3 matrices has no root; the first, a\[2\], "):
        inverse_pth_root(a[1] * [[[1]], [[1]], [[1]]] + 2 * np.stack([EYE] * 3), 2)


def test_nothing_warns_on_the_way():
    """Overflow inside an iteration that fails is no RuntimeWarning for the caller; here warnings are errors anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in ROWS:
            for A, _ in BAD.values():
                for inverse in (True, False):
                    for rule in (
                        None,
                        1e-6,
                        Ridge(relative=1e-8, retries=3),
                        Shift(relative=1e-3),
                        TargetCondition(1e4),
                    ):
                        solve(A, 2, method=row.method, inverse=inverse, regularization=rule)


def test_a_divergence_to_both_infinities_is_silent():
    """Minimax leaves such a root of a float32 matrix of 512 rows that rounding has made indefinite."""
    X = np.array([[1.0, np.inf], [-np.inf, 1.0]], np.float32)
    assert np.isnan(hermitian_part(X)[0, 1])


@pytest.mark.parametrize("method", ["auto", "eigen", "coupled_newton", "minimax", "tridiagonal"])
@pytest.mark.parametrize("w", [(1e300, 1.0), (1e300, 1.0, 1.0), (1e-320, 1.0, 1.0), (1e-300, 1e-300, 1.0)], ids=str)
def test_extreme_ratios_are_silent(method, w):
    """A condition number near the end of the range, or beyond it: a status, and no warning of numpy's."""
    result = solve(np.diag(w), 2, method=method)
    assert result.status != Status.CONVERGED
    assert float(result.cond) > 1e16
    for p in (1, 8, 365):
        for inverse in (True, False):
            solve(np.diag(w), p, method=method, inverse=inverse)


@pytest.mark.parametrize("method", ["auto", "coupled_newton", "minimax"])
def test_a_power_too_small_for_its_dtype(method):
    with pytest.raises(RootError, match="left the range"):
        fractional_power(1e-290 * np.eye(2), Fraction(5, 2), method=method)
    with pytest.raises(RootError, match="left the range of float32"):
        fractional_power(np.float32(1e-30) * np.eye(2, dtype=np.float32), 2, method=method)


@pytest.mark.parametrize("rule", [None, Floor(1e-3), Ridge(relative=1e-3)], ids=str)
def test_a_zero_matrix_is_told_what_helps(rule):
    message = solve(np.zeros((2, 3, 3, 3)), 2, regularization=rule).message
    assert "only regularization=Ridge(absolute=...)" in message
    with pytest.raises(RootError, match=r"a\[0, 1\]"):
        inverse_pth_root(np.stack([np.stack([np.eye(2), -np.eye(2)])] * 2), 2)

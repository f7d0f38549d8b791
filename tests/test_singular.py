"""A matrix whose smallest eigenvalue is rounding of 0 has one status, whatever the sign of that rounding."""

import re
import sys

import numpy as np
import pytest
from table import EPS, NAMED

import matroot
from matroot import Eigen, PseudoInverse, Ridge, RootError, Status, Tridiagonal, gallery, inv_sqrtm, solve, sqrtm

DTYPES = ("float64", "float32", "float16", "complex128", "complex64")
ROWS = list(NAMED.values())


def singular(kind, n, dtype, batch=20, seed=0):
    """Covariances of features with one that is dead, that one hidden by a rotation, or of half as many samples."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((batch, n, 4 * n if kind != "few samples" else n // 2))
    if "complex" in dtype:
        X = X + 1j * rng.standard_normal(X.shape)
    if kind == "dead":
        X[:, n // 2] = 0
    if kind == "rotated":
        X[:, 0] = X[:, 1]
        X = np.linalg.qr(rng.standard_normal((n, n)))[0] @ X
    A = X @ X.conj().swapaxes(-1, -2) / X.shape[-1]
    return ((A + A.conj().swapaxes(-1, -2)) / 2).astype(dtype)


@pytest.mark.parametrize("kind", ("dead", "rotated", "few samples"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (4, 17, 70))
def test_one_status_for_either_sign(kind, dtype, n):
    A = singular(kind, n, dtype)
    signs = {float(np.sign(np.linalg.eigvalsh(a.astype(complex))[0])) for a in A}
    assert kind != "rotated" or n < 17 or len(signs) > 1  # or there is nothing to be seen
    for p in (1, 2, 16):
        result = solve(A, p)
        assert (result.status == Status.SINGULAR).all(), result.message
        assert np.isnan(result.x).all() and np.isnan(result.residual).all()
        assert (abs(result.lambda_min) <= n * EPS[dtype] * 2 * result.lambda_max).all()
        assert solve(A[0], p).status == Status.SINGULAR
    assert np.isin(solve(A, 2, inverse=False).status, (Status.CONVERGED, Status.ILL_CONDITIONED)).all()
    cured = solve(A, 2, regularization=PseudoInverse())
    assert np.isin(cured.status, (Status.CONVERGED, Status.ILL_CONDITIONED)).all()


@pytest.mark.parametrize("single", (False, True))
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_by_every_method(row, single):
    for kind in ("dead", "rotated", "few samples"):
        for dtype in ("float64", "complex128"):
            arithmetic = row.arithmetic("float32") if single and dtype == "float64" else None
            result = solve(singular(kind, 24, dtype, batch=6), 2, method=row.method, compute_dtype=arithmetic)
            assert (result.status == Status.SINGULAR).all(), result.message


def test_what_is_far_from_rounding_keeps_its_status():
    for smallest, status in ((-1e-13, "NOT_POSITIVE"), (2e-15, "ILL_CONDITIONED"), (1e-13, "CONVERGED")):
        for method in ("auto", "eigen"):
            assert Status(int(solve(np.diag([1.0, 1.0, smallest]), 2, method=method).status)).name == status
    assert solve(np.diag([-1.0, 1e-17, 1.0]), 2).status == Status.NOT_POSITIVE
    assert solve(-np.eye(3), 2).status == Status.NOT_POSITIVE


def test_a_ridge_mends_and_retries_find_it():
    A = singular("rotated", 12, "float64")
    assert (solve(A, 2, regularization=1e-20).status == Status.SINGULAR).all()
    result = solve(A, 2, regularization=Ridge(1e-20, retries=14))
    assert result.converged.all() and (result.ridge > 1e-14 * result.lambda_max).all()
    assert solve(A, 2, regularization=1e-8).converged.all()


def test_the_message_and_the_error():
    with pytest.raises(RootError, match=r"is singular: its smallest eigenvalue, 0\.0e\+00, .*regularization=Pse"):
        inv_sqrtm(np.diag([1.0, 0.0]))
    with pytest.raises(RootError, match=r"use compute_dtype='float64', or drop"):
        inv_sqrtm(np.diag([1.0, 1e-9]), compute_dtype="float32")
    with pytest.raises(RootError, match=r"is zero, so that .*; only regularization=Ridge\(absolute=...\)"):
        inv_sqrtm(np.zeros((2, 2)))


@pytest.mark.parametrize("method", ("auto", Eigen()))
@pytest.mark.parametrize("size", (1e-7, 1e-12))
def test_asymmetry_does_not_make_a_semidefinite_matrix_indefinite(method, size):
    """What an asymmetric rounding has made of an eigenvalue 0 is 0 for a positive exponent."""
    rng = np.random.default_rng(3)
    A = singular("few samples", 12, "float64", batch=8)
    A += size * abs(A).max((1, 2), keepdims=True) * rng.uniform(-1, 1, A.shape)
    assert (np.linalg.eigvalsh((A + A.swapaxes(1, 2)) / 2)[:, 0] < -1e-14).all()
    result = solve(A, 2, inverse=False, method=method)
    assert np.isin(result.status, (Status.CONVERGED, Status.ILL_CONDITIONED)).all(), result.message
    error = abs(result.x @ result.x - A).max((1, 2)) / abs(A).max((1, 2))
    assert (error < 20 * size).all()
    assert (solve(A, 2, method=method).status == Status.SINGULAR).all()
    indefinite = np.diag([1.0, 1.0, -1e-3])
    indefinite[0, 1] = size
    assert solve(indefinite, 2, inverse=False, method=method).status == Status.NOT_POSITIVE


def test_an_eigenvalue_on_the_axis_is_named():
    rotation = np.array([[np.cos(np.pi), -np.sin(np.pi)], [np.sin(np.pi), np.cos(np.pi)]])
    for A, value in ((np.diag([4.0, -9.0]), -9.0), (np.array([[0.0, 1.0], [0.0, 0.0]]), 0.0), (rotation, -1.0)):
        result = solve(A, 3, inverse=False, assume_a="gen")
        assert result.status == Status.NO_PRINCIPAL_ROOT and np.isclose(result.lambda_min, value, atol=1e-15)
        assert f"has the eigenvalue {value:.2g} on the closed negative real axis" in result.message
    A = gallery.general(6, 10.0, rng=0)[0]
    assert solve(A - 3 * np.eye(6) * abs(A).max(), 2, assume_a="gen").lambda_min < 0
    with pytest.raises(RootError, match="the eigenvalue -2"):
        sqrtm(np.diag([1.0, -2.0]) * 1.0, assume_a="gen")
    assert matroot.solve(np.diag([1.0, -2.0]) * 1e-200, 2, assume_a="gen").lambda_min == -2e-200


@pytest.mark.parametrize("n", [5, 40, 90])
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_a_matrix_that_is_not_positive_is_not_decomposed(n, dtype, monkeypatch):
    """Alone, among others, in lanes and by LAPACK, with and without a small ridge; what is reported is what is true."""
    A = gallery.spd(n, 1e3, batch=(3,), dtype="complex128" if dtype == "complex128" else "float64", rng=n)[0]
    A[1] -= 0.1 * abs(A[1]).max() * np.eye(n)
    A[2, 0] = A[2, 1] = 0
    A[2, :, 0] = A[2, :, 1] = 0
    A = A.astype(dtype)
    for rule in (None, Ridge(1e-20)):
        known = [solve(a, 2, method="eigen", regularization=rule) for a in A]
        with monkeypatch.context() as changed:
            changed.setattr(sys.modules["matroot.pipeline.kernel"], "solve_chunk", None)
            for one in (solve(A[1:2], 2, regularization=rule), solve(A[1], 2, regularization=rule)):
                assert one.status == Status.NOT_POSITIVE and np.isnan(one.x).all() and np.isnan(one.residual).all()
                assert np.allclose(one.lambda_min, known[1].lambda_min, rtol=1e-6)
                assert np.allclose(one.lambda_max, known[1].lambda_max, rtol=1e-6)
                assert 1 <= one.cond <= known[1].cond * (1 + 1e-6)
        for method in ("auto", Tridiagonal(lanes=True), Tridiagonal(lanes=False)):
            batch = solve(A, 2, method=method, regularization=rule)
            assert list(batch.status) == [int(one.status) for one in known]
            assert np.isnan(batch.x[1:]).all() and not np.isnan(batch.x[0]).any()


@pytest.mark.parametrize(
    ("n", "p", "single", "options"),
    [
        (92, 7, True, {}),
        (92, 7, True, {"method": "eigen"}),
        (160, 4, True, {"rtol": 5e-3}),
        (128, 7, True, {"assume_a": "gen"}),
        (200, 16, False, {}),
        (200, 16, False, {"method": "eigen"}),
        (200, 16, False, {"method": "tridiagonal"}),
    ],
)
def test_a_root_of_what_may_be_zero_vouches_for_no_digits(n, p, single, options):
    """A decomposition moves an eigenvalue 0 by up to sqrt(n) eps, whose root of high degree is large."""
    machine = float(np.finfo("float32" if single else "float64").eps)
    options = {"inverse": False, "compute_dtype": "float32" if single else None, **options}
    for units, status in ((5, Status.ILL_CONDITIONED), (1000, Status.CONVERGED)):
        A = np.diag([*np.ones(n - 1), units * machine])
        assert solve(A, p, **options).status == status or (units > 5 and "rtol" in options)
    graph = n * np.eye(n) - np.ones((n, n))  # its null vector is known
    result = solve(graph, p, **options)
    error = np.linalg.norm(result.x.sum(0)) / n**0.5 / np.linalg.norm(result.x, 2)
    assert error < options.get("rtol", 1e-2) or result.status == Status.ILL_CONDITIONED
    assert re.search(r"about [12] digits? (is|are) left", result.message) or result.status == Status.CONVERGED

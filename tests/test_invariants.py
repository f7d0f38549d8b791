"""What holds for every matrix: scaling, similarity, batch = loop, permutation, symmetry, structure."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table import EPS, ITERATIONS, METHODS, NAMED, conjugate, distance, problem

from matroot import Status, gallery, solve

ROWS = list(NAMED.values())
DTYPES = ("float32", "float64", "complex64", "complex128")
PER_MATRIX = (
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
    "asymmetry",
)


@st.composite
def problems(draw, rows=METHODS, conds=(1e1, 1e3, 1e5), dtypes=("float64",), batch=()):
    """A row of the table, a degree it claims, and a matrix with a known spectrum."""
    row = draw(st.sampled_from(rows))
    p = draw(st.sampled_from(row.degrees))
    n = draw(st.integers(1, 40))
    cond = draw(st.sampled_from(conds)) if n > 1 else 1.0
    spectrum = draw(st.sampled_from(gallery.SPECTRA[:4]))
    dtype = draw(st.sampled_from(dtypes))
    A, _ = problem(n, cond, spectrum, batch=batch, dtype=dtype, seed=draw(st.integers(0, 10**6)))
    return row, p, A, cond


def bar(row, p, n, cond, dtype="float64"):
    return 2 * row.bar(cond, -1 / p, n, EPS[str(dtype)]) + 8 * EPS[str(dtype)]


def same(one, other, what=""):
    """Every number of two results, bit for bit."""
    for name in PER_MATRIX:
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert np.array_equal(left, right, equal_nan=True), f"{name} {what}"


@given(problems(rows=[row for row in METHODS if row.single]), st.integers(-300, 300))
def test_scaling_by_a_power_of_two_to_the_p_is_exact(case, e):
    """A and 2^{pe} A are the same matrix to the arithmetic: X scales by 2^{-e} without rounding."""
    row, p, A, _ = case
    e = e // p
    one, other = solve(A, p, method=row.method), solve(np.ldexp(A, p * e), p, method=row.method)
    assert np.array_equal(other.x, np.ldexp(one.x, -e))
    assert one.residual == other.residual
    assert one.cond == other.cond
    assert np.ldexp(one.lambda_max, p * e) == other.lambda_max
    assert one.n_iter == other.n_iter


@given(problems(), st.floats(1e-200, 1e200))
def test_scaling(case, c):
    row, p, A, cond = case
    one, other = solve(A, p, method=row.method), solve(c * A, p, method=row.method)
    powers = 2 * abs(np.log(c)) * EPS["float64"]  # c ** (1 / p) itself is no better known
    assert distance(other.x * c ** (1 / p), one.x) <= bar(row, p, A.shape[-1], cond) + powers


@given(problems(), st.integers(0, 10**6))
def test_similarity(case, seed):
    row, p, A, cond = case
    n = A.shape[-1]
    Q = gallery.orthogonal(n, rng=seed)
    B = Q @ A @ Q.T
    B = (B + B.T) / 2
    rotated = solve(B, p, method=row.method).x
    # forming B moves A by a few n eps, which conditioning magnifies
    assert distance(rotated, Q @ solve(A, p, method=row.method).x @ Q.T) <= bar(row, p, n, (n + 4) * cond)


@given(problems(), st.integers(0, 10**6))
def test_symmetric_permutation(case, seed):
    row, p, A, cond = case
    P = np.random.default_rng(seed).permutation(A.shape[-1])
    X, Y = (solve(M, p, method=row.method).x for M in (A, A[np.ix_(P, P)]))
    assert distance(Y, X[np.ix_(P, P)]) <= bar(row, p, A.shape[-1], cond)


@given(problems(dtypes=DTYPES))
def test_symmetric_to_the_last_bit(case):
    row, p, A, _ = case
    for inverse in (True, False):
        for compute in ("float32", "float64"):
            result = solve(A, p, inverse=inverse, method=row.method, compute_dtype=row.arithmetic(compute))
            assert (result.x == conjugate(result.x)).all()
            assert result.companion is None or (result.companion == conjugate(result.companion)).all()


@settings(max_examples=60)
@given(problems(rows=ROWS, dtypes=DTYPES, batch=(5,)), st.integers(0, 10**6), st.booleans())
def test_batch_is_loop_and_order_does_not_matter(case, seed, inverse):
    row, p, A, _ = case
    A[1] *= A.dtype.type(1e-3)
    A[2] = np.eye(A.shape[-1])
    options = {"method": row.method, "inverse": inverse}
    batch = solve(A, p, **options)
    for i in range(len(A)):
        one = solve(A[i], p, **options)
        for name in PER_MATRIX:
            values = getattr(batch, name)
            assert values is None or np.array_equal(values[i], getattr(one, name)), (name, i)
    order = np.random.default_rng(seed).permutation(len(A))
    permuted = solve(A[order], p, **options)
    for name in PER_MATRIX:
        values = getattr(batch, name)
        assert values is None or np.array_equal(values[order], getattr(permuted, name)), name


@pytest.mark.parametrize("n", [3, 24, 33, 64, 128])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_large_batch_is_loop(row, n):
    """Several chunks and threads."""
    A, _ = problem(n, 1e3, batch=(9 if n > 32 else 300,), dtype="float32", seed=n)
    batch = solve(A, 2, method=row.method)
    for i in range(0, len(A), 7):
        one = solve(A[i], 2, method=row.method)
        for name in PER_MATRIX:
            values = getattr(batch, name)
            assert values is None or np.array_equal(values[i], getattr(one, name)), (name, i)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_solve_can_be_repeated(row):
    A, _ = problem(50, 1e6, batch=(3,), seed=3)
    one, other = solve(A, 4, method=row.method), solve(A, 4, method=row.method)
    same(one, other)
    for f in fields(one):
        if f.name not in PER_MATRIX:
            assert getattr(one, f.name) == getattr(other, f.name)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_leading_dimensions_are_only_a_shape(row):
    A, _ = problem(6, 1e2, batch=(2, 3, 2), seed=4)
    deep, flat = solve(A, 2, method=row.method), solve(A.reshape(12, 6, 6), 2, method=row.method)
    for name in PER_MATRIX:
        left, right = getattr(deep, name), getattr(flat, name)
        if left is not None:
            assert left.shape[:3] == (2, 3, 2)
            assert np.array_equal(left.reshape(right.shape), right)


@pytest.mark.slow
@given(
    st.sampled_from(ITERATIONS),
    st.lists(st.floats(-6, 6), min_size=1, max_size=20),
    st.sampled_from(["float64", "float32"]),
)
def test_diagonal_stays_diagonal(row, logs, dtype):
    d = (10.0 ** np.array(logs)).astype(dtype)
    cond = float(d.max() / d.min())
    for p in row.degrees[:4]:
        for inverse in (True, False):
            result = solve(np.diag(d), p, method=row.method, inverse=inverse)
            X = result.x
            if result.status == Status.SINGULAR:
                assert inverse and cond * EPS[dtype] > 0.99 and np.isnan(X).all()
                continue
            assert np.count_nonzero(X - np.diag(np.diag(X))) == 0
            if result.status == Status.CONVERGED and inverse:
                expected = np.diag(d.astype(float) ** (-1 / p))
                assert distance(X, expected) <= row.bar(cond, -1 / p, len(d), EPS["float64"]) + 2 * EPS[dtype]


@given(problems(rows=ROWS, conds=(1e1, 1e3)))
def test_the_root_multiplies_back(case):
    row, p, A, cond = case
    n = A.shape[-1]
    X = solve(A, p, method=row.method).x
    Y = solve(A, p, inverse=False, method=row.method).x
    eps = 16 * (n + p) * EPS["float64"]
    assert np.linalg.norm(np.linalg.matrix_power(X, p) @ A - np.eye(n)) <= eps * cond * row.residual
    assert np.linalg.norm(np.linalg.matrix_power(Y, p) - A) <= eps * np.linalg.norm(A) * cond
    assert np.linalg.norm(X @ Y - np.eye(n)) <= eps * cond


@given(problems(rows=[NAMED["newton_db"]], conds=(1e1, 1e4)))
def test_the_companion_is_the_opposite_root(case):
    row, p, A, cond = case
    for inverse in (True, False):
        result = solve(A, p, inverse=inverse, method=row.method)
        other = solve(A, p, inverse=not inverse, method="eigen").x
        assert distance(result.companion, other) <= bar(row, 1, A.shape[-1], cond)


@given(st.integers(2, 8), st.integers(0, 10**6))
def test_commutes_with_its_matrix(p, seed):
    A, _ = problem(9, 1e2, seed=seed)
    for row in ROWS:
        if p in row.degrees:
            X = solve(A, p, method=row.method).x
            assert np.linalg.norm(X @ A - A @ X) <= 100 * 9 * EPS["float64"] * np.linalg.norm(X) * np.linalg.norm(A)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("batch", [(), (8,)])
@pytest.mark.parametrize("row", [row for row in METHODS if row.method.name != "schur_newton"], ids=str)
def test_an_almost_symmetric_matrix_counts_as_its_symmetric_part(row, batch, dtype):
    """Neither one triangle of it nor a root that is not symmetric."""
    A, _ = gallery.spd(12, 1e2, batch=batch, dtype=dtype, rng=1)
    E = np.triu(np.full((12, 12), 1e-9), 1)
    result = solve(A + E - E.T, 2, method=row.method)
    assert distance(result.x, solve(A, 2, method=row.method).x) < 100 * 12 * EPS["float64"]
    assert np.array_equal(result.x, result.x.conj().swapaxes(-1, -2))

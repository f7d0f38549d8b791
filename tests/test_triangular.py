"""Blocked arithmetic of quasi-triangular matrices, against dense arithmetic."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy.linalg import schur, solve_sylvester

from matroot.backends.cpu import triangular as tri
from matroot.backends.cpu.triangular_norms import (
    extreme_singular_values,
    norm_from_gram,
    power_radius,
    start,
    without_subdiagonal,
)

SIZES = [1, 2, 3, 7, 48, 49, 50, 101, 150]
DTYPES = [np.float64, np.complex128, np.float32]


def factor(n, dtype, seed=0):
    """Schur factor of a random matrix with spectrum in the right half-plane, many complex pairs if real."""
    rng = np.random.default_rng([n, seed])
    A = rng.standard_normal((n, n)) / np.sqrt(n) + 2.5 * np.eye(n)
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal((n, n)) / np.sqrt(n)
    return np.asfortranarray(schur(A.astype(dtype), output="complex" if np.iscomplexobj(A) else "real")[0])


def eps(A):
    return np.finfo(A.dtype).eps / 2


def norm(A):
    return np.linalg.norm(A)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_cuts_split_no_pair(n, dtype):
    R = factor(n, dtype)
    blocks = tri.cuts(R, 4)
    assert blocks[0] == 0
    assert blocks[-1] == n
    assert all(a < b for a, b in itertools.pairwise(blocks))
    assert all(R[c, c - 1] == 0 for c in blocks[1:-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_square_root(n, dtype):
    R = factor(n, dtype)
    U = R.copy(order="F")
    tri.sqrt_triangular(U, tri.cuts(R))
    assert U.dtype == R.dtype
    # Componentwise backward stable: |U^2 - R| <= c n eps |U|^2 (Higham 2008, eq. 6.10).
    assert np.all(np.abs(U @ U - R) <= 4 * (n + 3) * eps(R) * (np.abs(U) @ np.abs(U)))
    assert np.all(tri.eigenvalues(U).real > 0)
    assert not np.tril(U, -2).any()
    assert np.array_equal(np.diagonal(U, -1) != 0, np.diagonal(R, -1) != 0)


def test_square_root_of_pairs_far_from_normal():
    # 2 x 2 blocks whose off-diagonal elements differ by 1e12, and by 1e-12, beside each other.
    R = np.asfortranarray(np.triu(np.random.default_rng(0).standard_normal((6, 6))))
    for i, (b, c) in zip((0, 2, 4), ((1e6, -1e-6), (-1e-7, 1e5), (1.0, -2.0)), strict=True):
        R[i, i] = R[i + 1, i + 1] = -1 - i
        R[i, i + 1], R[i + 1, i] = b, c
    U = R.copy(order="F")
    tri.sqrt_triangular(U, tri.cuts(R))
    assert np.all(np.abs(U @ U - R) <= 30 * eps(R) * (np.abs(U) @ np.abs(U)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_sylvester(n, dtype):
    U = factor(n, dtype)
    C = start((n, n), U.dtype).copy(order="F")
    X = C.copy(order="F")
    tri.sylvester(U, X, tri.cuts(U))
    assert norm(U @ X + X @ U - C) <= 10 * n * eps(U) * (2 * norm(U) * norm(X) + norm(C))
    if n == 50 and dtype != np.float32:
        np.testing.assert_allclose(X, solve_sylvester(U, U, C), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_products_and_solve(n, dtype):
    A, B = factor(n, dtype), factor(n, dtype)
    B = B @ B - B / 3
    B = np.asfortranarray(np.where(np.tri(n, k=-2, dtype=bool), 0, B))
    B[A == 0] = 0
    blocks = tri.cuts(A)
    bar = 4 * n * eps(A)
    AB = A @ B
    assert norm(tri.multiply(A, B, blocks) - AB) <= bar * norm(A) * norm(B)
    left, right, square = A.copy(order="F"), B.copy(order="F"), A.copy(order="F")
    assert tri.multiply(left, B, blocks, out=left) is left
    tri.multiply(A, right, blocks, out=right)
    tri.multiply(square, square, blocks, out=square)
    for C in (left, right):  # overwriting an operand changes no bit
        assert np.array_equal(C, tri.multiply(A, B, blocks))
    assert np.array_equal(square, tri.multiply(A, A, blocks))
    X = B.copy(order="F")
    tri.solve(A, X, blocks)
    assert norm(A @ X - B) <= bar * norm(A) * norm(X)
    C = A.copy(order="F")
    tri.add_multiple(C, 3.0, B, blocks)
    assert norm(C - (A + 3 * B)) <= bar * (norm(A) + norm(B))
    E = start((n, n), A.dtype)
    assert norm(tri.left(A, E, blocks) - A @ E) <= bar * norm(A)
    assert norm(tri.right(E, A, blocks) - E @ A) <= bar * norm(A)
    assert norm(tri.transform(E, A, blocks) - E @ A @ E.conj().T) <= bar * norm(A)


@pytest.mark.parametrize("dtype", DTYPES)
def test_function_of_the_diagonal_blocks(dtype):
    R = factor(40, dtype)
    F = R.copy(order="F")
    lam = tri.eigenvalues(R)
    np.testing.assert_allclose(np.sort_complex(lam), np.sort_complex(np.linalg.eigvals(R)), rtol=200 * eps(R), atol=0)
    tri.set_diagonal_blocks(F, tri.pairs(R), lam, lam**3)
    cube = R @ R @ R
    on_blocks = np.eye(40, dtype=bool)
    i = tri.pairs(R).first
    on_blocks[i, i + 1] = on_blocks[i + 1, i] = True
    assert np.all(np.abs(F - cube)[on_blocks] <= 400 * eps(R) * np.abs(cube).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 48, 49, 150])
def test_extreme_singular_values(n, dtype):
    R = factor(n, dtype)
    w = np.linalg.svd(R.astype(np.result_type(dtype, np.float64)), compute_uv=False)
    largest, smallest = extreme_singular_values(R)
    slack = 1 + 100 * n * eps(R)
    assert 0.9 * w[0] <= largest <= slack * w[0]
    assert w[-1] / slack / (1 + 100 * eps(R) * w[0] / w[-1]) <= smallest <= 1.1 * w[-1]
    T = without_subdiagonal(R)
    assert not np.tril(T, -1).any()
    assert norm(T.conj().T @ T - R.conj().T @ R) <= 10 * n * eps(R) * norm(R) ** 2


def test_smallest_singular_value_of_a_singular_factor_is_zero():
    R = np.asfortranarray(np.triu(np.ones((60, 60))))
    R[30, 30] = 0
    assert extreme_singular_values(R)[1] == 0


def test_power_radius_is_between_spectral_radius_and_norm():
    Z = np.asfortranarray(np.triu(np.random.default_rng(1).standard_normal((60, 60)), 1) / 4 + 0.3 * np.eye(60))
    Z2, Z3 = Z @ Z, Z @ Z @ Z
    exact = max(np.linalg.norm(Z2, 2) ** (1 / 2), np.linalg.norm(Z3, 2) ** (1 / 3))
    assert 0.9 * exact <= power_radius(Z, enough=0.0) <= 1.0001 * exact
    assert 0.9 * exact <= power_radius((np.eye(60) - Z) / 2, enough=0.0, c=2.0) <= 1.0001 * exact
    assert power_radius(Z, enough=1e9) <= 1.0001 * np.linalg.norm(Z, 2)


def test_lanczos_norm_of_a_diagonal():
    d = np.linspace(0.1, 3.0, 40)
    assert norm_from_gram(lambda v: d * (d * v), start(40, float), steps=40) == pytest.approx(3.0, rel=1e-8)
    assert norm_from_gram(lambda v: 0 * v, start(40, float)) == 0


def test_importing_the_method_does_not_load_numba():
    code = "import sys, matroot.methods.schur_newton, matroot.methods.frechet; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

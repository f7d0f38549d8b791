"""Schur-Newton where eigenvalues are coupled: Jordan blocks, pairs of nearly defective blocks; against 100 digits."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from matroot._status import Status
from matroot.backends.cpu import triangular as tri
from matroot.methods.frechet import cond_pth_root_general
from matroot.methods.schur_newton import schur_newton

EPS = 2.0**-53
EXPONENTS = [Fraction(1, 2), Fraction(-1, 3), Fraction(-1, 8), Fraction(2, 3)]


def distance(X, Y):
    return np.linalg.norm(X - Y) / np.linalg.norm(Y)


def exact_powers(A, exponents):
    """A^s by eigenvectors, of A perturbed by 1e-40, relative: so that it has eigenvectors."""
    with mpmath.workdps(110):
        noise = np.random.default_rng(7).standard_normal(A.shape) * np.linalg.norm(A)
        lam, V = mpmath.eig(mpmath.matrix(A.tolist()) + mpmath.mpf(10) ** -40 * mpmath.matrix(noise.tolist()))
        W = V**-1
        for s in exponents:
            power = mpmath.mpf(s.numerator) / s.denominator
            X = V * mpmath.diag([mpmath.exp(power * mpmath.log(x)) for x in lam]) * W
            X = np.array(X.tolist(), dtype=complex)
            yield s, X if np.iscomplexobj(A) else X.real


def rotated(A, rng):
    """Q A Q^H with Q orthogonal, or unitary for a complex A."""
    G = rng.standard_normal(A.shape)
    Q, _ = np.linalg.qr(G + 1j * rng.standard_normal(A.shape) if np.iscomplexobj(A) else G)
    return Q @ A @ Q.conj().T


def block(a, b, c):
    return np.array([[a, b], [c, a]])


def pair(first, second, rng):
    """Two 2 x 2 blocks and what couples them."""
    return np.block([[first, rng.standard_normal((2, 2))], [np.zeros((2, 2)), second]])


def coupled():
    """(name, matrix): Jordan blocks, rotated; pairs whose off-diagonal elements differ by powers of ten."""
    rng = np.random.default_rng(0)
    for m in (2, 3, 4, 5):
        for lam in (1.0, 0.01, np.exp(2.5j)):
            J = lam * np.eye(m) + min(1, 3 * abs(lam)) * np.eye(m, k=1)
            yield f"jordan {m} at {lam:.2g}", rotated(J, rng)
        spiral = np.kron(np.eye(m), block(np.cos(2.5), np.sin(2.5), -np.sin(2.5))) + np.eye(2 * m, k=2)
        yield f"jordan {m}, a pair", rotated(spiral, rng)
    for k in (4, 6, 8, 10, 12):
        gap = 10.0**-k
        for c in (gap, gap**2):
            yield f"pair {k} {c:.0e}", pair(block(1, 1, -c), block(1 + gap, 1, -c), rng)
            yield f"opposite pair {k} {c:.0e}", pair(block(1, 1, -c), block(1 + gap, -c, 1), rng)
            yield f"rotated pair {k} {c:.0e}", rotated(pair(block(1, 1, -c), block(1 + gap, 1, -c), rng), rng)
        turn = block(np.cos(2.8), np.sin(2.8), -np.sin(2.8))
        yield f"close pair {k}", rotated(pair(turn, (1 + gap) * turn, rng), rng)


CASES = dict(coupled())


@pytest.mark.parametrize("name", CASES)
def test_coupled_eigenvalues_keep_their_digits(name):
    A = CASES[name]
    n = len(A)
    for s, X in exact_powers(A, EXPONENTS):
        result = schur_newton(A, s)
        assert result.status == Status.CONVERGED
        # The Schur form is that of a matrix some n EPS away; LAPACK holds its own to 40 n EPS.
        assert distance(result.x, X) <= 8 * n * EPS * (cond_pth_root_general(A, s) + 1)


@pytest.mark.parametrize("theta", [1e-1, 1e-6, 1e-12])
@pytest.mark.parametrize("ratio", [1.0, 1e-4, 1e-8, 1e8])
def test_a_pair_of_blocks_is_solved_without_cancellation(ratio, theta):
    """X of U X + X U = C in each of its blocks; eigenvalues of U at angle pi/2 - theta and their conjugates."""
    rng = np.random.default_rng(1)
    c, s = np.sin(theta), np.cos(theta)
    U = pair(block(c, s / ratio, -s * ratio), block(1.5 * c, s, -s), rng)
    C = rng.standard_normal((4, 4))
    with mpmath.workdps(60):
        M = mpmath.matrix(U.tolist())
        K = mpmath.matrix(16, 16)
        for i in range(4):
            for j in range(4):
                for k in range(4):
                    K[4 * i + j, 4 * k + j] += M[i, k]
                    K[4 * i + j, 4 * i + k] += M[k, j]
        exact = np.array(mpmath.lu_solve(K, mpmath.matrix(C.ravel().tolist())).tolist(), dtype=float).reshape(4, 4)
    X = C.copy(order="F")
    tri.sylvester(np.asfortranarray(U), X, tri.cuts(U))
    for rows in (slice(0, 2), slice(2, 4)):
        for columns in (slice(0, 2), slice(2, 4)):
            assert distance(X[rows, columns], exact[rows, columns]) <= 1e3 * EPS / theta

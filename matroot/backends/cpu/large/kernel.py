# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The root of one large matrix: LAPACK's reduction, poles of the tridiagonal matrix, and back transformation.

A = Q T Q^H with T real, X = Q F Q^H with F = sum over k of w_k (T + b_k)^{-1}. Below the diagonal the inverse of a
tridiagonal matrix is semiseparable (Meurant 1992): G_ij = G_jj q_j ... q_{i-1} for i > j. So whatever couples the rows
from c on to the columns before c is a product U V^T of two matrices with one column a pole, and the reflectors that act
on those rows act on U alone. F is never formed: of Q F Q^H, the part from c on grows by one panel of reflectors at a
time, and 4/3 n^3 operations are all that it takes, as many as the reduction.

Matrices lie in rows; BLAS, which thinks in columns, sees their transposes: our upper triangle is its lower one, and the
root of the transpose is the transpose of the root.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
from numba.types import float64, int64

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.large.blas import (
    ADJOINT,
    LOWER,
    NO,
    TRANSPOSED,
    at,
    gemm,
    symm,
    syr2k,
    sytrd,
    times_upper_adjoint,
)
from matroot.backends.cpu.large.layout import evened, residual, scaled, write
from matroot.backends.cpu.tridiagonal.lanes import full
from matroot.backends.cpu.tridiagonal.memory import address, number, store
from matroot.backends.cpu.tridiagonal.reduction import extreme_eigenvalues
from matroot.backends.cpu.tridiagonal.stage import stage

jit = compiled(error_model="numpy", fastmath={"contract"}, nogil=True)

#: Products of q below this are negligible for matrices with eigenvalues from 1e-14 to 1.
NOTHING = 1e-120
#: Columns of LAPACK's work space for its blocked reduction.
WORK = 32


@stage(float64, float64)
def extremes(d, e):
    """Compute the smallest and largest eigenvalue of the tridiagonal matrix, in one of eight lanes."""
    n = d.size
    room = np.empty((3, 8 * max(n, 2)))
    D, E, ends = address(room[0]), address(room[1]), address(room[2])
    for i in range(n):
        store(D, i, full(d[i]))
        store(E, i, full(e[i]))
    bottom, top = extreme_eigenvalues(D, E, n)
    store(ends, 0, bottom)
    store(ends, 1, top)
    low, high = number(ends, 0), number(ends, 8)
    return (low, high) if room[0, 0] == room[0, 0] else (np.nan, np.nan)  # keeps `room` alive until here


@jit
def smallest_share(d, e, x):
    """Compute the share of eigenvalues below x (Sturm), and the root of the mean square of all eigenvalues."""
    below, squares, c = 0, 0.0, 0.0
    for i in range(d.size):
        pivot = d[i] - x - c
        below += pivot < 0
        c = e[i] * e[i] / pivot
        squares += d[i] * d[i] + 2 * e[i] * e[i]
    return below / d.size, np.sqrt(squares / d.size)


@stage(int64)
def exponent_of(S, absolute):
    """Return the exponent of the largest entry of a positive matrix, or of `absolute`; 0 of what is not finite."""
    size = absolute
    for i in range(S.shape[0]):
        size = max(size, abs(S[i, i]) + 0.0)
    return math.frexp(size)[1] if size < np.inf else 0


@stage()
def ratios(d, e, b, w, direct, positive, q, g, f):
    """q[j, k] of pole k, g = w_k G_jj, and the diagonal f of F; for positive exponents of T F, with F as above.

    With the pivots of T + b from below, 1 / r_j = d_j + b - e_j^2 r_{j+1}: q_j = -e_j r_{j+1}, and
    G_jj = r_j (1 + e_{j-1}^2 r_j G_{j-1,j-1}). T G = I - b G, which would cancel on the diagonal for the first `direct`
    poles, those above the spectrum.
    """
    n, K = q.shape
    r = g
    for k in range(K):
        q[n - 1, k] = 0.0
        r[n - 1, k] = 1.0 / (d[n - 1] + b[k])
    for j in range(n - 2, -1, -1):
        for k in range(K):
            p = -e[j] * r[j + 1, k]
            q[j, k] = p
            r[j, k] = 1.0 / (e[j] * p + (d[j] + b[k]))
    for k in range(K):
        g[0, k] = r[0, k] * (-b[k] * w[k] if positive else w[k])
    for j in range(n - 1):
        for k in range(K):
            v = -b[k] * w[k] if positive else w[k]
            g[j + 1, k] = r[j + 1, k] * (v - e[j] * q[j, k] * g[j, k])
    constant = 0.0
    if positive:
        for k in range(direct, K):
            constant += w[k]
    for j in range(n):
        total = constant
        for k in range(direct if positive else 0, K):
            total += g[j, k]
        if positive:
            for k in range(direct):
                before = e[j - 1] * q[j - 1, k] * g[j - 1, k] if j > 0 else 0.0
                total -= (before + (d[j] + e[j] * q[j, k]) * g[j, k]) / b[k]
        f[j] = total


@stage()
def diagonal_block(q, g, f, x, V, X, c0, c1):
    """Fill the upper triangle of the block of F at rows and columns [c0, c1), and V, products of q to row c1 - 1."""
    K = q.shape[1]
    sums = x[K]
    for i in range(c0, c1):
        m = i - c0
        X[i, i] = f[i]
        for j in range(m):
            sums[j] = 0.0
        for k in range(K):
            x[k, m] = g[i, k]
            for j in range(m):
                sums[j] += x[k, j]
        for j in range(m):
            X[c0 + j, i] = sums[j]
        if i + 1 < c1:
            for k in range(K):
                for j in range(m + 1):
                    x[k, j] *= q[i, k]
    for k in range(K):
        for j in range(c1 - c0):
            V[k, j] = x[k, j]


@stage()
def move_left(q, U, c0, c1):
    """From the rows of U beginning at c1 to those at c0; products below NOTHING are 0, before they are denormal."""
    K, n = q.shape[1], q.shape[0]
    for k in range(K):
        product = 1.0
        for i in range(c0, c1):
            product *= q[i - 1, k]
            if abs(product) < NOTHING:
                product = 0.0
            U[k, i] = product
        for i in range(c1, n):
            u = U[k, i] * product
            U[k, i] = u if abs(u) >= NOTHING else 0.0


@stage()
def triangular_factor(G, tau, T):
    """T with I - V T V^H the product of the reflectors, from G = V^H V; both as BLAS sees them (LAPACK's larft)."""
    k = tau.size
    for j in range(k):
        for i in range(k):
            T[j, i] = 0.0
        for h in range(j):
            g = -tau[j] * G[j, h]
            for i in range(h + 1):
                T[j, i] += g * T[h, i]
        T[j, j] = tau[j]


@stage()
def panel_of(A, Z, row, p0, p1):
    """Copy reflectors p0 to p1 - 1 from the rows of A to Z."""
    n = A.shape[0]
    for i in range(p0, p1):
        r = row + i - p0
        for j in range(p0 + 1, i + 1):
            Z[r, j] = 0.0
        Z[r, i + 1] = 1.0
        for j in range(i + 2, n):
            Z[r, j] = A[i, j]


@stage()
def assemble(blas, A, tau, q, g, f, X, width):
    """Compute the upper triangle of X = Q F Q^H, by panels of `width` reflectors, beginning with the last.

    Z holds the panel V, W = S V and U side by side, S the part of X that is there. Q S Q^H for Q = I - V T V^H is
    S - V W^H - W V^H with W = S V T^H - V M / 2 and M = T V^H S V T^H: one product with S and one update of it.
    """
    n, K = q.shape
    ld = A.shape[1]
    one, half, zero = X.dtype.type(1.0), X.dtype.type(0.5), X.dtype.type(0.0)
    Z = np.zeros((2 * width + K, ld), X.dtype)
    U = Z[2 * width :]
    V = np.empty((K, width), X.dtype)
    x = np.empty((K + 1, width), X.dtype)
    T = np.zeros((width, width), X.dtype)
    G = np.empty((2 * width + K, width), X.dtype)
    H = np.empty((width + K, width), X.dtype)
    end = n
    for p0 in range((n - 2) // width * width, -width - 1, -width):
        start = max(p0 + 1, 0)
        diagonal_block(q, g, f, x, V, X, start, end)
        if end < n:
            rows = n - end
            new = at(X, start, end)
            gemm(blas, NO, TRANSPOSED, rows, end - start, K, one, at(U, 0, end), ld, at(V, 0, 0), width, zero, new, n)
        if p0 < 0:
            break
        move_left(q, U, start, end)
        end = start
        k, m = min(width, n - 1 - p0), n - start
        row = 2 * (width - k)
        panel_of(A, Z, row, p0, p0 + k)
        S, P, W = at(X, start, start), at(Z, row, start), at(Z, row + k, start)
        symm(blas, LOWER, m, k, one, S, n, P, ld, zero, W, ld)
        gemm(blas, ADJOINT, NO, k, 2 * k + K, m, one, P, ld, P, ld, zero, at(G, 0, 0), width)
        triangular_factor(G, tau[p0 : p0 + k], T)
        gemm(blas, NO, NO, k, k + K, k, one, at(T, 0, 0), width, at(G, k, 0), width, zero, at(H, 0, 0), width)
        times_upper_adjoint(blas, k, k, half, at(T, 0, 0), width, at(H, 0, 0), width)
        times_upper_adjoint(blas, m, k, one, at(T, 0, 0), width, W, ld)
        gemm(blas, NO, NO, m, k + K, k, -one, P, ld, at(H, 0, 0), width, one, W, ld)
        syr2k(blas, m, k, -one, P, ld, W, ld, one, S, n)


def _entries(sources):
    """Return the parts of a solve, few of which depend on the kinds of numbers; that makes less to compile.

    `sources` is in their closure, which numba's cache on disk uses as a key.
    """

    @jit
    def reduced(blas, S, A, d, e, tau, halves, absolute):
        """Reduce S, scaled, to d and e, with reflectors in the upper triangle of A, in the precision of A.

        `halves` are two factors that scale S and a shift by `absolute` to about 1. Returns whether S is Hermitian to
        the last bit, without which nothing is reduced, and the exponent of the inverse of their product.
        """
        sources  # noqa: B018
        n = S.shape[0]
        exponent = exponent_of(S, absolute)
        near = exponent >> 1
        halves[0], halves[1] = math.ldexp(1.0, -near), math.ldexp(1.0, near - exponent)
        symmetric = scaled(S, A, halves[0], halves[1])
        if not symmetric:
            for i in range(n):
                d[i] = e[i] = tau[i] = np.nan
            return False, exponent
        parts, work = np.zeros((2, n), A.real.dtype), np.zeros((WORK + 1) * n, A.dtype)
        sytrd(blas, n, at(A, 0, 0), A.shape[1], parts[0], parts[1], work[:n], work[n:])
        for i in range(n):
            d[i], e[i], tau[i] = parts[0, i], parts[1, i], work[i]
        return symmetric, exponent

    @jit
    def symmetrized(S, H):
        """Write the Hermitian part to H and return the relative asymmetry."""
        sources  # noqa: B018
        return evened(S, H)

    @jit
    def ends(d, e):
        """Return the extreme eigenvalues."""
        sources  # noqa: B018
        return extremes(d, e)

    @jit
    def poles(d, e, b, w, top, weight, direct, positive):
        """Return F, the sum of poles `top` b with weights `weight` w, as `ratios` describes it."""
        sources  # noqa: B018
        n, K = d.size, b.size
        q, g, f, units = np.empty((n, K)), np.empty((n, K)), np.empty(n), np.empty((2, K))
        for k in range(K):
            units[0, k], units[1, k] = top * b[k], weight * w[k]
        ratios(d, e, units[0], units[1], direct, positive, q, g, f)
        return q, g, f

    @jit
    def root(blas, A, tau, F, X, width):
        """Compute the upper triangle of Q F Q^H."""
        sources  # noqa: B018
        assemble(blas, A, tau, *F, X, width)

    @jit
    def written(X, out, factor):
        """Write the root to `out`, and round it to X."""
        sources  # noqa: B018
        write(X, out, factor)

    @jit
    def certificate(S, X, shift, halves, factor, probes, order):
        """Return the residual of X as a root of S + shift I in the scale of T; see `layout.residual`."""
        sources  # noqa: B018
        return residual(S, X, shift, halves, factor, probes, order)

    return reduced, symmetrized, ends, poles, root, written, certificate


def _digest() -> int:
    """Return a checksum of the sources of the kernel."""
    here = Path(__file__).parent
    files = sorted(path for folder in (here, here.parent / "tridiagonal") for path in folder.glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in files))


reduced, symmetrized, ends, poles, root, written, certificate = _entries(_digest())

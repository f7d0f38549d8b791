# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The root of one large matrix: its reduction, poles of the tridiagonal matrix, and back transformation.

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
from matroot.backends.cpu.large import by_blas, by_tiles
from matroot.backends.cpu.large.blas import at, sytrd
from matroot.backends.cpu.large.layout import evened, residual, scaled, write
from matroot.backends.cpu.large.reduction import reduce
from matroot.backends.cpu.tridiagonal.lanes import full
from matroot.backends.cpu.tridiagonal.memory import address, number, store
from matroot.backends.cpu.tridiagonal.reduction import extreme_eigenvalues
from matroot.backends.cpu.tridiagonal.stage import stage

jit = compiled(error_model="numpy", fastmath={"contract"}, nogil=True)

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


@stage(int64, int64)
def scaled_to_one(S, A, halves, absolute):
    """Write S, scaled by `halves`, to A; return whether it is Hermitian, and the exponent of their inverse."""
    exponent = exponent_of(S, absolute)
    near = exponent >> 1
    halves[0], halves[1] = math.ldexp(1.0, -near), math.ldexp(1.0, near - exponent)
    return scaled(S, A, halves[0], halves[1]), exponent


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


def _entries(sources):
    """Return the parts of a solve, few of which depend on the kinds of numbers; that makes less to compile.

    `sources` is in their closure, which numba's cache on disk uses as a key.
    """

    @jit
    def reduced(S, A, d, e, tau, halves, absolute):
        """Reduce S, real and scaled, to d and e, with reflectors in the upper triangle of A, in the precision of A.

        `halves` are two factors that scale S and a shift by `absolute` to about 1. Returns whether S is Hermitian to
        the last bit, without which nothing is reduced, and the exponent of the inverse of their product.
        """
        sources  # noqa: B018
        symmetric, exponent = scaled_to_one(S, A, halves, absolute)
        if symmetric:
            reduce(A, d.size, d, e, tau)
        else:
            d[:] = e[:] = tau[:] = np.nan
        return symmetric, exponent

    @jit
    def reduced_by_blas(blas, S, A, d, e, tau, halves, absolute):
        """Do the same by LAPACK, for complex matrices and several threads."""
        sources  # noqa: B018
        n = d.size
        symmetric, exponent = scaled_to_one(S, A, halves, absolute)
        if symmetric:
            parts, work = np.zeros((2, n), A.real.dtype), np.zeros((WORK + 1) * n, A.dtype)
            sytrd(blas, n, at(A, 0, 0), A.shape[1], parts[0], parts[1], work[:n], work[n:])
            for i in range(n):
                d[i], e[i], tau[i] = parts[0, i], parts[1, i], work[i]
        else:
            d[:] = e[:] = tau[:] = np.nan
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
    def root(R, A, tau, F):
        """Write the upper triangle of Q F Q^H to A, real and perhaps R itself, whose rows have the reflectors."""
        sources  # noqa: B018
        by_tiles.assemble(R, A, tau, *F)

    @jit
    def root_by_blas(blas, A, tau, F, width):
        """Write the upper triangle of Q F Q^H over A."""
        sources  # noqa: B018
        by_blas.assemble(blas, A, tau, *F, width)

    @jit
    def written(A, out, factor):
        """Write the root in the upper triangle of A to `out`."""
        sources  # noqa: B018
        write(A, out, factor)

    @jit
    def certificate(S, X, shift, halves, factor, probes, order):
        """Return the residual of X as a root of S + shift I in the scale of T; see `layout.residual`."""
        sources  # noqa: B018
        return residual(S, X, shift, halves, factor, probes, order)

    return reduced, reduced_by_blas, symmetrized, ends, poles, root, root_by_blas, written, certificate


def _digest() -> int:
    """Return a checksum of the sources of the kernel."""
    here = Path(__file__).parent
    files = sorted(path for folder in (here, here.parent / "tridiagonal") for path in folder.glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in files))


reduced, reduced_by_blas, symmetrized, ends, poles, root, root_by_blas, written, certificate = _entries(_digest())

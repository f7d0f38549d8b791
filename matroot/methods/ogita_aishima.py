"""A slightly wrong eigenbasis made right by products alone, and kept orthonormal.

With d the diagonal of M = Q^H A Q and E the rest, Q (I + K), K_ij = E_ij / (d_j - d_i), diagonalizes A up to second
order (Ogita & Aishima, Iterative refinement for symmetric eigenvalue decomposition, Japan J. Indust. Appl. Math. 35,
2018, sec. 3). Where eigenvalues are close K is large and worth nothing; taken as it is, it destroys Q. Here

- neighbours in the spectrum are diagonalized among themselves by small eigenproblems first;
- what is still large in K is cut off;
- I + K, orthogonal to first order only, becomes exp(K), and the new Q is polished by its own Gram matrix.

For the root of a matrix, the vectors of a cluster need not be right: its divided differences are smooth. So cutting
off costs nothing but zeros that are not made.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from matroot.backends.base import Backend
from matroot.methods.base import Array

#: Largest entry of K that is used; with neighbours in the spectrum so far apart, ||K||_2 < pi CLIP (Hilbert's bound).
CLIP = 0.2
#: The small eigenproblems have n / BLOCKS rows, but at least NEIGHBOURS: less than a product's time all together.
BLOCKS = 8
NEIGHBOURS = 64
#: ||Q^H Q - I||_F from where one polishing step, of third order, ends at rounding error.
NEAR = 1e-4


def rotation(E: Array, d: Array, backend: Backend, turn: int = 0) -> Array:
    """W, orthogonal to about the precision of E, that makes W^H (diag(d) + E) W more diagonal.

    Parameters
    ----------
    E : array (n, n)
        Hermitian, with zero diagonal.
    d : array (n,)
        Real, about ascending.
    backend : backend
    turn : int
        Odd turns move the borders of the blocks by half a block, so that over two turns every neighbour is met.

    Returns
    -------
    array (n, n), of E's dtype
    """
    xp = backend.xp
    n = len(d)
    width = max(NEIGHBOURS, n // BLOCKS)
    first = width // 2 if turn % 2 else width
    borders = [0, *range(first, n - width // 2, width), n]
    E, d = E.copy(), d.copy()
    blocks = []
    for i, j in pairwise(borders):
        block = E[i:j, i:j] + xp.diag(d[i:j].astype(E.dtype))
        w, V = xp.linalg.eigh(block)
        blocks.append((i, j, V))
        d[i:j] = w
        E[:, i:j] = backend.matmul(E[:, i:j], V)
        E[i:j, :] = backend.matmul(V.conj().T, E[i:j, :])
        E[i:j, i:j] = 0
    gap = (d[None, :] - d[:, None]).astype(E.real.dtype)
    far = abs(E) <= CLIP * abs(gap)
    K = xp.where(far, E, 0) / xp.where(far & (gap != 0), gap, 1)

    # exp(K), to fourth order: what it leaves of ||K||^5 / 120 is polished away.
    K2 = backend.matmul(K, K)
    tail = K / 6 + K2 / 24
    tail.reshape(-1)[:: n + 1] += 0.5
    W = backend.matmul(K2, tail)
    W += K
    W.reshape(-1)[:: n + 1] += 1
    for i, j, V in blocks:
        W[i:j] = backend.matmul(V, W[i:j])
    return W


def polished(Q: Array, backend: Backend, narrow: Any) -> tuple[Array, float]:
    """The orthonormal matrix next to Q, and a bound of ||Q^H Q - I||_F for it.

    Steps Q <- Q (I - R/2 + 3 R^2 / 8), R = Q^H Q - I: the polar factor up to 5/16 R^3. R is taken in the precision of
    Q, the small correction in the precision `narrow`.
    """
    n = len(Q)
    eps = float(np.finfo(Q.dtype).eps)
    while True:
        R = backend.matmul(Q.conj().T, Q)
        R.reshape(-1)[:: n + 1] -= 1
        g = float(backend.xp.linalg.norm(R))
        if not g < 0.5:  # not a basis any more, or NaN
            return Q, g
        R = R.astype(narrow)
        correction = backend.matmul(R, R)
        correction *= 0.375
        correction -= R / 2
        Q = Q + backend.matmul(Q.astype(narrow), correction)
        if g <= NEAR:
            return Q, g**3 + n**0.5 * g * float(np.finfo(narrow).eps) + n * eps

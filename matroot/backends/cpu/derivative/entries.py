# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""A direction on its way in, and a derivative on its way out, with rows filled up to whole registers."""

from __future__ import annotations

from matroot.backends.cpu.large.tiles import mirror, transpose
from matroot.backends.cpu.tridiagonal.stage import stage


@stage()
def read(G, P, Q, factor, wide):
    """P = the symmetric part of G times a factor, by a transpose in Q."""
    n, step = G.shape[0], P.shape[1]
    half = G.dtype.type(0.5 * factor)
    for i in range(n):
        for j in range(n):
            P[i, j] = G[i, j] * half
    transpose(P.reshape(P.size), Q.reshape(Q.size), step, n, wide)
    for i in range(n):
        for j in range(n):
            P[i, j] += Q[i, j]


@stage()
def write(P, out, one, other, wide):
    """Write the symmetric matrix P, of which the upper triangle counts, times both factors."""
    n, step = out.shape[0], P.shape[1]
    mirror(P.reshape(P.size), step, n, wide)
    for i in range(n):
        for j in range(n):
            out[i, j] = P[i, j] * one * other

"""Sums of matrices between products, in place."""

from __future__ import annotations

from typing import Any

Array = Any


def combine(s: float, S: Array, m: float, M: Array, d: float, out: Array, scratch: Array, xp: Any) -> None:
    """out = s S + m M + d I for C-ordered stacks (B, n, n); `out` may be S, and `scratch` is overwritten."""
    B, n, _ = out.shape
    if s == 0:
        xp.multiply(M, m, out=out)
    else:
        if s != 1 or out is not S:
            xp.multiply(S, s, out=out)
        xp.multiply(M, m, out=scratch)
        out += scratch
    out.reshape(B, n * n)[:, :: n + 1] += d

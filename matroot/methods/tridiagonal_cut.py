"""Roots of small matrices whose spectrum a rule cuts: a decomposition, eight matrices at a time."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from matroot._regularization import Coefficients
from matroot.backends.cpu.kernels import compiled
from matroot.methods.base import Array, FloatArray
from matroot.methods.conditioning import steps
from matroot.methods.tridiagonal import by_groups, work_space
from matroot.methods.tridiagonal_report import CutReport, probes

#: Above this n, LAPACK decomposes one matrix after the other as fast as lanes do.
LARGEST = 128


def cuts_in_lanes(s: Fraction | float, n: int) -> bool:
    """Return True if `cut_roots` serves the exponent and the order, that of the real matrices."""
    return n <= LARGEST and serves_cuts(s)


def serves_cuts(s: Fraction | float) -> bool:
    """Return True if roots of this exponent are served under a cut; others need an inverse to be certified."""
    return isinstance(s, Fraction) and (s > 0 or s.numerator == -1)


def cut_roots(stack: Array, out: Array, s: Fraction, rule: Coefficients, noise: float = 0.0) -> CutReport:
    """Compute A'^s for a stack of symmetric or Hermitian matrices, in float64; A' is A with its spectrum cut.

    Parameters
    ----------
    stack, out : array (B, n, n)
        As for `tridiagonal.small_roots`.
    s : Fraction
        Not -a/b with a > 1, whose certificate takes an inverse.
    rule : Coefficients
        With `cuts`; `NONE` if there is `noise`.
    noise : float
        For s > 0, not 0: nothing is cut, and A' = A may be singular. Its negative eigenvalues count as 0 up to this
        share of the largest, and n / 2 times the asymmetry.

    Returns
    -------
    CutReport
        A matrix is not served when its condition number is above 1e14 after the rule, its root overflows, nothing
        of its spectrum is kept, or it has a negative eigenvalue beyond the noise; and none is where there is no kernel.
    """
    B, n, _ = stack.shape
    kernel = compiled("matroot.backends.cpu.tridiagonal.decomposition")
    if kernel is None:
        return CutReport(*np.zeros((len(CutReport._fields), B)))
    twofold = stack.dtype.kind == "c"
    V, order, vectors = constants(s, n, twofold)
    report = np.empty((B, len(CutReport._fields)))

    def solve(A: FloatArray, X: FloatArray, part: slice) -> None:
        exponent, numbers = (s.numerator, s.denominator), (rule.relative, rule.absolute, rule.drops, noise)
        kernel.roots(A, X, report[part], *exponent, *numbers, V, order, out.dtype.char in "fF", work_space(vectors))

    by_groups(solve, stack, out, len(V))
    found = CutReport._make(report.T)
    return found._replace(changed=found.changed / 2) if twofold else found


@lru_cache(maxsize=256)
def constants(s: Fraction, n: int, twofold: bool) -> tuple[FloatArray, Any, int]:
    """Return what the kernel needs for an exponent and an order: probes, steps of the certificate, work space."""
    V = probes(n, twofold)
    n = len(V)
    vectors = 3 * (n * (n + 1) // 2) + 7 * n + 4 * n * ((n + 3) // 4) + 6 + 24 * n + 16
    return V, np.array(steps(s), np.float64), vectors

"""The factor by which rounding of A grows under a rule that changes single eigenvalues."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from matroot._regularization import Regularization
from matroot._result import on_host
from matroot.backends.base import Backend
from matroot.methods.base import Array, Changed
from matroot.pipeline.status import excess_of


def excess_of_cuts(values: Array, cut: Array, rule: Regularization, s: Fraction, backend: Backend) -> np.ndarray:
    """Return `excess_of` for matrices (B, n, n), of which so many eigenvalues, `cut` (B,), were changed by the rule.

    Those with such eigenvalues are decomposed, without eigenvectors: a result does not hold what was cut.
    """
    found = np.ones(len(values))
    rows = np.flatnonzero(cut > 0)
    if not len(rows):
        return found
    A = values[rows]
    w = on_host(backend.xp.linalg.eigvalsh(A.astype(np.result_type(A.dtype, np.float64))))
    if rule.keeps_null_space:
        dropped = np.arange(w.shape[-1]) < cut[rows, None]
        kept = np.where(dropped, 0.0, w)
    else:
        kept, _ = rule.spectrum(w, np.ones(len(w)))
        dropped = np.zeros(w.shape, bool)
    unused: Any = None
    changed = Changed(unused, kept - w, kept, unused, dropped)
    found[rows] = excess_of(kept[:, -1], kept[:, 0], np.zeros(len(w)), changed, s)
    return found

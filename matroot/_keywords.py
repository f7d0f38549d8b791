"""Advice on keywords that are not ours: misspellings, and what other libraries call our options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

_RIDGE = "regularization=1e-6 adds that multiple of the largest eigenvalue, Ridge(absolute=1e-6) that number"
_CUT = "regularization=PseudoInverse(rtol=...) drops small eigenvalues; rtol is the accuracy of the root"
#: Keywords that people write first, and what to write instead.
FOREIGN = {
    **dict.fromkeys(("ridge", "eps", "epsilon", "reg", "damping", "jitter", "shrinkage"), _RIDGE),
    **dict.fromkeys(("tol", "rcond", "cutoff", "threshold"), _CUT),
    "dtype": "compute_dtype is the precision of the arithmetic; the root has the dtype of a",
    "hermitian": "assume_a='pos' is for symmetric and Hermitian matrices, assume_a='gen' for all others",
    "symmetric": "assume_a='pos' is for symmetric and Hermitian matrices, assume_a='gen' for all others",
    "inverse": "inverse_pth_root, inv_sqrtm and pth_root, sqrtm are the two roots",
}


def advise(function: Callable[..., Any], given: Iterable[str]) -> None:
    """Raise TypeError, with advice, for the first keyword that `function` does not have."""
    ours = [name for name, one in inspect.signature(function).parameters.items() if one.kind is not one.POSITIONAL_ONLY]
    for name in given:
        if name in ours:
            continue
        near = get_close_matches(name, ours, 1)
        advice = FOREIGN.get(name) or (f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(ours)}")
        raise TypeError(f"{function.__name__} has no option {name!r}; {advice}") from None

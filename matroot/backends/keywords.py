"""Checks of what a caller gives: numbers, and keywords that are misspelt or another library's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np

_RIDGE = "regularization=1e-6 adds that multiple of the largest eigenvalue, Ridge(absolute=1e-6) that number"
_CUT = "regularization=PseudoInverse(rtol=...) drops small eigenvalues; rtol is the accuracy of the root"
_KIND = "assume_a='pos' is for symmetric and Hermitian matrices, assume_a='gen' for all others"
#: What people write first, and what to write where the option before the "=" exists.
FOREIGN = {
    **dict.fromkeys(("ridge", "eps", "epsilon", "reg", "damping", "jitter", "shrinkage"), _RIDGE),
    **dict.fromkeys(("tol", "rcond", "cutoff", "threshold"), _CUT),
    **dict.fromkeys(("hermitian", "symmetric"), _KIND),
    "dtype": "compute_dtype=... is the precision of the arithmetic; the root has the dtype of a",
}


def is_int(value: Any) -> bool:
    """Return True for an integer, of numpy too, that is no bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return True for an integer or a float, of numpy too, that is no bool."""
    return is_int(value) or isinstance(value, float | np.floating)


def advise(function: Callable[..., Any], given: Iterable[str]) -> None:
    """Raise TypeError, with advice, for the first keyword that `function` does not have."""
    parameters = inspect.signature(function).parameters
    kinds = [one.kind for one in parameters.values()]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return
    ours = [name for name, one in parameters.items() if one.kind is not one.POSITIONAL_ONLY]
    for name in given:
        if name in ours:
            continue
        near = get_close_matches(name, ours, 1)
        advice = (
            f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(ours)}" if ours else "it has none"
        )
        foreign = FOREIGN.get(name, "=")
        if foreign.partition("=")[0] in ours:
            advice = foreign
        raise TypeError(f"{function.__name__} has no option {name!r}; {advice}") from None

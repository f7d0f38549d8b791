"""The same powers as one would write them with numpy and with SciPy."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: A row that would take more seconds than this is left out.
PATIENCE = 30.0
#: Rows of the leading block whose time says how long SciPy would take.
TRIED = 128


class TooSlowError(ValueError):
    """The row would take too long."""


def by_numpy(a: Array, s: float, rule: Any, general: bool) -> Callable[[], Array]:
    """Return the call that decomposes the stack and multiplies back; `rule` changes single eigenvalues."""

    def symmetric() -> Array:
        w, V = np.linalg.eigh(a)
        if rule is not None:
            w, _ = rule.spectrum(w, 1.0)
        power = w**s if rule is None or not rule.keeps_null_space else np.where(w > 0, w, 1) ** s * (w > 0)
        return np.asarray((V * power[..., None, :]) @ V.conj().swapaxes(-1, -2))

    def any_matrix() -> Array:
        w, V = np.linalg.eig(a)
        X = (V * (w + 0j)[..., None, :] ** s) @ np.linalg.inv(V)
        return X if np.iscomplexobj(a) else X.real

    return quiet(any_matrix if general else symmetric)


def by_scipy(a: Array, s: float, rule: Any, general: bool) -> Callable[[], Array]:
    """Return the call that loops over the stack with ``sqrtm`` and ``inv``, or with ``fractional_matrix_power``."""
    from scipy import linalg

    if rule is not None:
        raise ValueError(f"{type(rule).__name__} changes single eigenvalues, of which its functions know nothing")
    functions: dict[float, Callable[[Array], Any]] = {
        0.5: linalg.sqrtm,
        -0.5: lambda A: linalg.inv(linalg.sqrtm(A)),
        -1.0: linalg.inv,
    }
    power: Callable[[Array], Any] = functions.get(s, lambda A: linalg.fractional_matrix_power(A, s))
    n = a.shape[-1]
    stack = a.reshape(math.prod(a.shape[:-2]), n, n)

    first = stack[:1, :TRIED, :TRIED]
    seconds = []
    for _ in range(2 if first.size else 0):
        start = time.perf_counter()
        quiet(lambda: [power(A) for A in first])()
        seconds.append(time.perf_counter() - start)
    expected = min(seconds, default=0.0) * len(stack) * (n / max(1, min(n, TRIED))) ** 3
    if expected > PATIENCE:
        raise TooSlowError(f"not run: it would take some {expected:.0f} seconds")
    return quiet(lambda: np.stack([power(A) for A in stack]).reshape(a.shape) if len(stack) else a)


def quiet(f: Callable[[], Any]) -> Callable[[], Any]:
    """Return `f` without its warnings: matrices without a root show in the table."""

    def call() -> Any:
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            return f()

    return call


#: Name of a row, and its function: stack, exponent, rule for single eigenvalues or None, general -> call.
ROWS = {"numpy by hand": by_numpy, "scipy by hand": by_scipy}

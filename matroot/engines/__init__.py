"""What a machine does fast; the only place that names numpy's, scipy's, numba's or cupy's machinery."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from matroot.engines.cpu import CPU


@cache
def cpu() -> CPU:
    """The CPU engine."""
    return CPU()


def engine_of(values: Any) -> Any:
    """The engine that computes where the array is: numpy's arrays on the CPU."""
    if isinstance(values, np.ndarray):
        return cpu()
    raise NotImplementedError(
        f"no engine for {type(values).__name__} arrays in this version: move it to the cpu"
    )

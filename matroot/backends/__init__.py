"""What a machine does fast; the only place that names numpy's, scipy's, numba's or cupy's machinery."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from matroot.backends.cpu.cpu import CPU


@cache
def cpu_backend() -> CPU:
    """The CPU backend."""
    return CPU()


def backend_of(values: Any) -> Any:
    """The backend that computes where the array is: numpy's arrays on the CPU, cupy's on their own device."""
    if isinstance(values, np.ndarray):
        return cpu_backend()
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(values, cupy.ndarray):
        from matroot.backends.cuda.gpu import gpu

        return gpu(int(values.device.id))
    raise TypeError(f"no backend for {type(values).__name__} arrays: pass numpy or cupy")

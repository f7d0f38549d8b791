"""Products, factorizations and kernels: on the CPU by numpy, scipy and numba, on CUDA devices by cupy."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from matroot.backends.cpu.cpu import CPU


@cache
def cpu_backend() -> CPU:
    """Return the CPU backend."""
    return CPU()


def backend_of(values: Any) -> Any:
    """Return the backend of the array's device: the CPU for numpy arrays, the array's own device for cupy arrays."""
    if isinstance(values, np.ndarray):
        return cpu_backend()
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(values, cupy.ndarray):
        from matroot.backends.cuda.gpu import gpu

        return gpu(int(values.device.id))
    raise TypeError(f"no backend for {type(values).__name__} arrays: pass numpy or cupy")

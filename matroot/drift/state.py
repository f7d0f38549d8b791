"""The check of a tracker's state before it is loaded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from matroot.drift.basis import WAYS
from matroot.methods.base import Array

#: Dimensions of the fields of a `Basis`, and what their arrays may hold.
MATRICES, VECTORS, NUMBERS, COUNTS = ("Q", "A", "X", "E"), ("w", "f"), ("scale", "defect"), ("age", "misses", "wait")
FIELDS = (*MATRICES, *VECTORS, *NUMBERS, *COUNTS)


def checked(state: Any) -> dict[str, Array]:
    """Return the arrays of a state; raise ValueError if it is not what `RootTracker.state_dict` gave."""
    if not hasattr(state, "items"):
        raise ValueError(f"the state must be a dict, as state_dict() gives it, got {type(state).__name__}")
    arrays = {name: np.asarray(value) for name, value in state.items()}
    missing = {"counts", "exponent", "shape", "known"} - set(arrays)
    if not missing and arrays["known"].size:
        missing = set(FIELDS) - set(arrays)
    if missing:
        raise ValueError(f"the state lacks {sorted(missing)}; pass what state_dict() gave")
    for name, length in (("counts", len(WAYS)), ("exponent", 2), ("shape", None), ("known", None)):
        values = arrays[name]
        if (
            values.ndim != 1
            or (length or len(values)) != len(values)
            or (values.size and values.dtype.kind not in "iu")
        ):
            raise ValueError(f"{name} in the state must be a vector of integers, got {values.dtype}{values.shape}")
    shape, known = arrays["shape"].tolist(), arrays["known"].tolist()
    most = math.prod(shape[:-2])
    if len(shape) == 1 or min(shape, default=0) < 0 or sorted({*known} & {*range(most)}) != sorted(known):
        raise ValueError(f"shape and known in the state do not fit: {tuple(shape)} and {known}")
    for name in FIELDS if known else ():
        wanted = (len(known), *(shape[-2:] if name in MATRICES else shape[-1:] if name in VECTORS else ()))
        values = arrays[name]
        if values.shape != wanted:
            raise ValueError(f"{name} in the state must have shape {wanted}, got {values.shape}")
        kinds = "iu" if name in COUNTS else "fc" if name in MATRICES else "f"
        if values.dtype.kind not in kinds or not np.isfinite(values).all():
            raise ValueError(f"{name} in the state must hold finite numbers, got {values.dtype}")
    return arrays

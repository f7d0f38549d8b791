"""Storage of a state in bfloat16: read in full precision, computed in full precision, rounded when it is kept.

Means of many gradients change by less than a unit of bfloat16 at a step, so rounding to the nearest would leave them
as they are. They are rounded up or down, with probabilities that make the mean right: a number from 0 to 2^16 - 1 is
added to the bits of the float32, of which the upper 16 are kept. The numbers are those of a fixed table, from a place
that the step and the name of the array give: equal runs give equal bits, and a resumed run those of one that never
stopped. A part of an array, on the rank that owns it, gets the numbers of its entries in the whole array. Roots and
bases are computed anew, and rounded to the nearest. Roots are symmetric, and kept packed.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, cast, dtype_name, is_jax, is_torch, like
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import At
from matroot_optim.step.statistics import pack, unpack

#: Length of the table.
SIZE = 2**16
#: Odd, so that an entry meets the whole table before a number comes again.
STRIDE = 40503


class Wide(dict[str, Array]):
    """The arrays of a state, read in full precision and rounded when they are set."""

    def __init__(self, layout: Layout, stored: Mapping[str, Array], step: Any) -> None:
        super().__init__(stored)
        self._kinds, self._step = layout.narrow, step

    def __getitem__(self, name: str) -> Array:
        return widened(super().__getitem__(name), self._kinds.get(name))

    def __setitem__(self, name: str, x: Array) -> None:
        super().__setitem__(name, narrowed(name, x, self._kinds.get(name), self._step))

    def update(self, other: Mapping[str, Array]) -> None:  # type: ignore[override]
        for name, x in other.items():
            self[name] = x


def opened(layout: Layout, stored: Mapping[str, Array], step: Any) -> dict[str, Array]:
    """Return the arrays for one step, in a new dict."""
    return Wide(layout, stored, step) if layout.narrow else dict(stored)


def closed(arrays: dict[str, Array]) -> dict[str, Array]:
    """Return the arrays of a step as they are kept."""
    return {name: dict.__getitem__(arrays, name) for name in arrays} if isinstance(arrays, Wide) else arrays


def widen(layout: Layout, stored: Mapping[str, Array]) -> dict[str, Array]:
    """Return all arrays in full precision."""
    return {name: widened(x, layout.narrow.get(name)) for name, x in stored.items()}


def narrow(layout: Layout, arrays: Mapping[str, Array], step: Any = None) -> dict[str, Array]:
    """Return all arrays as they are kept; without a step, rounded to the nearest."""
    return {name: narrowed(name, x, layout.narrow.get(name), step) for name, x in arrays.items()}


def widened(x: Array, kind: Any) -> Array:
    """Return an array of a state in full precision; `kind` as in `Layout.narrow`, None for an array kept whole."""
    if kind is None or dtype_name(x) != "bfloat16":
        return x
    x = cast(cast(x, "float32"), kind.dtype)
    return unpack(x) if kind.packed else x


def narrowed(name: str, x: Array, kind: Any, step: Any) -> Array:
    """Return an array as it is kept."""
    if kind is None or dtype_name(x) == "bfloat16":
        return x
    x = cast(pack(x) if kind.packed else x, "float32")
    if kind.dithered and step is not None:
        name = name if kind.at is None else kind.at.name
        start = (step * STRIDE + zlib.crc32(name.encode()) % SIZE) % SIZE
        if kind.at is None:
            x = _dithered(x.reshape(-1), start).reshape(x.shape)
        else:
            x = _rounded(x, _noise_of_part(x, start, kind.at))
    if isinstance(x, np.ndarray):
        return x.astype(_bfloat16())
    return cast(x, "bfloat16")


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise ValueError("state_dtype must be 'float32' for numpy arrays without the package ml_dtypes") from None
    return ml_dtypes.bfloat16


def _dithered(x: Array, start: Any) -> Array:
    """Round a vector of float32 to 8 bits, towards or away from 0 as the table says from `start` on."""
    n = x.shape[0]
    if is_jax(x):
        jax = sys.modules["jax"]
        noise = jax.numpy.resize(jax.numpy.roll(jax.numpy.asarray(_table()), -start), n)
        bits = jax.lax.bitcast_convert_type(x, jax.numpy.int32)
        return jax.lax.bitcast_convert_type((bits + noise) & -SIZE, jax.numpy.float32)
    if is_torch(x):
        torch = sys.modules["torch"]
        noise = torch.roll(_table_on(str(x.device)), -start)
        return _rounded(x, noise[:n] if n <= SIZE else noise.repeat(-(-n // SIZE))[:n])
    noise = np.resize(np.roll(_table(), -start), n)
    return ((np.ascontiguousarray(x).view(np.int32) + noise) & -SIZE).view(np.float32)


def _rounded(x: Any, noise: Any) -> Any:
    """Add the noise, which is overwritten, to the bits of a tensor, and cut them."""
    torch = sys.modules["torch"]
    return noise.add_(x.contiguous().view(torch.int32)).bitwise_and_(-SIZE).view(torch.float32)


def _noise_of_part(x: Any, start: int, at: At) -> Any:
    """Return the numbers of the entries of a tensor, which is a part of the array that they start in."""
    torch, boxes = sys.modules["torch"], len(at.starts)
    if not boxes:
        return torch.zeros(x.shape, dtype=torch.int32, device=x.device)
    size = (x.shape[0] // boxes, *x.shape[1:])
    index = np.asarray(at.starts, np.int64).reshape(boxes, *(1,) * x.ndim) + start
    places = like((index % SIZE).astype(np.int32), x)
    for k, (n, stride) in enumerate(zip(size, at.strides, strict=True)):
        along = (np.arange(n, dtype=np.int64) * stride % SIZE).astype(np.int32)
        places = places + like(along.reshape(n, *(1,) * (x.ndim - 1 - k)), x)
    return _table_on(str(x.device)).index_select(0, places.bitwise_and_(SIZE - 1).reshape(-1)).reshape(x.shape)


@lru_cache(maxsize=1)
def _table() -> Any:
    return np.random.Philox(key=0).random_raw(SIZE // 4).view(np.uint16).astype(np.int32)


@lru_cache(maxsize=8)
def _table_on(device: str) -> Any:
    return like(_table(), sys.modules["torch"].empty(0, device=device))

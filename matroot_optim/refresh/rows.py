"""Rows of stacked arrays: taken, put, and moved to where an array is."""

from __future__ import annotations

from typing import Any

import numpy as np

from matroot_optim.arrays import Array, copy, is_jax, is_torch, like, to_host


def take_rows(x: Array, index: Any) -> Array:
    """Return x[index] for increasing indices, always a copy."""
    if len(index) == x.shape[0]:
        return copy(x)
    return x[like(index, x)] if not is_jax(x) else x[index]


def some_rows(x: Array, index: Any) -> Array:
    """Return x[index] for increasing indices; x itself if these are all."""
    return x if len(index) == x.shape[0] else take_rows(x, index)


def put_rows(x: Array, index: Any, values: Array, donate: bool) -> Array:
    """Replace rows of x, in place if `donate`; `values` itself if these are all rows."""
    if len(index) == x.shape[0]:
        return values
    if is_jax(x):
        return x.at[index].set(values)
    if not donate:
        x = copy(x)
    if is_torch(x) and x.is_cpu:
        to_host(x)[index] = to_host(values)
    else:
        x[like(index, x)] = values
    return x


def like_or_same(values: Array, x: Array) -> Array:
    """Return `values`, moved from the host to the device of x if needed."""
    return like(values, x) if isinstance(values, np.ndarray) else values

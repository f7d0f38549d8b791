"""Calls of the host from programs that jax compiles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def call(
    host: Callable[..., Sequence[Any]], shapes: Sequence[Any], *args: Any, many_cpus: bool | None = None
) -> list[Any]:
    """Return the arrays that a function of numpy arrays computes inside of a compiled program.

    On one of several CPU devices, `jax.pure_callback` copies large arguments in a thread of the pool whose threads all
    wait for this device's answer; a callback on the buffers themselves needs none.
    """
    jax = sys.modules["jax"]
    if many_cpus is None:
        many_cpus = jax.default_backend() == "cpu" and jax.local_device_count() > 1 and jax.__version_info__ >= (0, 8)
    if not many_cpus:
        return list(jax.pure_callback(host, list(shapes), *args, vmap_method="sequential"))
    from jax.experimental.buffer_callback import buffer_callback

    def fill(_: Any, out: Sequence[Any], *given: Any) -> None:
        for x, values in zip(out, host(*jax.tree.map(np.asarray, given)), strict=True):
            np.asarray(x)[...] = values

    return list(buffer_callback(fill, list(shapes), vmap_method="sequential")(*args))

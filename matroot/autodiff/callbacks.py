"""Calls of the host from programs that jax compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def call(host: Callable[..., Any], shapes: Any, *args: Any) -> Any:
    """Return the tree of arrays, of these shapes, that a function of numpy arrays computes; batched under ``vmap``.

    On one of several CPU devices, `jax.pure_callback` copies large arguments in a thread of the pool whose threads all
    wait for this device's answer; a callback on the buffers themselves needs none, and each device then computes all.
    """
    if not (jax.default_backend() == "cpu" and jax.local_device_count() > 1 and jax.__version_info__ >= (0, 8)):
        return jax.pure_callback(host, shapes, *args, vmap_method="broadcast_all")
    from jax.experimental.buffer_callback import buffer_callback

    def fill(_: Any, out: Any, *given: Any) -> None:
        found = host(*map(np.asarray, given))
        for x, values in zip(jax.tree.leaves(out), jax.tree.leaves(found), strict=True):
            np.asarray(x)[...] = values

    return buffer_callback(fill, shapes, vmap_method="broadcast_all")(*args)

"""The promotion of dtypes and ranks that the steps are written for, whatever a program forbids for its own code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def usual_promotion() -> Iterator[None]:
    """Promote as usual where ``jax_numpy_dtype_promotion`` or ``jax_numpy_rank_promotion`` forbids it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield

"""A pause of Python's garbage collector while a state is taken apart or put together."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the cyclic garbage collector from running, if it is on.

    A state dict has some 20 tensors for every matrix, and none of them is garbage. The collector starts anew for every
    few hundred that are made and reads all that there are, which took longer than all else.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

"""numba's compiler, whose cache on disk is used where there is a place for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(*signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``njit(*signature, cache=True, **options)``; without a cache where numba can write to no folder.

    So it is for a user without a home beside an installation that is read-only: each process then compiles anew,
    unless ``NUMBA_CACHE_DIR`` names a folder.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(*signature, cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(*signature, **options)(function)

    return decorate

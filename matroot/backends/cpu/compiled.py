"""numba's compiler, as far as there is one, and its cache on disk, as far as there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

try:
    from numba import njit
except Exception:  # whatever is wrong with a compiler, there is Python

    def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Leave a function as it is."""
        return lambda function: function


def compiled(*signatures: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``njit(signatures, cache=True, **options)``, whose cache may fail: then the process compiles anew.

    So it is for a user without a home beside an installation that is read-only, on a full disk, and where a file of
    the cache is damaged. ``NUMBA_CACHE_DIR`` names another folder. Without numba, and under ``NUMBA_DISABLE_JIT``, the
    function stays as it is.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(**options)(function)
        if dispatcher is function:
            return function
        with suppress(Exception):  # numba finds no folder that it can write to
            dispatcher.enable_caching()
            dispatcher._cache = Forgiving(dispatcher._cache)
        for signature in signatures:
            dispatcher.compile(signature)
        if signatures:
            dispatcher.disable_compile()
        return dispatcher

    return decorate


class Forgiving:
    """A cache of numba that knows nothing where it cannot read, and keeps nothing where it cannot write."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def load_overload(self, *signature: Any) -> Any:
        """The compiled function, or None. A damaged index is emptied: nothing could be saved beside it."""
        try:
            return self.cache.load_overload(*signature)
        except Exception:
            with suppress(Exception):
                self.cache.flush()
            return None

    def save_overload(self, *compiled: Any) -> None:
        """Keep a compiled function, if there is a place."""
        with suppress(Exception):
            self.cache.save_overload(*compiled)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

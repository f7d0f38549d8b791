"""numba's compiler and its cache on disk, each of them optional."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

try:
    from numba import njit
except Exception:  # a broken numba must not break the import; Python runs the loops

    def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that leaves a function unchanged."""
        return lambda function: function


def compiled(*signatures: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Apply ``njit(signatures, cache=True, **options)``; if the cache fails, compile in every process.

    The cache fails on a full disk, if a file of the cache is damaged, and for a user without a home if the
    installation is read-only. ``NUMBA_CACHE_DIR`` names another folder. Without numba, and under
    ``NUMBA_DISABLE_JIT``, the function is unchanged.
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
    """A cache of numba that ignores errors: reading then finds nothing, and writing has no effect."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def load_overload(self, *signature: Any) -> Any:
        """Return the compiled function, or None. A damaged index is emptied, since nothing can be added to it."""
        try:
            return self.cache.load_overload(*signature)
        except Exception:
            with suppress(Exception):
                self.cache.flush()
            return None

    def save_overload(self, *compiled: Any) -> None:
        """Save a compiled function, if possible."""
        with suppress(Exception):
            self.cache.save_overload(*compiled)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

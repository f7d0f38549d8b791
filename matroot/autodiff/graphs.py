"""Public functions as `torch.compile` sees them; torch is not imported for that."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from matroot.backends.keywords import advise

P = ParamSpec("P")
R = TypeVar("R")


def compiling() -> bool:
    """Return True while `torch.compile` traces the caller."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_compiling())


def as_operator(describe: Callable[..., tuple[str, Any]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function of a tensor and constants be one operator of a graph; `describe` gives its key and setup."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            if compiling():
                from matroot.autodiff import compiled

                root: R = compiled.root(describe, args[0], function.__name__, *args[1:], **options)
                return root
            try:
                return function(*args, **options)
            except TypeError:
                advise(function, options)
                raise

        return call

    return decorated


def between_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function break the graph once, and run as it does without compilation."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if compiling():
            from matroot.autodiff import compiled

            result: R = compiled.between_graphs(function, *args, **options)
            return result
        try:
            return function(*args, **options)
        except TypeError:
            advise(function, options)
            raise

    return call

"""Process-wide settings that are held at one value while blocks run and restored after the last of the blocks.

A block begins and ends with a chain of C functions, and one call of `deque` runs the whole chain. Python runs signal
handlers, such as the handler that raises KeyboardInterrupt, and other threads only between two bytecodes. A chain has
no bytecodes inside: no exception can skip a part of it, and it needs no lock, which a fork could leave locked.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial, wraps
from itertools import chain, compress, repeat
from operator import call, methodcaller, not_
from threading import get_ident
from typing import Any, ParamSpec, TypeVar

from matroot.backends.keywords import advise

P = ParamSpec("P")
R = TypeVar("R")

#: A running block: its thread, and an object that identifies the block.
Token = tuple[int, object]


class Setting:
    """Numbers that overlapping blocks of any thread hold at one value.

    ``reader()`` returns a number, ``writer(number)`` sets it: C functions that do not release Python's global lock.
    Where all threads share the numbers (`shared`), a forked child drops the blocks of threads that it does not have.
    """

    def __init__(
        self, readers: Sequence[Callable[[], Any]], writers: Sequence[Callable[[Any], Any]], *, shared: bool = True
    ) -> None:
        self.readers, self.writers = readers, writers
        self.found: list[Any] = []
        self.holders: set[Token] = set()
        if shared and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_other_threads)

    def begin(self, token: Token, value: Any) -> Iterator[Any]:
        """Return the chain that begins a block: store the numbers if no block is running, and set the value."""
        alone = map(not_, repeat(self.holders))
        return chain(
            map(self.found.append, map(call, compress(self.readers, alone))),
            map(self.holders.add, (token,)),
            map(call, self.writers, repeat(value)),
        )

    def end(self, tokens: Iterable[Token]) -> Iterator[Any]:
        """Return the chain that ends blocks: restore the numbers if no block is running any more."""
        alone = map(not_, repeat(self.holders))
        return chain(
            map(self.holders.discard, tokens),
            map(call, self.writers, compress(self.found, alone)),
            map(call, compress((self.found.clear,), alone)),
        )

    def _forget_other_threads(self) -> None:
        run(self.end([token for token in self.holders if token[0] != get_ident()]))


class _Begin:
    """``__enter__`` of a hold. A Python function could be ended by a signal handler after the block began."""

    def __get__(self, hold: Any, kind: type) -> Any:
        return methodcaller("begin") if hold is None else hold.begin


class Hold(io.IOBase):
    """A block that holds settings. IOBase's ``__exit__`` is C, and only calls `close`.

    A chain runs once: ending a block twice, or before it began, does nothing.
    """

    __enter__ = _Begin()

    def __init__(self, settings: Iterable[Setting], value: Any) -> None:
        token = (get_ident(), object())
        settings = list(settings)
        self.begin = partial(run, chain(*[setting.begin(token, value) for setting in settings]))
        end = chain(*[setting.end((token,)) for setting in settings])
        self.close = partial(run, end)  # type: ignore[method-assign]


def confined(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function in a copy of the context, so that numpy's error state is restored after any interruption.

    The ``__exit__`` of `numpy.errstate` is Python, and a signal handler that raises can skip it. In the Python that a
    compiled function calls to make its result, what the handler raises becomes the cause of a SystemError.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return copy_context().run(function, *args, **kwargs)
        except TypeError:
            advise(function, kwargs)
            raise
        except SystemError as error:
            raised: BaseException = error
            while isinstance(raised, SystemError) and raised.__cause__ is not None:
                raised = raised.__cause__
            raise raised from None

    return call


def held(settings: Iterable[Setting], value: Any) -> AbstractContextManager[Any]:
    """Return a block that holds all of the settings at a value."""
    return Hold(settings, value)


#: Run a chain to its end. `partial` and `deque` are written in C, too.
run: Callable[[Iterable[Any]], Any] = partial(deque, maxlen=0)

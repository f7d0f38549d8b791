"""Settings of the whole process, held at one value while blocks run and put back after the last of them.

A block begins and ends with a chain of C functions, and one call of `deque` runs the whole chain. Python calls signal
handlers, such as the one that raises KeyboardInterrupt, and lets other threads run only between two bytecodes. There
are none inside a chain: no exception can skip a part of it, and no lock is needed, which a fork could leave locked.
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

P = ParamSpec("P")
R = TypeVar("R")

#: A block under way: the thread that it runs in, and what tells it from others.
Token = tuple[int, object]


class Setting:
    """Numbers that overlapping blocks hold at one value, whichever thread they run in.

    Parameters
    ----------
    readers, writers : sequences of C functions
        ``reader()`` gives a number, ``writer(number)`` sets it. They must not let go of Python's global lock.
    shared : bool
        Whether all threads share the numbers. If so, a forked child drops the blocks of threads that it has not.
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
        """The chain that begins a block: remember what is found if nobody holds it, and set the value."""
        alone = map(not_, repeat(self.holders))
        return chain(
            map(self.found.append, map(call, compress(self.readers, alone))),
            map(self.holders.add, (token,)),
            map(call, self.writers, repeat(value)),
        )

    def end(self, tokens: Iterable[Token]) -> Iterator[Any]:
        """The chain that ends blocks: put back what was found if nobody holds it any more."""
        alone = map(not_, repeat(self.holders))
        return chain(
            map(self.holders.discard, tokens),
            map(call, self.writers, compress(self.found, alone)),
            map(call, compress((self.found.clear,), alone)),
        )

    def _forget_other_threads(self) -> None:
        run(self.end([token for token in self.holders if token[0] != get_ident()]))


class _Begin:
    """``__enter__`` of a hold: not a function of Python, which a signal handler could end after the block began."""

    def __get__(self, hold: Any, kind: type) -> Any:
        return methodcaller("begin") if hold is None else hold.begin


class Hold(io.IOBase):
    """A block that holds settings. IOBase's ``__exit__`` is C, and all it does is to call `close`.

    A chain runs once: to end a block twice, or one that never began, does nothing.
    """

    __enter__ = _Begin()

    def __init__(self, settings: Iterable[Setting], value: Any) -> None:
        token = (get_ident(), object())
        settings = list(settings)
        self.begin = partial(run, chain(*[setting.begin(token, value) for setting in settings]))
        end = chain(*[setting.end((token,)) for setting in settings])
        self.close = partial(run, end)  # type: ignore[method-assign]


def confined(function: Callable[P, R]) -> Callable[P, R]:
    """A function that runs in a copy of the context: numpy's error state ends with it, whatever interrupts it.

    The ``__exit__`` of `numpy.errstate` is Python, and a signal handler that raises can skip it.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return copy_context().run(function, *args, **kwargs)

    return call


def held(settings: Iterable[Setting], value: Any) -> AbstractContextManager[Any]:
    """A block that holds all of the settings at a value."""
    return Hold(settings, value)


#: Run a chain to its end. `partial` and `deque` are C, too.
run: Callable[[Iterable[Any]], Any] = partial(deque, maxlen=0)

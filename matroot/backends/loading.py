"""Modules that are imported when they are first needed, by one thread at a time and never in the middle of a fork.

A child that was forked while another thread imported a module, or while numba compiled, has their locks but not the
thread that would open them: it would wait for ever at its own first root. So a fork waits until that is done.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from threading import RLock
from types import ModuleType
from typing import Any

_importing = RLock()
#: What the thread that forks has locked, in order.
_locked: list[Any] = []


@cache
def deferred(name: str) -> ModuleType:
    """Import a module now, if that was not done before."""
    with _importing:
        return importlib.import_module(name)


def _before_fork() -> None:
    _importing.acquire()
    compiler = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
    if compiler is not None:
        compiler.acquire()
    _locked[:] = [lock for lock in (compiler, _importing) if lock is not None]


def _after_fork() -> None:
    while _locked:
        _locked.pop(0).release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)

"""Deferred imports, by one thread at a time and never during a fork.

A child that is forked while another thread imports a module, or while numba compiles, inherits their locks but not the
thread that would release them: its first root would wait for ever. So a fork waits until the import is done.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from threading import RLock
from types import ModuleType
from typing import Any

#: The process that imported matroot; a child that was forked is another one.
PROCESS = os.getpid()

_importing = RLock()
#: Locks taken by the thread that forks, in order.
_locked: list[Any] = []


@cache
def deferred(name: str) -> ModuleType:
    """Import a module, unless it is imported already."""
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

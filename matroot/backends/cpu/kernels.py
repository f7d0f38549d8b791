"""Does this process use the compiled kernels? Decided once, by its first root on the CPU.

Compiling takes seconds. A process that does not find all kernels in numba's cache on disk computes with LAPACK and with
Python's loops as long as it lives, and another one fills the cache for later processes (`background`).
"""

from __future__ import annotations

import os

from matroot.backends.loading import deferred

#: "now" compiles in the process that needs a kernel, "never" nowhere; all else is the default.
VARIABLE = "MATROOT_COMPILE"

#: The process that imported this module; a child that was forked is another one.
_OWN = os.getpid()
#: The decision, once it is made.
_decided: dict[str, bool] = {}


def use_kernels() -> None:
    """Use the compiled kernels in this process, and compile those that are not on disk when a root needs them.

    Without it, a process whose first root finds kernels missing on disk computes with LAPACK until its end, while
    another process of low priority compiles them for later ones; so the first process of an installation may give
    other last bits than later ones, and is slower for many small matrices. ``import matroot_optim`` calls this
    function. The environment variable ``MATROOT_COMPILE=now`` does the same, and ``matroot warm-up`` compiles all
    kernels beforehand.

    Examples
    --------
    >>> import matroot
    >>> matroot.use_kernels()
    """
    _decided["use"] = not _switched_off()


def in_use() -> bool:
    """Return True if this process uses the compiled kernels."""
    if "use" not in _decided:
        _decided.setdefault("use", _decide())  # of two threads, the first one decides
    return _decided["use"]


def state() -> str:
    """Describe the kernels on disk."""
    if _switched_off():
        return "not used: NUMBA_DISABLE_JIT is set"
    try:
        mark = deferred("matroot.backends.cpu.mark")
    except Exception as error:
        return f"not used: numba cannot be imported ({error!r})"
    folder = mark.folder()
    if folder is None:
        return "compiled in every process: numba finds no folder to keep them in (NUMBA_CACHE_DIR names one)"
    return f"compiled, in {folder}" if mark.complete() else "not all compiled yet: `matroot warm-up` compiles them"


def _switched_off() -> bool:
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def _decide() -> bool:
    if _switched_off():
        return False
    when = os.environ.get(VARIABLE, "")
    if when == "now":
        return True
    try:
        mark = deferred("matroot.backends.cpu.mark")
    except Exception:  # the first kernel asked for says what is wrong with numba
        return True
    if mark.complete():
        return True
    folder = mark.folder()
    if when != "never" and folder is not None and os.getpid() == _OWN:
        deferred("matroot.backends.cpu.background").fill(folder, mark.SOURCES)
    return when != "never" and folder is None

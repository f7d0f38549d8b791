"""Does this process use the compiled kernels? Decided by its first root on the CPU.

Compiling takes seconds. A process that does not find all kernels in numba's cache on disk computes with LAPACK and with
Python's loops, and another one fills the cache (`background`). When LAPACK has done what takes it about as long as half
of a compilation, the process uses the kernels after all, and compiles what it needs: so it never takes much more than
twice the time of the better choice. The work is counted, not timed: equal calls get equal bits.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from typing import Any

from matroot.backends.loading import PROCESS, deferred

#: "now" compiles in the process that needs a kernel, "never" nowhere; all else is the default.
VARIABLE = "MATROOT_COMPILE"

#: Seconds of work, as `lapack_seconds` counts it, after which a process without kernels gets them.
PATIENCE = 2.0

#: The decision, once it is made.
_decided: dict[str, bool] = {}
#: Seconds of work that are left until kernels are used; empty where they never are, or are already.
_left: dict[str, float] = {}


def use_kernels() -> None:
    """Use the compiled kernels in this process, and compile those that are not on disk when a root needs them.

    Without it, a process whose first root finds kernels missing on disk computes with LAPACK for about the first two
    seconds of work, while another process of low priority compiles them; so the first process of an installation may
    give other last bits than later ones. ``import matroot_optim`` calls this function. The environment variable
    ``MATROOT_COMPILE=now`` does the same, and ``matroot warm-up`` compiles all kernels beforehand.

    Examples
    --------
    >>> import matroot
    >>> matroot.use_kernels()
    """
    _decided["use"] = not _switched_off()
    _left.clear()


def lapack_seconds(count: int, n: int) -> float:
    """Return about how long LAPACK takes for the roots of `count` matrices of order n."""
    return count * (1e-5 + 4e-8 * n**2 + 2.2e-10 * n**3)


def spend(seconds: float) -> None:
    """Count work that a kernel would have saved; use kernels from now on if it was enough."""
    if "work" in _left:
        _left["work"] -= seconds
        if _left["work"] <= 0:
            use_kernels()


def in_use() -> bool:
    """Return True if this process uses the compiled kernels."""
    if "use" not in _decided:
        _decided.setdefault("use", _decide())  # of two threads, the first one decides
    return _decided["use"]


@cache
def compiled(name: str) -> Any:
    """Import and so compile a module of loops; None if numba cannot, with a warning unless numba is switched off."""
    try:
        return None if deferred("numba").config.DISABLE_JIT else deferred(name)
    except Exception as error:  # whatever is wrong with a compiler, there is LAPACK
        warnings.warn(f"numba cannot compile ({error!r}); small matrices are left to LAPACK", UserWarning, stacklevel=2)
        return None


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
    if when != "never" and folder is not None:
        _left["work"] = PATIENCE
        if os.getpid() == PROCESS:
            deferred("matroot.backends.cpu.background").fill(folder, mark.SOURCES)
    return when != "never" and folder is None

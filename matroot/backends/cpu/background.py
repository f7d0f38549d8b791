"""Compile the kernels in a process of its own, which nobody waits for."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where `matroot warm-up` is left to the user
    fcntl = None  # type: ignore[assignment]

#: How often it is tried for one state of the sources; every try keeps what it has compiled.
TRIES = 10


def fill(folder: str, sources: int) -> None:
    """Start ``matroot warm-up`` at the lowest priority, unless it runs already or has failed too often.

    The process holds a lock in the folder of numba's cache until it ends; it shares neither streams nor session with
    this one, and is no child of it. Nothing is started by workers of multiprocessing and programs that are not run by
    Python itself. Errors are ignored.
    """
    if fcntl is None or _is_worker() or getattr(sys, "frozen", False) or "python" not in Path(sys.executable).name:
        return
    program = [sys.executable, "-P", "-m", "matroot", "warm-up", "--background"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
        "MATROOT_COMPILE": "now",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    with suppress(OSError, ValueError):
        lock = os.open(Path(folder, f"matroot-{sources:08x}.tries"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_size < TRIES:
                os.write(lock, b".")
                subprocess.run(
                    ["/bin/sh", "-c", '"$@" &', "sh", *program],  # the shell ends at once, and init adopts the process
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(lock,),
                    start_new_session=True,
                    cwd="/",
                    env=environment,
                    check=False,
                )
        finally:
            os.close(lock)


def _is_worker() -> bool:
    multiprocessing = sys.modules.get("multiprocessing.process")
    return multiprocessing is not None and multiprocessing.parent_process() is not None

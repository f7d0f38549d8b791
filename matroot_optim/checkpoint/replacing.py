"""Atomic replacement of a file."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` when the block ends without an error.

    After a full disk, an error or a kill, the old file is still there. A symbolic link is kept and its target is
    replaced. The mode of an old file is kept. Temporary files of killed writers of `path` are removed. ValueError if
    `path` is a directory, a device or a pipe.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"path must be a file, got {os.fspath(path)!r}, which is another thing")
    _remove_stale(target)
    file = _beside(target)
    try:
        with file:
            _keep_mode(file, target)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:  # Windows cannot rename an open file; elsewhere the lock is held until the rename
                file.close()
            os.replace(file.name, target)
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _beside(target: Path) -> IO[bytes]:
    """Open a new file in the directory of the target, locked while its writer lives."""
    while True:
        file = open(target.with_name(f".{target.name}.{secrets.token_hex(8)}"), "xb")
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks: temporary files are never removed
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another writer removed it as stale before it was locked


def _remove_stale(target: Path) -> None:
    """Remove the temporary files of this target that no living process has locked."""
    if fcntl is None:
        return
    ours = re.compile(re.escape(f".{target.name}.") + "[0-9a-f]{16}")
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError), open(entry.path, "r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)


def _keep_mode(file: IO[bytes], target: Path) -> None:
    """Give the new, empty file the mode of the old file."""
    if target.exists() and hasattr(os, "fchmod"):
        mode = stat.S_IMODE(target.stat().st_mode)
        if mode != stat.S_IMODE(os.fstat(file.fileno()).st_mode):
            os.fchmod(file.fileno(), mode)


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        with suppress(PermissionError):  # a directory with write but no read permission
            handle = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

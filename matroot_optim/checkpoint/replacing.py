"""A file that is replaced as a whole or not at all."""

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
    """Open a new file that takes the place of `path` when the block ends without an error.

    A full disk, an error or a kill leaves the old file. A symbolic link is kept, and what it leads to is replaced.
    The mode of an old file is kept. Temporary files that killed writers of `path` have left are removed.

    Raises
    ------
    ValueError
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
            if fcntl is None:  # Windows renames no open file; elsewhere the lock lasts until the file has its name
                file.close()
            os.replace(file.name, target)
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _beside(target: Path) -> IO[bytes]:
    """A new file beside the target, locked while its writer lives."""
    while True:
        file = open(target.with_name(f".{target.name}.{secrets.token_hex(8)}"), "xb")
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks: nobody removes anything there
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # taken for stale before it was locked


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
    """Give the new file the mode of the old one, before anything is in it."""
    if target.exists() and hasattr(os, "fchmod"):
        mode = stat.S_IMODE(target.stat().st_mode)
        if mode != stat.S_IMODE(os.fstat(file.fileno()).st_mode):
            os.fchmod(file.fileno(), mode)


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        with suppress(PermissionError):  # a directory that may be written to but not read
            handle = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

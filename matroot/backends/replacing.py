"""Atomic replacement of a file."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows neither removes nor renames a file that a process has open
    fcntl = None

#: Names of temporary files, which are created in the folder of the target file.
TEMPORARY = re.compile(r"\.matroot-[0-9a-f]{16}\.tmp")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a stream whose bytes become the file `path` when the block ends without an exception.

    After an exception, a full disk or a killed process the old file is unchanged. Links are followed. An existing file
    keeps its mode, and its owner where the system allows it; a new file gets the mode that ``open`` gives. Temporary
    files that killed processes left in the folder are removed. OSError, with the name of the file, if it cannot be
    written.
    """
    target = Path(os.path.realpath(path))
    try:
        old = _status(target)
        _remove_stale(target.parent)
        temporary, stream = _create(target.parent, 0o666 if old is None else 0o600)
        try:
            with stream:
                if old is not None:
                    _take_over(temporary, old)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                if fcntl is None:
                    stream.close()
                os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        sentence = f"{os.fspath(path)} cannot be written: {error.strerror or error}"
        raise (OSError(error.errno, sentence) if error.errno else OSError(sentence)) from error
    _sync(target.parent)


def _status(target: Path) -> os.stat_result | None:
    """Return the status of the file to be replaced, None for a new one; raise OSError if it may not be written."""
    try:
        old = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(old.st_mode):
        raise OSError("it is no regular file")
    with open(target, "ab"):  # a read-only file is not replaced
        return old


def _create(folder: Path, mode: int) -> tuple[Path, IO[bytes]]:
    """Create a temporary file, locked for as long as it is open, so that no other process takes it for a stale one."""
    while True:
        temporary = folder / f".matroot-{secrets.token_hex(8)}.tmp"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        stream = os.fdopen(handle, "wb")
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():  # else it was removed before it was locked
            return temporary, stream
        stream.close()


def _take_over(temporary: Path, old: os.stat_result) -> None:
    with suppress(OSError, AttributeError):  # only root may change the owner, and Windows has no chown
        os.chown(temporary, old.st_uid, old.st_gid)
    os.chmod(temporary, stat.S_IMODE(old.st_mode))


def _remove_stale(folder: Path) -> None:
    """Remove the temporary files that no process has open."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    _remove_unlocked(entry.path)


def _remove_unlocked(path: str) -> None:
    if fcntl is None:
        os.unlink(path)
        return
    with open(path, "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: in use, or the file system has no locks
        os.unlink(path)


def _sync(folder: Path) -> None:
    """Flush the folder, so that the new name survives a loss of power, where the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

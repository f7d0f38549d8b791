"""Matrices in files: .npy, .npz, .csv, .txt and Matrix Market .mtx.

A file holds named arrays. Formats that hold one array give it the name ``""``. Writing is atomic: the file
appears whole under its name, or the old file stays.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from matroot.backends.replacing import replacing
from matroot.cli import files_mtx, files_read, files_text
from matroot.cli.files_read import Arrays, NoSuchArrayError

SUFFIXES = (".npy", ".npz", ".csv", ".txt", ".mtx")


def read(path: str | os.PathLike[str], key: str | None = None) -> Arrays:
    """Read every array of a file, by name; the name is ``""`` where the format has none. Nothing in a file is executed.

    Parameters
    ----------
    path : str or path-like
        A file whose name ends in .npy, .npz, .csv, .txt or .mtx. Sparse Matrix Market files become dense.
    key : str, optional
        Name of the one array wanted from an .npz file.

    Raises
    ------
    FileNotFoundError, OSError
        There is no such file, or it cannot be read.
    ValueError
        The format is not one of the five, or the contents are not arrays of numbers.
    MemoryError
        The arrays do not fit into memory. Sizes announced in the file are compared with its length first.
    """
    path = Path(path)
    suffix = check_suffix(path)
    if not path.exists():
        raise FileNotFoundError(f"{shown(path)}: no such file")
    if not path.is_file():  # opening a pipe would wait for a writer, and reading a device for its end
        raise ValueError(f"{shown(path)} is {_kind(path)}, a file is wanted")
    try:
        if suffix == ".npz":
            return files_read.npz(path, key)
        files_read.check_key([""], key)
        return {"": _READERS[suffix](path)}
    except NoSuchArrayError as reason:
        raise ValueError(f"{shown(path)} {reason}") from reason
    except MemoryError as reason:
        raise MemoryError(f"{shown(path)}: {_line(reason)}") from reason
    except OSError as reason:
        raise OSError(reason.errno, f"{shown(path)} cannot be read: {reason.strerror}") from reason
    except Exception as reason:  # the parsers of the formats raise many kinds for damaged bytes
        raise ValueError(f"{shown(path)} cannot be read as {suffix}: {_line(reason)}") from reason


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays, whole or not at all, in the format of the name's ending.

    Only .npz takes more than one array; .csv, .txt and .mtx take only matrices. ValueError if the format cannot hold
    the arrays or the path is not one of a file; OSError if it cannot be written, and the old file is unchanged.
    """
    path = Path(path)
    check_fits(path, arrays)
    with replacing(path) as stream:
        if path.suffix.lower() == ".npz":
            _write_npz(stream, arrays)
        else:
            _WRITERS[path.suffix.lower()](stream, *arrays.values())


def check_fits(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError or PermissionError, before any work is done, if `path` cannot take these arrays."""
    path = Path(path)
    suffix = check_suffix(path)
    check_place(path)
    if suffix == ".npz":
        return
    if len(arrays) != 1:
        raise ValueError(
            f"{shown(path)}: {suffix} holds one array, got {len(arrays)}; write to .npz, or pick one with --key NAME"
        )
    (a,) = arrays.values()
    if suffix != ".npy" and a.ndim != 2:
        raise ValueError(f"{shown(path)}: {suffix} holds one matrix, got shape {a.shape}; write to .npy or .npz")


def check_place(path: Path) -> None:
    """Raise ValueError or PermissionError if no file can be written there."""
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise ValueError(f"{shown(path)}: there is no folder {shown(folder)}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{shown(path)} is {_kind(path)}, a file name is wanted")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"{shown(path)} cannot be written: no permission")


def check_suffix(path: Path) -> str:
    """Return the format that the name of `path` implies; raise ValueError for an unknown format."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{shown(path)} ends in {path.suffix!r}; wanted is one of {', '.join(SUFFIXES)}")
    return suffix


def shown(text: object) -> str:
    """Escape characters of a name that would move the cursor of a terminal or start a new line."""
    return str(text) if str(text).isprintable() else repr(str(text))


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a pipe or a device"


def _line(reason: BaseException) -> str:
    """Return a parser's message on one line of limited length."""
    text = shown(" ".join(str(reason).split()))
    return text if len(text) <= 300 else f"{text[:297]}..."


def _write_npy(stream: IO[bytes], a: NDArray[Any]) -> None:
    # numpy bypasses Python's buffers for a real file, and does not notice if the disk is full at the last part.
    np.save(cast(Any, SimpleNamespace(write=stream.write)), a, allow_pickle=False)


def _write_npz(stream: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    # Like numpy.savez, which takes some names for keywords and, in numpy 2.0, its keywords for names.
    with zipfile.ZipFile(stream, "w") as archive:
        for name, a in arrays.items():
            with archive.open(f"{name or 'x'}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(a), allow_pickle=False)


def _write_mtx(stream: IO[bytes], a: NDArray[Any]) -> None:
    from scipy.io import mmwrite

    if a.dtype.kind in "fcV":  # SciPy 1.17 crashes on float32 with a precision given
        a = a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)
    mmwrite(stream, a, precision=17)


#: Readers and writers of the formats that hold one array, without a name.
_READERS: dict[str, Callable[[Path], NDArray[Any]]] = {
    ".npy": files_read.npy,
    ".csv": files_text.read,
    ".txt": files_text.read,
    ".mtx": files_mtx.read,
}
_WRITERS: dict[str, Callable[[IO[bytes], NDArray[Any]], None]] = {
    ".npy": _write_npy,
    ".csv": partial(files_text.write, separator=","),
    ".txt": partial(files_text.write, separator=" "),
    ".mtx": _write_mtx,
}

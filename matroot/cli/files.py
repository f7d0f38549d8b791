"""Matrices in files: .npy, .npz, .csv, .txt and Matrix Market .mtx.

A file holds named arrays. Formats that hold one array give it the name ``""``. Writing is atomic: the file
appears whole under its name, or the old file stays.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from matroot.backends.replacing import replacing
from matroot.cli import files_read, files_text
from matroot.cli.files_read import Arrays, NoSuchArrayError


def read(path: str | os.PathLike[str], key: str | None = None) -> Arrays:
    """Read every array of a file.

    Parameters
    ----------
    path : str or path-like
        A file whose name ends in .npy, .npz, .csv, .txt or .mtx. Sparse Matrix Market files become dense.
    key : str, optional
        Name of the one array wanted from an .npz file.

    Returns
    -------
    dict of str to ndarray
        Name to array; the name is ``""`` where the format has none.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    OSError
        The file cannot be read.
    ValueError
        The format is not one of the five, or the contents are not arrays of numbers: the file is damaged, for
        instance. Nothing that a file holds is executed.
    MemoryError
        The arrays do not fit into memory. Sizes announced in the file are compared with its length first.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> from matroot.cli.files import read, write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.csv")
    ...     write(path, {"": np.diag([1.0, 4.0])})
    ...     read(path)[""]
    array([[1., 0.],
           [0., 4.]])
    """
    path = Path(path)
    suffix = check_suffix(path)
    if not path.exists():
        raise FileNotFoundError(f"{shown(path)}: no such file")
    if not path.is_file():  # opening a pipe would wait for a writer, and reading a device for its end
        raise ValueError(f"{shown(path)} is {_kind(path)}, a file is wanted")
    try:
        return _READERS[suffix](path, key)
    except NoSuchArrayError as reason:
        raise ValueError(f"{shown(path)} {reason}") from reason
    except MemoryError as reason:
        raise MemoryError(f"{shown(path)}: {_line(reason)}") from reason
    except OSError as reason:
        raise OSError(reason.errno, f"{shown(path)} cannot be read: {reason.strerror}") from reason
    except Exception as reason:  # the parsers of the formats raise many kinds for damaged bytes
        raise ValueError(f"{shown(path)} cannot be read as {suffix}: {_line(reason)}") from reason


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays, whole or not at all.

    The bytes are written to a temporary file in the folder of `path`, which then replaces `path` in one step. Links are
    followed, and an existing file keeps its mode.

    Parameters
    ----------
    path : str or path-like
        The file to write; the ending (.npy, .npz, .csv, .txt, .mtx) chooses the format.
    arrays : mapping of str to ndarray
        The arrays to write. Only .npz takes more than one array; .csv, .txt and .mtx take only matrices.

    Raises
    ------
    ValueError
        The format cannot hold these arrays, or `path` is not a possible path of a file.
    OSError
        The file cannot be written; the old file is unchanged.
    """
    path = Path(path)
    writer = _WRITERS[check_suffix(path)]
    check_fits(path, arrays)
    with replacing(path) as stream:
        writer(stream, dict(arrays))


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
    if suffix not in _READERS:
        raise ValueError(f"{shown(path)} ends in {path.suffix!r}; wanted is one of {', '.join(_READERS)}")
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


def _write_npy(stream: IO[bytes], arrays: Arrays) -> None:
    (a,) = arrays.values()
    # numpy bypasses Python's buffers for a real file, and does not notice if the disk is full at the last part.
    np.save(cast(Any, SimpleNamespace(write=stream.write)), a, allow_pickle=False)


def _write_npz(stream: IO[bytes], arrays: Arrays) -> None:
    # Like numpy.savez, which takes some names for keywords and, in numpy 2.0, its keywords for names.
    with zipfile.ZipFile(stream, "w") as archive:
        for name, a in arrays.items():
            with archive.open(f"{name or 'x'}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(a), allow_pickle=False)


def _write_csv(stream: IO[bytes], arrays: Arrays) -> None:
    (a,) = arrays.values()
    files_text.write(stream, a, ",")


def _write_txt(stream: IO[bytes], arrays: Arrays) -> None:
    (a,) = arrays.values()
    files_text.write(stream, a, " ")


def _write_mtx(stream: IO[bytes], arrays: Arrays) -> None:
    from scipy.io import mmwrite

    (a,) = arrays.values()
    if a.dtype.kind in "fcV":  # SciPy 1.17 crashes on float32 with a precision given
        a = a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)
    mmwrite(stream, a, precision=17)


_READERS: dict[str, Callable[[Path, str | None], Arrays]] = {
    ".npy": files_read.npy,
    ".npz": files_read.npz,
    ".csv": files_read.text,
    ".txt": files_read.text,
    ".mtx": files_read.mtx,
}
_WRITERS: dict[str, Callable[[IO[bytes], Arrays], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".txt": _write_txt,
    ".mtx": _write_mtx,
}

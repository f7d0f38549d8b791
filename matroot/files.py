"""Matrices in files: .npy, .npz, .csv and Matrix Market .mtx.

A file holds named arrays. Formats that hold one array give it the name ``""``. Writing is atomic: the file
appears whole under its name, or what stood there before stays.
"""

from __future__ import annotations

import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def read(path: str | os.PathLike[str], key: str | None = None) -> Arrays:
    """Read every array of a file.

    Parameters
    ----------
    path : str or path-like
        A file whose name ends in .npy, .npz, .csv or .mtx. Sparse Matrix Market files become dense.
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
    ValueError
        The format is not one of the four, or the contents are not arrays of numbers.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> from matroot.files import read, write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.csv")
    ...     write(path, {"": np.diag([1.0, 4.0])})
    ...     read(path)[""]
    array([[1., 0.],
           [0., 4.]])
    """
    path = Path(path)
    reader = _READERS[check_suffix(path)]
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, a file is wanted")
    try:
        arrays = reader(path)
    except (ValueError, EOFError, zipfile.BadZipFile) as reason:
        raise ValueError(f"{path} cannot be read as {path.suffix.lower()}: {reason}") from reason
    for name, a in arrays.items():
        if a.dtype.kind not in "biufc" and a.dtype.kind != "V":  # V: bfloat16 and its kin
            raise ValueError(f"{path}{_of(name)} holds {a.dtype}, numbers are wanted")
    if key is None:
        return arrays
    if key not in arrays:
        raise ValueError(f"{path} has no array {key!r}; it has {', '.join(map(repr, arrays))}")
    return {key: arrays[key]}


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays, whole or not at all.

    The bytes go to a temporary file beside `path`, which then takes its name in one step.

    Parameters
    ----------
    path : str or path-like
        Where to write; the ending (.npy, .npz, .csv, .mtx) chooses the format.
    arrays : mapping of str to ndarray
        What to write. Only .npz takes more than one array; .csv and .mtx take only matrices.

    Raises
    ------
    ValueError
        The format cannot hold these arrays.
    """
    path = Path(os.path.realpath(path))
    writer = _WRITERS[check_suffix(path)]
    check_fits(path, arrays)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            writer(stream, dict(arrays))
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp is for the owner only
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def check_fits(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError, before any work is done, if `path` cannot take these arrays."""
    path = Path(path)
    suffix = check_suffix(path)
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, a file name is wanted")
    if suffix == ".npz":
        return
    if len(arrays) != 1:
        raise ValueError(f"{suffix} holds one array, got {len(arrays)}; write to .npz, or pick one by name")
    (a,) = arrays.values()
    if suffix != ".npy" and a.ndim != 2:
        raise ValueError(f"{suffix} holds one matrix, got shape {a.shape}; write to .npy or .npz")


def check_suffix(path: Path) -> str:
    """The format that the name of `path` asks for; ValueError for one that is not ours."""
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"{path} ends in {path.suffix!r}; wanted is one of {', '.join(_READERS)}")
    return suffix


def _of(name: str) -> str:
    return f", array {name!r}," if name else ""


def _umask() -> int:
    mask = os.umask(0)  # the only way to ask is to set
    os.umask(mask)
    return mask


def _read_npy(path: Path) -> Arrays:
    with path.open("rb") as stream:
        return {"": np.lib.format.read_array(stream, allow_pickle=False)}


def _read_npz(path: Path) -> Arrays:
    with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if not arrays:
        raise ValueError("it holds no array")
    return arrays


def _read_csv(path: Path) -> Arrays:
    text = path.read_text(encoding="utf-8-sig")
    rows = [row for row in text.splitlines() if row.split("#")[0].strip()]
    if not rows:
        raise ValueError("it holds no number")
    dtype = complex if "j" in "".join(rows) else float
    return {"": np.loadtxt(rows, delimiter=",", ndmin=2, dtype=dtype)}


def _read_mtx(path: Path) -> Arrays:
    from scipy.io import mmread

    with warnings.catch_warnings():  # scipy >= 1.18 asks which kind of sparse, and until 1.15 had no way to say it
        warnings.simplefilter("ignore", DeprecationWarning)
        a = mmread(path)
    return {"": np.asarray(a.toarray() if hasattr(a, "toarray") else a)}


def _write_npy(stream: IO[bytes], arrays: Arrays) -> None:
    (a,) = arrays.values()
    # To a real file numpy writes past Python's buffers, and does not notice when the last part finds no room.
    np.save(cast(Any, SimpleNamespace(write=stream.write)), a, allow_pickle=False)


def _write_npz(stream: IO[bytes], arrays: Arrays) -> None:
    # What numpy.savez does, which takes some names for keywords, and in numpy 2.0 its keywords for names.
    with zipfile.ZipFile(stream, "w") as archive:
        for name, a in arrays.items():
            with archive.open(f"{name or 'x'}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(a), allow_pickle=False)


def _write_csv(stream: IO[bytes], arrays: Arrays) -> None:
    (a,) = arrays.values()
    rows = (",".join(format(x, "" if a.dtype.kind in "biu" else ".17g") for x in row) for row in a.tolist())
    stream.write("".join(f"{row}\n" for row in rows).encode())


def _write_mtx(stream: IO[bytes], arrays: Arrays) -> None:
    from scipy.io import mmwrite

    (a,) = arrays.values()
    if a.dtype.kind in "fcV":  # SciPy 1.17 crashes on float32 with a precision given
        a = a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)
    mmwrite(stream, a, precision=17)


_READERS: dict[str, Callable[[Path], Arrays]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".mtx": _read_mtx,
}
_WRITERS: dict[str, Callable[[IO[bytes], Arrays], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".mtx": _write_mtx,
}

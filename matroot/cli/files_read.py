"""Readers of matrix files. They compare every size that a file announces with the file's length before they use it."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

#: Longest .npy header in bytes: numpy's limit for the header of an untrusted file, and the magic before it.
HEADER = 10_000 + 12
#: Readers of headers; format 3.0 differs from 2.0 in the names of fields, which no array of numbers has.
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}
#: Most dimensions of an array in numpy 2.
DIMENSIONS = 64
#: A byte of deflated data becomes at most this many bytes.
DEFLATED = 1032
CHUNK = 1 << 20
#: Bytes of the record that ends a zip archive, and its value for more entries than it can count.
END, MANY = 22, 0xFFFF
#: Bit of a zip entry's flags.
ENCRYPTED = 1


class NoSuchArrayError(ValueError):
    """A file does not hold the requested array."""


def npy(path: Path) -> NDArray[Any]:
    """Read an array in numpy's format."""
    with path.open("rb") as stream:
        return _array(stream, path.stat().st_size)


def npz(path: Path, key: str | None) -> Arrays:
    """Read the arrays of a zip archive, or only the one called `key`."""
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        _check_contents(stream, archive)
        if not members:
            raise ValueError("it holds no array")
        if len(members) < len(archive.infolist()):
            raise ValueError("it holds two arrays of one name")
        check_key(members, key)
        return {name: _member(archive, info) for name, info in members.items() if key in (None, name)}


def check_key(names: Iterable[str], key: str | None) -> None:
    """Raise NoSuchArrayError if there is no array called `key`."""
    if key is not None and key not in names:
        raise NoSuchArrayError(f"has no array {key!r}; it has {', '.join(map(repr, names))}")


def _check_contents(stream: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Raise ValueError if the table of contents has an error that `zipfile` does not check."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(-END - len(archive.comment), io.SEEK_END)
    end = stream.read(END)
    if not end.startswith(b"PK\5\6"):
        raise ValueError("it goes on after its end")
    held, announced = len(archive.infolist()), int.from_bytes(end[10:12], "little")
    if announced not in (held, MANY):
        raise ValueError(f"its table of contents announces {announced} arrays and has {held}")
    if sum(info.compress_size for info in archive.infolist()) > size:
        raise ValueError("its arrays overlap")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    try:
        growth = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: DEFLATED}.get(info.compress_type)
        if growth is None:
            raise ValueError(f"it is compressed by method {info.compress_type}; numpy stores or deflates")
        if info.flag_bits & ENCRYPTED:
            raise ValueError("it is encrypted")
        if info.file_size > growth * info.compress_size:
            raise ValueError(f"it announces {info.file_size} bytes, more than its {info.compress_size} can become")
        with archive.open(info) as stream:
            return _array(stream, info.file_size)
    except MemoryError:
        raise
    except Exception as reason:
        raise ValueError(f"array {info.filename.removesuffix('.npy')!r}: {reason}") from reason


def _array(stream: IO[bytes], size: int) -> NDArray[Any]:
    """Read an array in numpy's format from a stream of `size` bytes, to the end, where a zip archive checks its sum."""
    start = stream.read(HEADER)
    shape, fortran, dtype, offset = _header(start)
    if dtype.kind not in "biufc":
        raise ValueError(f"it holds {dtype}, numbers are wanted")
    wanted, held = math.prod(shape) * dtype.itemsize, size - offset
    if wanted != held:
        relation = "more" if wanted > held else "less"
        raise ValueError(f"its header announces {dtype} of shape {shape}, {relation} than the {held} bytes after it")
    data = np.empty(held, np.uint8)
    chunk, filled = start[offset:], 0
    while chunk:
        data[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
        filled += len(chunk)
        chunk = stream.read(min(CHUNK, held - filled))
    if filled != held or stream.read(1):
        raise ValueError(f"it holds {filled} bytes of numbers, {held} are announced")
    return data.view(dtype).reshape(shape, order="F" if fortran else "C")


def _header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Parse shape, Fortran order, dtype, and the offset of the numbers."""
    stream = io.BytesIO(start)
    try:
        with warnings.catch_warnings(action="ignore"):  # headers of Python 2, and odd literals in damaged files
            version = np.lib.format.read_magic(stream)
            if version not in HEADERS:
                raise ValueError(f"format {version[0]}.{version[1]} is unknown")
            shape, fortran, dtype = HEADERS[version](stream)
    except Exception as reason:  # numpy and the parser of Python that it calls raise many kinds
        raise ValueError(f"its header is broken: {reason.args[0] if reason.args else type(reason)}") from reason
    if len(shape) > DIMENSIONS or not all(0 <= n < 2**63 for n in shape):
        raise ValueError("its header announces an impossible shape")
    return shape, fortran, dtype, stream.tell()

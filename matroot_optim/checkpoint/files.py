"""Names, arrays and metadata in a .safetensors or .npz file, with a checksum of each.

The checksum is a CRC-32, seeded with the name, the dtype and the shape. It finds every burst of up to 32 bits and every
pair of flipped bits in 512 MB, and misses other damage once in 2^32; no cheaper hash is better, and cryptographic
hashes cost two to four times as much. A checksum is not a signature: anyone who edits a file can write its checksum.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from matroot_optim.checkpoint.columns import Names
from matroot_optim.checkpoint.metadata import check_format
from matroot_optim.checkpoint.replacing import replacing

META = "__metadata__"
SUFFIXES = (".npz", ".safetensors")
#: The longest header that the readers of safetensors accept.
HEADER_LIMIT = 100_000_000


def write(path: str | os.PathLike[str], names: Names, meta: Mapping[str, Any]) -> None:
    """Write arrays and metadata so that `path` always holds the complete old file or the complete new file."""
    kind = _kind(path)
    arrays = {name: np.array(x, order="C", copy=None) for name, x in names.items()}
    sums = {name: _checksum(name, x) for name, x in arrays.items()}
    text = json.dumps({**meta, "checksums": sums, "checksum": _checksum_of_meta(meta, sums)})
    with replacing(path) as file:
        _WRITERS[kind](file, arrays, text)


def read(path: str | os.PathLike[str]) -> tuple[Names, dict[str, Any]]:
    """Read the arrays and metadata of a file of either format, and verify them.

    ValueError if the file is not a checkpoint, or is damaged: the message names the file, and the entry if one is
    wrong.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{os.fspath(path)} must be a checkpoint written by save, got no file but another thing")
    with open(path, "rb") as file:
        try:
            start = file.read(9)
            names, text = _read_npz(file) if start[:2] == b"PK" else _read_safetensors(path, start)
            return _verified(names, text)
        except (ImportError, OSError) as wrong:
            if getattr(wrong, "errno", None) != errno.EINVAL:  # EINVAL: a damaged file gives an invalid offset
                raise
            reason: Exception = wrong
        except Exception as wrong:  # the readers raise a dozen types of errors for a damaged file
            reason = wrong
    what = reason if isinstance(reason, ValueError) else repr(reason)
    raise ValueError(f"{os.fspath(path)} must be a checkpoint written by save, got {what}") from reason


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the path before the message of a ValueError."""
    try:
        yield
    except ValueError as wrong:
        raise ValueError(f"{os.fspath(path)}: {wrong}") from wrong


# Checksums.


def _checksum(name: str, x: Any) -> int:
    kind, order = _of_dtype(x.dtype)
    little: Any = np.ascontiguousarray(x, order).reshape(-1)
    return zlib.crc32(little.view(np.uint8), zlib.crc32(f"{name} {kind} {x.shape}".encode()))


@lru_cache(64)
def _of_dtype(dtype: Any) -> tuple[str, Any]:
    """Return the name of a dtype, which numpy makes anew every time, and the same dtype in the order of the file."""
    return dtype.name, dtype.newbyteorder("<")


def _checksum_of_meta(meta: Mapping[str, Any], sums: Mapping[str, int] | None) -> int:
    return zlib.crc32(json.dumps({**meta, "checksums": sums}, sort_keys=True).encode())


def _verified(names: Names, text: str) -> tuple[Names, dict[str, Any]]:
    """Verify the checksums, which files of format 1 lack, and return the arrays and the other metadata."""
    if not text:
        raise ValueError("a file without its metadata")
    meta = json.loads(text)
    check_format(meta)
    own, sums = meta.pop("checksum", None), meta.pop("checksums", None)
    if meta["format"] == 1 and own is None and sums is None:
        return names, meta
    if own != _checksum_of_meta(meta, sums):
        raise ValueError("metadata whose checksum is another than what was written")
    for name in sorted(names.keys() | sums.keys()):
        if name not in names:
            raise ValueError(f"a file that lacks the entry {name!r}")
        if name not in sums:
            raise ValueError(f"a file with the entry {name!r}, which was not written with the others")
        if _checksum(name, names[name]) != sums[name]:
            raise ValueError(f"an entry {name!r} whose checksum is another than what was written")
    return names, meta


# The two file formats.


def _kind(path: str | os.PathLike[str]) -> str:
    """Return the format by the suffix of the link's target, of the path, or else by the installed packages."""
    for suffix in (Path(os.path.realpath(path)).suffix, Path(path).suffix):
        if suffix in SUFFIXES:
            return suffix
    try:
        import safetensors  # noqa: F401
    except ImportError:
        return ".npz"
    return ".safetensors"


def _write_npz(file: IO[bytes], arrays: Names, text: str) -> None:
    # numpy.savez leaves its archive open after an error, which raises again when the archive is collected.
    with zipfile.ZipFile(file, "w") as archive:
        for name, x in {**arrays, META: np.frombuffer(text.encode(), np.uint8)}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, x, version=(1, 0), allow_pickle=False)


def _read_npz(file: IO[bytes]) -> tuple[Names, str]:
    size, names = file.seek(0, os.SEEK_END), {}
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            # zipfile allocates as much memory as these sizes say.
            if entry.compress_type != zipfile.ZIP_STORED or not entry.compress_size == entry.file_size <= size:
                raise ValueError(f"an entry {entry.filename!r} that is compressed or larger than the file")
            name = entry.filename.removesuffix(".npy")
            if name in names:
                raise ValueError(f"an entry {name!r} twice")
            size -= entry.file_size
            names[name] = _array(entry.filename, archive.read(entry))
    return names, bytes(names.pop(META, np.zeros(0, np.uint8))).decode()


def _array(name: str, data: bytes) -> Any:
    """Return the array of an .npy entry as a view of its bytes, so that no header can request more memory."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"an entry {name!r} that is no array of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    start = stream.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"an entry {name!r} of {len(data) - start} bytes for shape {shape} and {dtype}")
    return np.ndarray(shape, dtype, data, start, order="F" if fortran else "C")


def _write_safetensors(file: IO[bytes], arrays: Names, text: str) -> None:
    from safetensors.numpy import save

    data = save(arrays, metadata={META: text})
    if int.from_bytes(data[:8], "little") > HEADER_LIMIT:
        raise ValueError(f"a .safetensors file must have fewer entries than {len(arrays)}; save to .npz")
    file.write(data)


def _read_safetensors(path: str | os.PathLike[str], start: bytes) -> tuple[Names, str]:
    if start[8:] != b"{":
        raise ValueError("neither a .safetensors nor an .npz file")
    from safetensors import safe_open

    with safe_open(os.fspath(path), framework="np") as file:
        names = {name: file.get_tensor(name) for name in file.keys()}
        return names, (file.metadata() or {}).get(META, "")


_WRITERS = {".npz": _write_npz, ".safetensors": _write_safetensors}

"""A reader of Matrix Market files. SciPy's reader is written in C++, and some damaged files make it end the process."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Count and type of the numbers of an entry after its indices.
FIELDS: dict[str, tuple[int, type]] = {
    "real": (1, np.float64),
    "complex": (2, np.float64),
    "integer": (1, np.int64),
    "unsigned-integer": (1, np.uint64),
    "pattern": (0, np.float64),
}
SYMMETRIES = ("general", "symmetric", "skew-symmetric", "hermitian")
#: A sparse matrix may become dense if that takes this many bytes, and DENSE bytes more for every byte of its file.
SMALL, DENSE = 1 << 24, 1 << 14


def read(path: Path) -> NDArray[Any]:
    """Read a matrix; a sparse one becomes dense."""
    lines = path.read_text(encoding="latin-1").split("\n")  # comments may be in any language
    layout, field, symmetry = _banner(lines[0])
    lines = [line for line in lines[1:] if line.strip()]
    start = next((k for k, line in enumerate(lines) if not line.startswith("%")), len(lines))
    size = lines[start].split() if start < len(lines) else []
    sparse = layout == "coordinate"
    if len(size) != 2 + sparse or not all(number.isdecimal() for number in size):
        raise ValueError(f"it has no line of {'three' if sparse else 'two'} sizes after its first line")
    m, n, *rest = map(int, size)
    if symmetry != "general" and m != n:
        raise ValueError(f"{m} x {n} is not {symmetry}")
    skew = symmetry == "skew-symmetric"
    announced = rest[0] if sparse else m * n if symmetry == "general" else n * (n - 1 if skew else n + 1) // 2
    body = lines[start + 1 :]
    if len(body) != announced:
        raise ValueError(f"it announces {announced} entries and holds {len(body)}")
    if m * n * 16 > SMALL + DENSE * path.stat().st_size:
        raise ValueError(f"{m} x {n} with {announced} entries is too empty for a dense array")
    index, values = _entries(body, 2 * sparse, field)
    if not sparse and symmetry == "general":
        return values.reshape((m, n), order="F")
    i, j = _indices(index, m, n) if sparse else np.triu_indices(n, int(skew))[::-1]
    return _filled(m, n, i, j, values, symmetry)


def _banner(line: str) -> tuple[str, str, str]:
    """Parse layout, field and symmetry."""
    words = line.lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
        raise ValueError('its first line is not "%%MatrixMarket matrix LAYOUT FIELD SYMMETRY"')
    layout, field, symmetry = words[2:]
    if layout not in ("array", "coordinate") or field not in FIELDS or symmetry not in SYMMETRIES:
        raise ValueError(f"{layout} {field} {symmetry} is no kind of matrix in this format")
    if layout == "array" and field == "pattern":
        raise ValueError("an array cannot be a pattern")
    return layout, field, symmetry


def _entries(body: list[str], indices: int, field: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Parse the columns of indices, and the values."""
    parts, dtype = FIELDS[field]
    table: NDArray[Any] = np.empty((0, indices + parts), dtype)
    if body:
        with warnings.catch_warnings(action="error"):  # numpy only warns of bad integers
            table = np.loadtxt(body, dtype, comments=None, ndmin=2)
    if table.shape[1] != indices + parts:
        raise ValueError(f"its entries have {table.shape[1]} numbers, {indices + parts} are wanted")
    index, values = table[:, :indices], table[:, indices:]
    if parts == 0:
        return index, np.ones(len(table))
    if parts == 2:
        return index, np.ascontiguousarray(values).view(np.complex128)[:, 0]
    return index, values[:, 0]


def _indices(index: NDArray[Any], m: int, n: int) -> tuple[NDArray[Any], ...]:
    if not ((index >= 1) & (index <= [m, n]) & (index == np.floor(index))).all():
        raise ValueError(f"an index is outside of {m} x {n}")
    return tuple(index.T.astype(np.int64) - 1)


def _filled(m: int, n: int, i: NDArray[Any], j: NDArray[Any], values: NDArray[Any], symmetry: str) -> NDArray[Any]:
    """Fill a dense matrix; duplicate entries are added, and entries of one triangle are mirrored by symmetry."""
    a = np.zeros((m, n), values.dtype)
    np.add.at(a, (i, j), values)
    if symmetry == "general":
        return a
    if (i < j).any() and (i > j).any():
        raise ValueError(f"it is {symmetry} and has entries on both sides of the diagonal")
    off = i != j
    mirrored = {"skew-symmetric": -values, "hermitian": values.conj()}.get(symmetry, values)
    np.add.at(a, (j[off], i[off]), mirrored[off])
    return a

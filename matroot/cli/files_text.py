"""Matrices as text: .csv and .txt, as spreadsheets, pandas and numpy write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

#: Separators of numbers in a line, the first of these that occurs in the file; without any, white space separates.
SEPARATORS = (";", "\t", ",")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")

Line = tuple[int, str]


def read(path: Path) -> NDArray[Any]:
    """Read rows of numbers, separated by semicolons, tabs, commas or white space; ``#`` begins a comment.

    A first line without a number is a header and is skipped; if it begins with an empty cell, the first column holds
    labels and is skipped too. This is how pandas writes a table, also one whose labels are 0, 1, 2 and so on.
    """
    text = path.read_text(encoding="utf-8-sig")
    lines = [(i, row) for i, line in enumerate(text.split("\n"), 1) if (row := line.split("#")[0].strip(" \r")).strip()]
    separator = next((mark for mark in SEPARATORS if any(mark in row for _, row in lines)), None)
    body = without_labels(lines, separator)
    if not body:
        raise ValueError("it holds no number" + (f": {complaint(lines, separator)}" if lines else ""))
    rows = [row for _, row in body]
    try:
        return np.loadtxt(rows, complex if "j" in "".join(rows) else float, None, separator, ndmin=2)
    except ValueError as reason:
        raise ValueError(complaint(body, separator) or str(reason)) from reason


def without_labels(lines: list[Line], separator: str | None) -> list[Line]:
    """Return the lines without the names of columns and rows."""
    first, *names = cells(lines[0][1], separator) if lines else [""]
    column = [cells(row, separator)[0] for _, row in lines[1:]]
    counted = len(names) > 1 and names == column == [str(i) for i in range(len(names))]
    if separator is not None and not first and (counted or not any(map(is_number, names))):
        return [(i, row.partition(separator)[2]) for i, row in lines[1:]]
    return lines if any(map(is_number, [first, *names])) else lines[1:]


def cells(row: str, separator: str | None) -> list[str]:
    """Split a line."""
    return [cell.strip() for cell in row.split(separator)]


def is_number(cell: str) -> bool:
    """Return True for what numpy reads as a number."""
    try:
        complex(cell)
    except ValueError:
        return False
    return True


def complaint(lines: list[Line], separator: str | None) -> str | None:
    """Return what is wrong with the first wrong line; None if no line is."""
    wide = len(cells(lines[0][1], separator))
    for i, row in lines:
        found = cells(row, separator)
        for column, cell in enumerate(found, 1):
            if not is_number(cell):
                for word in (cell, *(row.split() if " " in row else ())):
                    if DECIMAL_COMMA.fullmatch(word):
                        return (
                            f"line {i}, column {column}: {word!r} has a decimal comma; write {word.replace(',', '.')}"
                        )
                name = {None: "white space", "\t": "tabs"}.get(separator, f"{separator!r}")
                what = repr(cell) if cell else "an empty cell"
                return f"line {i}, column {column}: {what} is no number (columns are separated by {name})"
        if len(found) != wide:
            return f"line {i} has {len(found)} numbers, line {lines[0][0]} has {wide}"
    return None


def write(stream: IO[bytes], a: NDArray[Any], separator: str) -> None:
    """Write a matrix, a line for each row, with all digits."""
    form = "" if a.dtype.kind in "biu" else ".17g"
    rows = (separator.join(format(x, form) for x in row) for row in a.tolist())
    stream.write("".join(f"{row}\n" for row in rows).encode())

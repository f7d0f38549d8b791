"""A table with the status of every matrix: .csv, .json or .npz."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matroot.backends.replacing import replacing
from matroot.cli import files

SUFFIXES = (".csv", ".json", ".npz")
#: Columns: the array's name, the index in the flattened batch, the status's name, and three numbers of the result.
COLUMNS = ("array", "index", "status", "residual", "cond", "bits_lost")


def check_suffix(path: Path) -> None:
    """Raise ValueError if the name does not imply a format."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{files.shown(path)} ends in {path.suffix!r}; wanted is one of {', '.join(SUFFIXES)}")


def rows(results: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return a row for each matrix of the results, which have the names of their arrays."""
    from matroot._status import Status

    table = []
    for name, result in results.items():
        columns = (np.ravel(column) for column in (result.status, result.residual, result.cond, result.bits_lost))
        for i, (status, *numbers) in enumerate(zip(*columns, strict=True)):
            table.append((name, i, Status(int(status)).name, *map(float, numbers)))
    return table


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write the table of all results; the file appears whole, or the old one stays."""
    table, suffix = rows(results), path.suffix.lower()
    if suffix == ".npz":
        columns = zip(*table, strict=True) if table else ([] for _ in COLUMNS)
        files.write(path, {name: np.array(column) for name, column in zip(COLUMNS, columns, strict=True)})
        return
    if suffix == ".json":
        finite = [[None if isinstance(x, float) and not math.isfinite(x) else x for x in row] for row in table]
        lines = ",\n".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in finite)
        text = f"[\n{lines}\n]\n"
    else:
        text = "".join(",".join(map(_cell, row)) + "\n" for row in [COLUMNS, *table])
    with replacing(path) as stream:
        stream.write(text.encode())


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n\r') else text

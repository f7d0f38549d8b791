"""A large batch solved in parts, with a progress line."""

from __future__ import annotations

import math
import os
from dataclasses import fields, replace
from typing import Any

import numpy as np

from matroot.cli.progress import Progress

#: n^3 of all matrices of a part together: a second or less.
WORK = 2e9


def solve_in_parts(a: np.ndarray[Any, Any], p: int, name: str, **keywords: Any) -> Any:
    """Return `matroot.solve` of the batch, computed in parts by one method, so that the progress line can move."""
    import matroot

    batch, n = a.shape[:-2], a.shape[-1] if a.ndim else 0
    count = math.prod(batch)
    size = max(8, 4 * (os.cpu_count() or 1), math.ceil(WORK / max(n, 1) ** 3))
    with Progress(count, name) as progress:
        if count <= size or a.shape[-2:] != (n, n):
            return matroot.solve(a, p, **keywords)
        keywords["method"] = matroot.select_method(a, p, **keywords)
        stack, parts = a.reshape(count, n, n), []
        for start in range(0, count, size):
            parts.append(matroot.solve(stack[start : start + size], p, **keywords))
            progress.step(len(parts[-1].status))
    return joined(parts, batch)


def joined(parts: list[Any], batch: tuple[int, ...]) -> Any:
    """Return the results of parts of a flattened batch as one result."""
    found: dict[str, Any] = {}
    for one in fields(parts[0]):
        values = [getattr(part, one.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            whole = np.concatenate(values)
            found[one.name] = whole.reshape(batch + whole.shape[1:])
    return replace(parts[0], **found, n_products=max(part.n_products for part in parts))

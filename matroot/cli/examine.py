"""Facts of the matrices of a file: ``matroot info FILE``."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from matroot.cli import files, problem
from matroot.cli.progress import Progress
from matroot.pipeline.scaling import SUMMED_IN_FLOAT32

Array = np.ndarray[Any, Any]


def run(options: argparse.Namespace) -> int:
    """Print the facts of every array."""
    for name, a in files.read(options.file, options.key).items():
        print(f"{problem.source(options, name)}: {problem.sizes(a)}")
        if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
            print("  no square matrices (..., n, n)")
            continue
        for label, text in facts(a, problem.source(options, name)).items():
            print(f"  {label:<21} {text}")
    return 0


def facts(a: Array, name: str) -> dict[str, str]:
    """Return the facts of a stack of square matrices, by name."""
    n, count = a.shape[-1], math.prod(a.shape[:-2])
    stack = a.reshape(count, n, n)
    if not a.size:
        return {"matrices": f"{count} of n = {n}"}
    finite = np.isfinite(stack).all((-2, -1))
    rows = {"matrices": f"{count} of n = {n}", "NaN or infinity": some(np.logical_not(finite), "none")}
    good = stack[finite].astype(np.complex128 if a.dtype.kind == "c" else np.float64, copy=False)
    if not len(good):
        return rows
    at = np.flatnonzero(finite)
    size = abs(good).max((-2, -1))
    rows["max |entry|"] = spread(size)
    rows["zero matrices"] = some(np.asarray(size == 0), "none", at)
    gap = abs(good - good.conj().swapaxes(-1, -2)).max((-2, -1)) / np.where(size > 0, size, 1)
    rows["symmetry gap"] = f"{spread(gap)} of max |entry|"
    eps = np.finfo(a.dtype if a.dtype.kind in "fc" else np.float64).eps
    lopsided = gap > max(math.sqrt(eps / 2), SUMMED_IN_FLOAT32)
    rows["not symmetric"] = some(lopsided, "none", at) + ("  (--general)" if lopsided.any() else "")
    small = n * eps
    if lopsided.all():
        values, kind = decomposed(np.linalg.svdvals, good, name), "singular values"
    else:
        good, at, kind = good[~lopsided], at[~lopsided], "eigenvalues"
        values = decomposed(np.linalg.eigvalsh, (good + good.conj().swapaxes(-1, -2)) / 2, name)
        rows["eigenvalues"] = f"{values.min():.3g} to {values.max():.3g}"
        most = abs(values).max(-1, keepdims=True)
        rows["negative eigenvalues"] = counted((values < -small * most).sum(-1), at)
        values = abs(values)
    largest, least = values.max(-1), values.min(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rows["cond"] = spread(np.where(least > 0, largest / least, np.inf))
    zeros = counted((values <= small * largest[:, None]).sum(-1), at)
    rows[f"zero {kind}"] = f"{zeros}  (at most n eps = {small:.1e} of the largest)"
    return rows


def decomposed(f: Any, stack: Array, name: str) -> Array:
    """Return `f` of every matrix, with a progress line."""
    with Progress(len(stack), name) as progress:
        values = []
        for A in stack:
            values.append(f(A))
            progress.step()
    return np.stack(values)


def some(mask: Array, none: str, at: Array | None = None) -> str:
    """Return how many matrices of the mask are True, and which."""
    indices = np.flatnonzero(mask) if at is None else at[mask]
    if not len(indices):
        return none
    return f"{len(indices)}: {problem.listed(indices)}" if mask.size > 1 else "yes"


def counted(numbers: Array, at: Array) -> str:
    """Return the number of eigenvalues of a kind in each matrix, and the matrices that have any."""
    if numbers.size == 1 or not numbers.any():
        return str(numbers.max())
    return f"up to {numbers.max()}, in matrices {some(numbers > 0, 'none', at)}"


def spread(values: Array) -> str:
    """Return the least, the middle and the largest value."""
    if values.size == 1:
        return f"{values[0]:.3g}"
    return f"{values.min():.3g} to {values.max():.3g}, median {np.median(values):.3g}"

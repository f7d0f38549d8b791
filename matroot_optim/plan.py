"""The plan of an optimizer: the treatment and the cost of every parameter, before anything is computed."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from matroot import gallery
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf
from matroot_optim.refresh.jobs import RootBatch, compute
from matroot_optim.step.spectral import operations
from matroot_optim.step.statistics import pack, packed_size

#: Above this many times Adam's state, the table and a warning name what takes the bytes.
MUCH = 3.0
#: Bytes by which the state may exceed that multiple without a warning.
LITTLE = 1024
#: Floating-point operations of a root of order n, divided by n^3: an eigendecomposition and a product.
ROOT = 10.0


@dataclass(frozen=True)
class Row:
    """The treatment and the cost of one parameter.

    Attributes
    ----------
    path : str
    shape, matrix : tuple of int
        Shape of the parameter, and its merged shape.
    treatment : str
        In words: the preconditioned sides, or the first-order method.
    blocks : str
        "3 of 96 x 192", for each size.
    exponent : str
        Exponent of every root, "" without roots, "basis" under SOAP; where they differ, one for each preconditioned
        dimension.
    numbers : float
        Numbers of state for each number of the parameter; Adam has 2.
    state_bytes, adam_bytes, average_bytes : int
        Bytes of the state, of Adam's state in the same precision, and of the average of the weights in the state.
    step_flops : float
        Operations of a step without roots: statistics and products.
    root_flops : float
        Operations of the roots, divided by the steps between two refreshes.
    root_seconds : float
        Measured seconds of the roots, divided likewise; NaN if not measured.
    """

    path: str
    shape: tuple[int, ...]
    matrix: tuple[int, ...]
    treatment: str
    blocks: str
    exponent: str
    numbers: float
    state_bytes: int
    adam_bytes: int
    average_bytes: int
    step_flops: float
    root_flops: float
    root_seconds: float = math.nan


@dataclass(frozen=True)
class Plan:
    """The rows of all parameters; ``str()`` gives a table."""

    rows: tuple[Row, ...]

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of all parameters."""
        return sum(row.state_bytes for row in self.rows)

    @property
    def adam_bytes(self) -> int:
        """Bytes of Adam's state in the same precision."""
        return sum(row.adam_bytes for row in self.rows)

    @property
    def over_adam(self) -> float:
        """Size of the state divided by that of Adam's."""
        return self.state_bytes / self.adam_bytes if self.adam_bytes else 1.0

    def __str__(self) -> str:
        head = ("parameter", "shape", "seen as", "treatment", "blocks", "exponent", "numbers", "MB", "Mflop", "roots")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        sizes = {row.path: (row.state_bytes, row.adam_bytes) for row in self.rows}
        return "\n".join([*text, f"state: {_size(sizes, sum(row.average_bytes for row in self.rows))[0]}"])


def _cells(row: Row) -> tuple[str, ...]:
    roots = f"{row.root_flops / 1e6:.3g} Mflop" if math.isnan(row.root_seconds) else f"{1e3 * row.root_seconds:.3g} ms"
    return (
        row.path,
        " x ".join(map(str, row.shape)),
        " x ".join(map(str, row.matrix)) if row.matrix != row.shape else "",
        row.treatment,
        row.blocks,
        row.exponent,
        f"{row.numbers:.3g}",
        f"{row.state_bytes / 1e6:.3g}",
        f"{row.step_flops / 1e6:.3g}",
        roots if row.exponent else "",
    )


def warn_if_large(layout: Layout, names: Mapping[str, str] | None = None) -> None:
    """Warn if the state exceeds three times Adam's; `names` maps paths to the names of the message."""
    names = names or {}
    sizes = {names.get(leaf.path, leaf.path): (_state_bytes(leaf), _adam_bytes(leaf)) for leaf in layout.leaves}
    told, large = _size(sizes, sum(_average_bytes(leaf) for leaf in layout.leaves))
    if large:
        warnings.warn(f"Shampoo's state takes {told}; plan() tells it of every parameter", stacklevel=3)


def _size(sizes: Mapping[str, tuple[int, int]], averages: int) -> tuple[str, bool]:
    """Return a sentence on the bytes of the state and of Adam's, and True if the state is large.

    The sentence names what makes it large: the `averages`, of so many bytes, or the parameter most in excess.
    """
    state, adam = (sum(pair[k] for pair in sizes.values()) for k in (0, 1))
    text = f"{state / 1e6:.3g} MB, {state / adam if adam else 1.0:.1f} times Adam's"
    if state <= MUCH * adam + LITTLE:
        return text, False
    if state - averages <= MUCH * adam + LITTLE:
        return f"{text}; {averages / 1e6:.3g} MB of it are the averages of the weights, for averaging", True
    worst = max(sizes, key=lambda name: sizes[name][0] - MUCH * sizes[name][1])
    return f"{text}; most of the excess for {worst!r}: block_size and block_aspect make it less", True


def make_plan(layout: Layout, interval: int, *, measure: bool = False) -> Plan:
    """Return the plan of a layout whose roots are renewed every `interval` steps."""
    seconds = _seconds(layout) if measure else {}
    return Plan(tuple(_row(leaf, interval, seconds) for leaf in layout.leaves))


def _row(leaf: Leaf, interval: int, seconds: Mapping[Any, float]) -> Row:
    size, sizes = math.prod(leaf.shape), Counter(block for _, block in leaf.blocks)
    roots = [(block[i], s) for _, block in leaf.blocks for i, s in zip(leaf.axes, leaf.exponents, strict=True)]
    state_bytes, adam_bytes = _state_bytes(leaf), _adam_bytes(leaf)
    each = 8.0 if leaf.in_basis else 4.0  # the statistic; the root, or into the basis twice and out of it
    products = sum(each * block[axis] * math.prod(block) for _, block in leaf.blocks for axis in leaf.axes)
    if leaf.spectral:
        products += sum(operations(block) for _, block in leaf.blocks)
    if leaf.options.statistics_of == "whitened":
        products += sum(_whitening(leaf, block) for _, block in leaf.blocks)
    return Row(
        leaf.path,
        leaf.shape,
        leaf.merged,
        _treatment(leaf),
        ", ".join(f"{count} of {' x '.join(map(str, block))}" for block, count in sizes.items()),
        "basis" if leaf.in_basis else ", ".join(map(str, dict.fromkeys(leaf.exponents))),
        2 * state_bytes / adam_bytes if size else 0.0,
        state_bytes,
        adam_bytes,
        _average_bytes(leaf),
        products,
        ROOT * sum(float(n) ** 3 for n, _ in roots) / interval,
        sum(seconds[root] for root in roots) / interval if seconds or not roots else math.nan,
    )


def _whitening(leaf: Leaf, block: tuple[int, ...]) -> float:
    """Return the operations that whiten a block for the statistics of each dimension, and find SOAP's eigenvalues."""
    others = len(leaf.axes) - 1
    each = [2.0 * block[axis] * math.prod(block) + 2.0 * leaf.in_basis * block[axis] ** 3 for axis in leaf.axes]
    return others * sum(each)


def _state_bytes(leaf: Leaf) -> int:
    orders = [(r.blocks, r.size[i]) for r in leaf.regions for i in leaf.axes]
    size, whole = math.prod(leaf.shape), np.dtype(leaf.dtype).itemsize
    moments, averages = size * (leaf.has_momentum + leaf.has_moment), _average_bytes(leaf)
    statistics, roots = sum(k * packed_size(n) for k, n in orders), sum(k * n**2 for k, n in orders)
    if leaf.options.state_dtype != "bfloat16":
        return int(whole * (moments + statistics + roots) + averages)
    if leaf.in_basis:
        return int(2 * (moments + statistics + roots) + averages)
    return int(2 * (moments + statistics) + whole * statistics + averages)  # roots are as large as statistics


def _average_bytes(leaf: Leaf) -> int:
    return int(leaf.has_average * math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize)


def _adam_bytes(leaf: Leaf) -> int:
    return int(2 * math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize)


def _treatment(leaf: Leaf) -> str:
    if leaf.spectral:
        return "spectral"
    if not leaf.axes:
        return leaf.options.graft if leaf.options.graft != "none" else "rmsprop"
    if leaf.by_row:
        return "by row"
    sides = {1: "one side", 2: "both sides"}.get(len(leaf.axes), f"{len(leaf.axes)} sides")
    return sides if len(leaf.axes) < len(leaf.merged) or len(leaf.axes) <= 2 else "all sides"


def _seconds(layout: Layout) -> dict[Any, float]:
    """Measure the seconds of one root for every order and exponent of the layout, on a matrix of the gallery."""
    found: dict[Any, float] = {}
    for stack, axis in layout.factors:
        key = (stack.shape[axis], stack.exponent(axis))
        if key in found:
            continue
        A, _ = gallery.spd(key[0], 1e6, batch=(1,), rng=0)
        o, matrix, task = stack.options, pack(A), "root"
        if stack.in_basis:
            task = o.basis
            matrix = matrix if task == "eigh" else np.concatenate([matrix, A.reshape(1, -1)], axis=1)
        batch = RootBatch(matrix, stack.exponent(axis), o.rule, o.root_method, o.root_dtype, task=task)
        compute(batch)  # the first call of a size may compile
        begin = time.perf_counter()
        compute(batch)
        found[key] = time.perf_counter() - begin
    return found

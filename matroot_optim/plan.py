"""What an optimizer will do with some parameters, and what it will cost, before anything is computed."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from matroot import gallery
from matroot_optim.layout import Layout, Leaf
from matroot_optim.roots import RootBatch, compute
from matroot_optim.statistics import pack, packed_size

#: Where the state is larger than this many times Adam's, the table says so.
MUCH = 3.0
#: Floating-point operations of a root of order n, over n^3: an eigendecomposition and a product.
ROOT = 10.0


@dataclass(frozen=True)
class Row:
    """What is done with one parameter.

    Attributes
    ----------
    path : str
    shape, matrix : tuple of int
        Its shape, and the shape in which it is seen.
    treatment : str
        In words: which sides are preconditioned, or which first-order method it gets.
    blocks : str
        "3 of 96 x 192", for each size.
    exponent : str
        Of every root, "" where there is none.
    numbers : float
        Numbers of state for each number of the parameter; Adam has 2.
    state_bytes : int
    step_flops : float
        Operations of a step without roots: statistics and products.
    root_flops : float
        Operations of its roots, divided over the steps between two refreshes.
    root_seconds : float
        Measured likewise; NaN when it was not.
    """

    path: str
    shape: tuple[int, ...]
    matrix: tuple[int, ...]
    treatment: str
    blocks: str
    exponent: str
    numbers: float
    state_bytes: int
    step_flops: float
    root_flops: float
    root_seconds: float = math.nan


@dataclass(frozen=True)
class Plan:
    """The rows of all parameters; ``str()`` of it is a table."""

    rows: tuple[Row, ...]

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of all parameters."""
        return sum(row.state_bytes for row in self.rows)

    @property
    def over_adam(self) -> float:
        """The state's size over that of Adam's."""
        adam = sum(2 * row.state_bytes / row.numbers for row in self.rows if row.numbers)
        return self.state_bytes / adam if adam else 1.0

    def __str__(self) -> str:
        head = ("parameter", "shape", "seen as", "treatment", "blocks", "exponent", "numbers", "MB", "Mflop", "roots")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        total = f"state: {self.state_bytes / 1e6:.3g} MB, {self.over_adam:.2g} times Adam's"
        if self.over_adam > MUCH:
            worst = max(self.rows, key=lambda row: row.state_bytes)
            total += f"; most of it for {worst.path!r}: block_size and block_aspect make it less"
        return "\n".join([*text, total])


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


def make_plan(layout: Layout, interval: int, *, measure: bool = False) -> Plan:
    """The plan of a layout whose roots are renewed every `interval` steps."""
    seconds = _seconds(layout) if measure else {}
    return Plan(tuple(_row(leaf, interval, seconds) for leaf in layout.leaves))


def _row(leaf: Leaf, interval: int, seconds: Mapping[Any, float]) -> Row:
    size, sizes = math.prod(leaf.shape), Counter(block for _, block in leaf.blocks)
    orders = [block[axis] for _, block in leaf.blocks for axis in leaf.axes]
    numbers = size * (leaf.has_momentum + leaf.has_moment) + sum(packed_size(n) + n * n for n in orders)
    products = sum(4.0 * block[axis] * math.prod(block) for _, block in leaf.blocks for axis in leaf.axes)
    return Row(
        leaf.path,
        leaf.shape,
        leaf.merged,
        _treatment(leaf),
        ", ".join(f"{count} of {' x '.join(map(str, block))}" for block, count in sizes.items()),
        str(leaf.exponent) if leaf.axes else "",
        numbers / size if size else 0.0,
        numbers * np.dtype(leaf.dtype).itemsize,
        products,
        ROOT * sum(float(n) ** 3 for n in orders) / interval,
        sum(seconds[n, leaf.exponent] for n in orders) / interval if seconds or not orders else math.nan,
    )


def _treatment(leaf: Leaf) -> str:
    if not leaf.axes:
        return leaf.options.graft if leaf.options.graft != "none" else "rmsprop"
    sides = {1: "one side", 2: "both sides"}.get(len(leaf.axes), f"{len(leaf.axes)} sides")
    return sides if len(leaf.axes) < len(leaf.merged) or len(leaf.axes) <= 2 else "all sides"


def _seconds(layout: Layout) -> dict[Any, float]:
    """Seconds of one root of every order and exponent that there is, measured once on a matrix of the gallery."""
    found: dict[Any, float] = {}
    for stack, axis in layout.factors:
        key = (stack.shape[axis], stack.exponent)
        if key in found:
            continue
        A, _ = gallery.spd(key[0], 1e6, batch=(1,), rng=0)
        o = stack.options
        batch = RootBatch(pack(A), stack.exponent, o.ridge, o.root_method, o.root_dtype)
        compute(batch)  # the first call of a size may compile
        begin = time.perf_counter()
        compute(batch)
        found[key] = time.perf_counter() - begin
    return found

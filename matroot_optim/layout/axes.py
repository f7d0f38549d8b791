"""The dimensions of a parameter that get a statistic and a root: the rule for tables, for vectors, and for all else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matroot_optim.layout.blocking import Shape
from matroot_optim.options import Options

#: A matrix whose dimensions differ by more than this factor is a table.
TABLE = 10
#: A narrower table is one of categories: its rows share one graft, so that rows that are seen often move further.
NARROW = 32
#: Rows for every column from which a narrow matrix of at least `LEAST_WIDTH` is one unasked: classifiers have fewer.
CATEGORIES, LEAST_WIDTH = 64, 8
#: Grafts that give every row of a table a norm.
GRAFTS_OF_ROWS = ("adam", "rmsprop", "adagrad", "sgd")


def is_table(shape: Shape) -> bool:
    """Return True if a shape is that of a table: a matrix with one dimension more than `TABLE` times the other.

    Embeddings and output layers are tables; dense layers, attention and convolutions are not.
    """
    return len(shape) == 2 and max(shape) > TABLE * min(shape)


class Axes(NamedTuple):
    """The dimensions of a merged shape that get a statistic, and the rule for them."""

    axes: tuple[int, ...] = ()
    table: bool = False  # moves by roots under SOAP too
    by_row: bool = False


def preconditioned_axes(options: Options, shape: Shape, merged: Shape, path: str) -> Axes:
    """Return the dimensions of the merged shape that get a statistic, and whether they are those of a table.

    Tensors of order 0 and 1 (unless `precondition_vectors`) and empty tensors have none. Dimensions of size 1 or
    above `max_preconditioned_dim` are left out.
    """
    least = 1 if options.precondition_vectors else 2
    if len(merged if options.merge == "matrix" else shape) < least or 0 in shape or not merged:
        return Axes()
    dims, dim = options.preconditioned_dims, options.split_dim % len(merged)
    part = (*merged[:dim], max(parts_of(options, merged, path)), *merged[dim + 1 :]) if options.split else merged
    table = dims == "table" or (dims == "auto" and is_table(part))
    narrow = table and min(part) < NARROW
    categories = _holds_categories(dims, part) and not (dims == "auto" and is_kernel(path))
    if dims == "none" or (table and not _has_rows(options)) or (narrow and not categories):
        return Axes()
    wanted: Sequence[int] = range(len(merged))
    if not isinstance(dims, str):
        for i in dims:
            if not -len(merged) <= i < len(merged):
                raise ValueError(
                    f"preconditioned_dims must name dimensions of the merged shape {merged} of {path!r}, got {i}"
                )
        wanted = sorted({i % len(merged) for i in dims})
    limit = options.max_preconditioned_dim
    axes = [i for i in wanted if merged[i] > 1 and (limit is None or merged[i] <= limit)]
    if narrow:  # a root for the columns
        axes = [i for i in axes if i == len(merged) - 1]
    elif (table or dims == "one_sided") and axes:
        axes = [min(axes, key=lambda i: merged[i])]
    table = table and bool(axes)
    return Axes(tuple(axes), table, table and not narrow)


def _holds_categories(dims: Any, shape: Shape) -> bool:
    """Return True if a narrow table, named one or found by its shape, has rows of categories.

    With fewer rows for its columns, statistic and root would take more than four numbers for each of the table's.
    """
    rows, width = shape[0], shape[-1]
    if dims == "table":
        return 1 < width < NARROW and 5 * rows >= 2 * width
    return LEAST_WIDTH <= width < NARROW and rows > CATEGORIES * width


def is_kernel(path: str) -> bool:
    """Return True for what flax and keras call the weight of a dense layer, a table only by its shape."""
    return path.rpartition("/")[2] == "kernel"


def _has_rows(options: Options) -> bool:
    """Return True if the rows of a table can get a direction each, scaled to the norm of their first-order step."""
    return options.direction == "roots" and options.graft in GRAFTS_OF_ROWS


def parts_of(options: Options, merged: Shape, path: str) -> list[int]:
    """Return the sizes of the parts that one dimension of a fused weight is split into."""
    n, split = merged[options.split_dim % len(merged)], options.split
    sizes = [n // split] * split if isinstance(split, int) else list(split or (n,))
    if sum(sizes) != n:
        raise ValueError(
            f"split must give parts of dimension {options.split_dim} of the merged shape {merged} of {path!r}, "
            f"got {split}"
        )
    return sizes

"""The parts of a layout: its parameters, and the stacks of their blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from matroot_optim.layout.blocking import Region, Shape, numbered
from matroot_optim.options import Options

#: Entries of a block from which `Stack.apart` holds.
LARGE = 2**14


class At(NamedTuple):
    """The place of an array of a part of a run in an array of the whole run.

    The array consists of equal boxes, one over another.
    """

    name: str  # of the whole array
    starts: tuple[int, ...]  # flat index there of the first entry of every box
    strides: tuple[int, ...]  # there, of the dimensions of a box


class Narrow(NamedTuple):
    """Storage of an array in bfloat16: the dtype it is computed in, and the way it is rounded and laid out."""

    dtype: str
    dithered: bool  # else rounded to the nearest
    packed: bool  # symmetric matrices, of which the lower triangles are kept
    at: At | None = None  # whose entries are rounded in the same way; None: an array of the whole run


@dataclass(frozen=True)
class Leaf:
    """One parameter: its path, shape and cut."""

    path: str
    shape: Shape
    merged: Shape
    axes: tuple[int, ...]  # the preconditioned dimensions of the merged shape
    regions: tuple[Region, ...]  # none when no dimension is preconditioned
    dtype: str  # of the state
    place: str
    options: Options
    by_row: bool = False  # a table: every slice along the dimension without a statistic has a graft of its own
    table: bool = False  # moves by roots under SOAP too
    whole: Shape | None = None  # of the parameter, where the leaf is a part of it; parts have no weights

    @cached_property
    def size(self) -> int:
        """Number of elements of the parameter."""
        return math.prod(self.shape if self.whole is None else self.whole)

    @cached_property
    def epsilon(self) -> float:
        """Epsilon in the graft's denominator, relative to the largest recent norm."""
        return float(self.options.graft_epsilon * max(1, self.size) ** -0.5)

    def name(self, part: str) -> str:
        """Return the name of one of the parameter's arrays in the state."""
        return f"{self.path}/{part}" if self.path else part

    def at(self, path: str) -> Leaf:
        """Return the same leaf at another path, with the properties that are known: none depends on the path."""
        leaf = object.__new__(Leaf)
        leaf.__dict__.update(self.__dict__, path=path)
        return leaf

    @cached_property
    def blocks(self) -> list[tuple[Shape, Shape]]:
        """(origin, size) of every block in the order of the tensor; block k of the names is entry k."""
        return numbered(self.regions)[0]

    @cached_property
    def block_number(self) -> dict[Shape, int]:
        """Number of the block, by origin."""
        return numbered(self.regions)[1]

    @cached_property
    def numbers(self) -> list[list[int]]:
        """Numbers of the blocks of every region, in the order of its stack."""
        return numbered(self.regions)[2]

    @cached_property
    def parts(self) -> list[str]:
        """Names of the arrays of the parameter: of its shape, but for "weights", two numbers on the host."""
        weighted = self.has_average and self.options.averaging == "schedule_free"
        kept = {
            "momentum": self.has_momentum,
            "moment": self.has_moment,
            "average": self.has_average,
            "weights": weighted,
        }
        return [part for part, there in kept.items() if there]

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kinds of these arrays, in words: one of another kind means nothing to this leaf."""
        mean = "mean" if self.options.momentum == "ema" else "sum"
        momentum = f"{mean} of {'gradients' if self.averages_gradients else 'directions'}"
        moment = "mean" if self.options.beta2_of_graft < 1.0 else "sum"
        found = {"momentum": momentum, "moment": moment}
        return {part: found.get(part, self.options.averaging) for part in self.parts}

    @cached_property
    def has_moment(self) -> bool:
        """True if a second moment is kept for the first-order step."""
        if self.options.graft == "sgd":
            return False
        if self.options.graft in ("adagrad", "rmsprop", "adam"):
            return True
        return not self.directed or self.options.first_shampoo_step > 1

    @cached_property
    def has_momentum(self) -> bool:
        """True if a momentum buffer is kept."""
        return self.options.momentum != "none" and self.options.averaging != "schedule_free"

    @cached_property
    def has_average(self) -> bool:
        """True if an average of the weights is kept, or the sequence that it follows from."""
        return self.options.averaging != "none" and self.whole is None

    @cached_property
    def pinned(self) -> bool:
        """True if the norms of the step and of the weights are held: of parameters with a direction."""
        return self.options.hyperball and self.directed and self.whole is None

    @cached_property
    def spectral(self) -> bool:
        """True if the direction is that of the singular vectors, without statistics and roots."""
        return self.options.direction == "spectral" and bool(self.regions)

    @cached_property
    def directed(self) -> bool:
        """True if the parameter has another direction than that of the first-order step."""
        return bool(self.axes) or self.spectral

    @cached_property
    def exponents(self) -> tuple[Fraction, ...]:
        """Exponent of the root of every preconditioned dimension: -1/(2r) for r of them, if the options have none."""
        given, usual = self.options.exponent, Fraction(-1, 2 * max(1, len(self.axes)))
        if self.options.statistics_of == "whitened":
            return (Fraction(-1, 2),) * len(self.axes)
        chosen = list[Any](given[axis - len(self.merged)] if isinstance(given, tuple) else given for axis in self.axes)
        return tuple(exponent if isinstance(exponent, Fraction) else usual for exponent in chosen)

    @cached_property
    def in_basis(self) -> bool:
        """True if the second moment is kept in eigenbases of the statistics."""
        return self.options.algorithm == "soap" and bool(self.axes)

    @cached_property
    def normalizes(self) -> bool:
        """True if the gradient is divided by its norm; a direction without a graft needs the gradient's own size."""
        return self.options.graft_normalize and not (self.directed and self.options.graft == "none")

    @cached_property
    def is_adam(self) -> bool:
        """True if the first-order step is the mean of the gradients over the root of the mean of their squares."""
        o = self.options
        decayed = o.beta2_of_graft < 1.0 and o.momentum == "ema"
        return decayed and self.averages_gradients and self.has_moment and not self.in_basis

    @cached_property
    def kind(self) -> Any:
        """Key of the treatment in stages 3 and 4: leaves with equal keys are processed in one call."""
        o = self.options
        first_order = (self.in_basis, o.graft, self.normalizes, o.beta2_of_graft, self.has_moment)
        momentum = (self.has_momentum, o.momentum, o.momentum_of, o.bias_correction)
        end = (o.decay, o.clip_rms, o.cautious_decay, o.cautious_update, self.pinned)
        return (self.place, self.dtype, *first_order, *momentum, *end)

    @cached_property
    def averages_gradients(self) -> bool:
        """True if the momentum averages gradients, not directions."""
        return self.has_momentum and self.options.momentum_of == "gradient"


@dataclass(frozen=True)
class Member:
    """The part of a stack that is one region of one parameter."""

    leaf: int
    region: int
    start: int
    stop: int


@dataclass(frozen=True)
class Among:
    """The roots and the arrays of a layout among those of a whole run, of which the layout is a part."""

    orders: tuple[int, ...]  # of all roots
    alike: tuple[int, ...]  # a number for each of them, equal where one call can compute both
    rows: tuple[int, ...]  # numbers of the roots of the layout
    places: Mapping[str, At]  # of arrays of the layout


@dataclass(frozen=True)
class Stack:
    """Blocks of one shape, stacked, with the dimensions to precondition and the exponent."""

    name: str
    shape: Shape
    axes: tuple[int, ...]
    exponents: tuple[Fraction, ...]  # of the roots of these dimensions
    options: Options
    dtype: str
    members: tuple[Member, ...]
    by_row: bool = False  # blocks of tables, of which every row has a graft of its own

    @cached_property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.members[-1].stop

    @cached_property
    def sharable(self) -> bool:
        """True if a dimension has no root, so that ranks may have parts of it."""
        return len(self.axes) + (self.options.batch_dims > 0) < len(self.shape)  # of a batch, blocks have one entry

    @cached_property
    def apart(self) -> bool:
        """True if every block is a large leaf of its own: a copy that joins them takes as long as their products."""
        large = math.prod(self.shape) >= LARGE and self.blocks == len(self.members) > 1
        return large and self.sharable and not (self.in_basis or self.spectral or self.whitened)

    @cached_property
    def in_basis(self) -> bool:
        """True if the array "root" of a dimension holds the eigenbases of its statistics, and no roots."""
        return self.options.algorithm == "soap"

    @cached_property
    def spectral(self) -> bool:
        """True if the direction is that of the singular vectors, without statistics and roots."""
        return self.options.direction == "spectral"

    @cached_property
    def whitened(self) -> bool:
        """True if the statistics are of the gradient whitened by the roots of the other dimensions.

        A single one has no others, and under a graft the size of its statistic has no effect.
        """
        alone = len(self.axes) == 1 and self.options.graft != "none"
        return self.options.statistics_of == "whitened" and not alone

    @cached_property
    def largest(self) -> float:
        """Largest entry of a root that is taken: a gradient's products with all roots stay in the range of the dtype.

        It is far beyond those of statistics in units of the gradients; others are of gradients that were far smaller.
        """
        return float(2.0 ** ((np.finfo(self.dtype).maxexp - 8) // max(2, len(self.axes))))

    @cached_property
    def turns(self) -> list[tuple[int, str, str, str]]:
        """Every preconditioned dimension, its key, and the names of its marks and of the steps of its roots."""
        keys = [(axis, self.axis_name(axis)) for axis in self.axes]
        return [(axis, key, f"{key}/mark", f"{key}/taken") for axis, key in keys]

    @cached_property
    def first_root_step(self) -> int:
        """The step from which its roots are used."""
        return self.options.first_root_step

    def exponent(self, axis: int) -> Fraction:
        """Return the exponent of the roots of one dimension."""
        return self.exponents[self.axes.index(axis)]

    def call(self, axis: int, place: str) -> Any:
        """Return the key of the call that can compute the roots of one dimension, of blocks in this place."""
        o = self.options
        where = "host" if o.root_device == "host" else place
        how = (self.exponent(axis), o.rule, o.root_method, o.root_dtype, o.algorithm)
        return (where, self.shape[axis], self.dtype, *how)

    def axis_name(self, axis: int) -> str:
        """Return the prefix of the arrays of one dimension."""
        return f"{self.name}/axis{axis}"

    @cached_property
    def leaf_of_block(self) -> Any:
        """Number of the leaf of every block, an int array."""
        return np.concatenate([np.full(m.stop - m.start, m.leaf) for m in self.members])

"""The static layout of an optimizer: its parameters, and the stacks of their blocks.

Blocks of equal shape and equal options, of all parameters, form one `Stack`: one array (blocks, *shape) in stages 1
and 3, and one (blocks, n (n + 1) / 2) array of statistics per preconditioned dimension.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, cast, check_device, dtype_name, is_cupy, on_host, place, state_dtype
from matroot_optim.layout.axes import Axes, is_kernel, parts_of, preconditioned_axes
from matroot_optim.layout.blocking import Region, Shape, as_matrix, block_sizes, merge_dims, regions
from matroot_optim.layout.parts import Among, Leaf, Member, Narrow, Stack
from matroot_optim.options import Options

#: Options that are equal in all blocks of a stack, beside the decay of the statistics.
OF_STACKS = (
    "algorithm basis statistics_of direction spectral_exponent bias_correction rule "
    "root_tolerance root_method root_dtype root_device state_dtype"
).split()
#: Smallest decay of the largest norm. The squares in a state are multiplied by its inverse squared, or by 2^40.
LEAST_DECAY = 2.0**-10


@dataclass(frozen=True)
class Layout:
    """Leaves and stacks, a pure function of the options and of the parameters' paths, shapes and dtypes."""

    leaves: tuple[Leaf, ...]
    stacks: tuple[Stack, ...]
    among: Among | None = None

    @cached_property
    def index(self) -> dict[str, int]:
        """Number of the leaf at a path."""
        return {leaf.path: i for i, leaf in enumerate(self.leaves)}

    @cached_property
    def decays(self) -> Any:
        """Decay of the root of the second moment of every leaf per step, `LEAST_DECAY` at least.

        Units that fall further at once would make the state infinite.
        """
        return np.array([max(math.sqrt(leaf.options.beta2_of_graft), LEAST_DECAY) for leaf in self.leaves])

    @cached_property
    def starts(self) -> list[tuple[int, int]]:
        """Of every leaf, the step from which Shampoo moves it, and the steps over which the first-order step fades."""
        return [(leaf.options.first_shampoo_step, leaf.options.mix_steps) for leaf in self.leaves]

    @cached_property
    def epsilons(self) -> Any:
        """Epsilon of every leaf in the graft's denominator, relative to the largest recent norm."""
        return np.array([leaf.epsilon for leaf in self.leaves])

    @cached_property
    def normalized(self) -> Any:
        """Mask of the leaves whose gradients are divided by their norms before the first-order method."""
        return np.array([leaf.normalizes for leaf in self.leaves], bool)

    @cached_property
    def kinds(self) -> list[Any]:
        """One value per leaf, equal for leaves that stages 3 and 4 treat alike."""
        keys = [leaf.kind for leaf in self.leaves]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return [numbers[key] for key in keys]

    @cached_property
    def narrow(self) -> dict[str, Narrow]:
        """The arrays of the state that are kept in bfloat16, by name.

        Statistics of Shampoo are kept whole: their small eigenvalues, which count most in a root, would be lost.
        """
        found: dict[str, Narrow] = {}
        places = {} if self.among is None else self.among.places
        for leaf in self.leaves:
            if leaf.options.state_dtype == "bfloat16":
                for name in map(leaf.name, ("momentum", "moment")):
                    found[name] = Narrow(leaf.dtype, True, False, places.get(name))
        for stack, axis in self.factors:
            if stack.options.state_dtype == "bfloat16":
                found[f"{stack.axis_name(axis)}/root"] = Narrow(stack.dtype, False, not stack.in_basis)
                if stack.in_basis:
                    name = f"{stack.axis_name(axis)}/statistic"
                    found[name] = Narrow(stack.dtype, True, False, places.get(name))
        return found

    @cached_property
    def factors(self) -> list[tuple[Stack, int]]:
        """Every (stack, preconditioned dimension), each with one array of statistics."""
        return [(stack, axis) for stack in self.stacks for axis in stack.axes]

    def split(self, values: Any) -> Iterator[tuple[Stack, int, Any]]:
        """Iterate over (stack, dimension, values of its roots), given the values of all roots."""
        start = 0
        for stack, axis in self.factors:
            yield stack, axis, values[start : start + stack.blocks]
            start += stack.blocks

    @cached_property
    def factor_named(self) -> dict[str, tuple[Stack, int]]:
        """Every pair of `factors` by the prefix of its arrays."""
        return {stack.axis_name(axis): (stack, axis) for stack, axis in self.factors}

    @cached_property
    def orders(self) -> tuple[int, ...]:
        """The order of every root of the run."""
        if self.among is not None:
            return self.among.orders
        return tuple(stack.shape[axis] for stack, axis in self.factors for _ in range(stack.blocks))

    @cached_property
    def alike(self) -> tuple[int, ...]:
        """A number for every root of the run, equal for two roots that one call can compute."""
        if self.among is not None:
            return self.among.alike
        numbers: dict[Any, int] = {}
        found: list[int] = []
        for stack, axis in self.factors:
            place = self.leaves[stack.members[0].leaf].place
            found += [numbers.setdefault(stack.call(axis, place), len(numbers))] * stack.blocks
        return tuple(found)

    def own(self, values: Any) -> Any:
        """Return the values of the roots of this layout, given those of all roots of the run."""
        return values if self.among is None else values[list(self.among.rows)]

    @cached_property
    def stacks_of_leaf(self) -> list[list[tuple[int, Member]]]:
        """(stack number, member) of each region of every leaf, in the order of the regions."""
        where: list[list[tuple[int, Member]]] = [[] for _ in self.leaves]
        for s, stack in enumerate(self.stacks):
            for member in stack.members:
                where[member.leaf].append((s, member))
        for found in where:
            found.sort(key=lambda pair: pair[1].region)
        return where

    def block_names(self, stack: Stack) -> Iterator[str]:
        """Iterate over the names of the blocks of a stack, "layer/kernel/block3", in the order of the stack."""
        for i, number in self.blocks_of(stack):
            yield self.leaves[i].name(f"block{number}")

    def blocks_of(self, stack: Stack) -> Iterator[tuple[int, int]]:
        """Iterate over (number of the leaf, number of the block in it), in the order of the stack."""
        for member in stack.members:
            for number in self.leaves[member.leaf].numbers[member.region]:
                yield member.leaf, number

    def align(self, leaves: Mapping[str, Array], what: str) -> list[Array | None]:
        """Return arrays of a tree in the order of the layout, in the state's dtype; None for a missing array.

        ValueError for a path or a shape that is not that of `init`.
        """
        for path in leaves:
            if path not in self.index:
                raise ValueError(f"{what} must have the paths that init saw, got the new path {path!r}")
        return self.fitted([leaves.get(leaf.path) for leaf in self.leaves], what)

    def fitted(self, arrays: Sequence[Array | None], what: str) -> list[Array | None]:
        """Return arrays, given in the order of the layout, in the state's dtype; None for a missing array.

        Raises
        ------
        ValueError
            A shape is not that of `init`.
        """
        found: list[Array | None] = []
        for x, leaf in zip(arrays, self.leaves, strict=True):
            if x is None:
                found.append(None)
                continue
            if leaf.place[:4] == "cupy":
                check_device(x, leaf.path)
            if x.shape != leaf.shape:
                raise ValueError(f"{what} must have shape {leaf.shape} at {leaf.path!r}, got {tuple(x.shape)}")
            found.append(x if dtype_name(x) == leaf.dtype else cast(x, leaf.dtype))
        return found


def make_layout(options: Options, params: Mapping[str, Array], group: Callable[[str], str] | None = None) -> Layout:
    """Return the layout of these parameters; paths of one `group` have the same options.

    TypeError for a parameter that is not real floating point, ValueError for options that do not fit its shape.
    """
    known: dict[str, tuple[Options, Options, Options]] = {}  # checking the options of each parameter takes long

    def of(path: str) -> tuple[Options, Options, Options]:
        """Return the options of a parameter, the same without engine and groups, and those if it is a table."""
        key = repr(sorted(options.changes_for(path).items())) if group is None else group(path)
        if key not in known:
            mine = options.for_path(path)
            plain, other = _plain(mine), mine.of_tables
            known[key] = mine, plain, plain if other is mine else _plain(other)
        return known[key]

    cut: dict[Any, Leaf] = {}  # cutting is slow too

    def leaf(path: str, x: Array) -> Leaf:
        check_device(x, path)
        given, plain, of_tables = of(path)
        key = (id(given), tuple(x.shape), state_dtype(x, path), place(x), is_kernel(path))
        if key not in cut:
            cut[key] = _leaf(given, plain, of_tables, path, x)
            for name in ("kind", "parts", "exponents"):  # once for all that are alike
                getattr(cut[key], name)
        return cut[key].at(path)

    return stacked(leaf(path, x) for path, x in params.items())


def stacked(given: Iterable[Leaf]) -> Layout:
    """Return the layout of these leaves."""
    leaves = tuple(given)
    alike: dict[Any, list[tuple[int, int]]] = {}
    for i, leaf in enumerate(leaves):
        for r, region in enumerate(leaf.regions):
            alike.setdefault(_stack_key(leaf, region), []).append((i, r))
    stacks = tuple(_stack(f":stack{k}", leaves, members) for k, members in enumerate(alike.values()))
    return Layout(leaves, stacks)


def _plain(options: Options) -> Options:
    return dataclasses.replace(options, engine=None, groups=None, start_step=options.first_shampoo_step)


def _leaf(given: Options, options: Options, of_tables: Options, path: str, x: Array) -> Leaf:
    if given.root_device == "device" and getattr(given.engine, "host_only", False) and not on_host(x):
        raise ValueError(
            f"root_device must be 'host' with {given.engine!r}, whose workers take numpy arrays alone, got 'device' "
            f"for {path!r}, which is on {x.device}; use InlineEngine to compute on the device"
        )
    if options.state_dtype == "bfloat16" and is_cupy(x):
        raise ValueError(f"state_dtype must be 'float32' for cupy, which has no bfloat16, got 'bfloat16' for {path!r}")
    shape = tuple(int(n) for n in x.shape)
    batch, own = shape[: options.batch_dims], shape[options.batch_dims :]
    merged = _merged(options, own)
    axes, table, by_row = preconditioned_axes(options, own, merged, path) if 0 not in batch else Axes()
    options = of_tables if table else options
    if axes and isinstance(options.exponent, tuple) and len(options.exponent) != len(merged):
        raise ValueError(
            f"exponent must have one entry for each dimension of the merged shape {merged} of {path!r}, "
            f"got {len(options.exponent)}"
        )
    if axes and options.direction == "spectral":
        if len(merged) != 2:
            what = "precondition_vectors must be False" if len(merged) == 1 else "merge must be 'matrix'"
            raise ValueError(f"{what} for a spectral direction of {path!r}, whose shape is {merged}")
        axes = ()
        parts = cut_into_regions(options, merged, axes, path)  # whole matrices: no blocks
    else:
        parts = cut_into_regions(options, merged, axes, path) if axes else ()
    if batch:  # each entry is a tensor of its own
        count = math.prod(batch)
        merged, axes = (count, *merged), tuple(axis + 1 for axis in axes)
        parts = tuple(Region((0, *r.start), (count, *r.count), (1, *r.size)) for r in parts)
    return Leaf(path, shape, merged, axes, parts, state_dtype(x, path), place(x), options, by_row, table)


def cut_into_regions(options: Options, merged: Shape, axes: Sequence[int], path: str) -> tuple[Region, ...]:
    """Return the regions of a tensor; the parts of a fused weight are cut each by itself."""
    o, dim = options, options.split_dim % len(merged)
    shapes = [(*merged[:dim], n, *merged[dim + 1 :]) for n in parts_of(options, merged, path)]
    sizes = [block_sizes(shape, o.block_size, o.block_aspect, axes) for shape in shapes]
    common = [min(column) for column in zip(*sizes, strict=True)]  # `assemble` needs equal cuts of earlier dimensions
    found: list[Region] = []
    start = 0
    for shape, size in zip(shapes, sizes, strict=True):
        for r in regions(shape, (*common[:dim], *size[dim:])):
            moved = (*r.start[:dim], r.start[dim] + start, *r.start[dim + 1 :])
            found.append(Region(moved, r.count, r.size))
        start += shape[dim]
    return tuple(found)


def _merged(options: Options, shape: Shape) -> Shape:
    """Return the merged shape of a tensor."""
    if isinstance(options.merge, str):
        return as_matrix(shape)
    return merge_dims(shape, options.merge) if options.merge is not None and len(shape) > 2 else shape


def _stack_key(leaf: Leaf, region: Region) -> Any:
    treated = [getattr(leaf.options, name) for name in OF_STACKS]
    cut = (region.size, leaf.axes, leaf.exponents, leaf.by_row)
    return (leaf.place, leaf.dtype, *cut, leaf.options.betas[1], *treated)


def _stack(name: str, leaves: Sequence[Leaf], where: Sequence[tuple[int, int]]) -> Stack:
    sizes = [leaves[i].regions[r].blocks for i, r in where]
    stops = list(itertools.accumulate(sizes))
    members = tuple(Member(i, r, stop - size, stop) for (i, r), size, stop in zip(where, sizes, stops, strict=True))
    i, r = where[0]
    leaf = leaves[i]
    return Stack(name, leaf.regions[r].size, leaf.axes, leaf.exponents, leaf.options, leaf.dtype, members, leaf.by_row)

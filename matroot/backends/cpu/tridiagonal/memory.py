# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The memory of eight matrices side by side, to numba: the address of a vector.

It costs the compiler far less than an array does: no shape, no strides, no references to count. What it points
to must outlive it, and nothing tests an index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from matroot.backends.cpu.tridiagonal.lanes import (
    DOUBLE,
    LANES,
    PARTS,
    VECTOR,
    joined,
    lanes,
    new_type,
    parts_of,
    shuffle,
    wide,
)

memory = new_type("Memory", VECTOR.as_pointer())


def _doubles(builder: Any, place: Any, k: Any) -> Any:
    """Address of the k-th number."""
    return builder.gep(builder.bitcast(place, DOUBLE.as_pointer()), [k])


@intrinsic
def address(typingctx, array):
    """Return the address of a C-ordered float64 array."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.bitcast(data, VECTOR.as_pointer())

    return memory(array), codegen


@intrinsic
def after(typingctx, place, k):
    """Return the memory k vectors later."""
    return memory(place, types.intp), lambda context, builder, sig, args: builder.gep(args[0], [args[1]])


@intrinsic
def load(typingctx, place, k):
    """Load the k-th vector."""

    def codegen(context, builder, sig, args):
        return builder.load(builder.gep(args[0], [args[1]]), align=8)

    return lanes(place, types.intp), codegen


@intrinsic
def store(typingctx, place, k, value):
    """Write the k-th vector."""

    def codegen(context, builder, sig, args):
        builder.store(args[2], builder.gep(args[0], [args[1]]), align=8)
        return context.get_dummy_value()

    return types.void(place, types.intp, lanes), codegen


@intrinsic
def prefetch(typingctx, place, k):
    """Ask for the line of the k-th vector, which will be read; any address will do."""

    def codegen(context, builder, sig, args):
        whole, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
        at = builder.bitcast(builder.gep(args[0], [args[1]]), byte)
        read, near, data = whole(0), whole(3), whole(1)
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [byte], kind), [at, read, near, data])
        return context.get_dummy_value()

    return types.void(place, types.intp), codegen


@intrinsic
def number(typingctx, place, k):
    """Load the k-th number: that of lane k % 8 in vector k // 8."""
    return types.float64(place, types.intp), lambda context, builder, sig, args: builder.load(_doubles(builder, *args))


@intrinsic
def index(typingctx, place, k):
    """Load the k-th number, a whole one, as an index."""

    def codegen(context, builder, sig, args):
        return builder.fptosi(builder.load(_doubles(builder, *args)), args[1].type)

    return types.intp(place, types.intp), codegen


@intrinsic
def put(typingctx, place, k, value):
    """Write the k-th number."""

    def codegen(context, builder, sig, args):
        builder.store(args[2], _doubles(builder, args[0], args[1]))
        return context.get_dummy_value()

    return types.void(place, types.intp, types.float64), codegen


@intrinsic
def triangle(typingctx, i):
    """Return the start of row i of a lower triangle kept row by row: i (i + 1) / 2."""

    def codegen(context, builder, sig, args):
        one = ir.Constant(args[0].type, 1)
        return builder.lshr(builder.mul(args[0], builder.add(args[0], one)), one)

    return types.intp(types.intp), codegen


def _next(builder: Any, place: Any, k: Any) -> list[Any]:
    """Addresses of the vectors from the k-th on."""
    return [builder.gep(place, [builder.add(k, ir.Constant(k.type, t))]) for t in range(PARTS)]


def _rows(builder: Any, place: Any, i: Any, j: Any) -> list[Any]:
    """Addresses of the entries (i, j), (i + 1, j), ... of a lower triangle kept row by row."""
    one = ir.Constant(i.type, 1)
    step = builder.add(i, one)
    row = builder.lshr(builder.mul(i, step), one)
    found = []
    for _ in range(PARTS):
        found.append(builder.gep(builder.gep(place, [row]), [j]))  # the inner one is the same for all j
        row, step = builder.add(row, step), builder.add(step, one)
    return found


def _wide_access(places: Callable[..., list[Any]]) -> tuple[Any, Any]:
    """Code of a load and of a store of wide values whose vectors are at `places`."""

    def read(context, builder, sig, args):
        return joined(builder, [builder.load(p, align=8) for p in places(builder, *args)])

    def write(context, builder, sig, args):
        for x, p in zip(parts_of(builder, args[-1], PARTS), places(builder, *args[:-1]), strict=True):
            builder.store(x, p, align=8)
        return context.get_dummy_value()

    return read, write


_read_four, _write_four = _wide_access(_next)
_read_rows, _write_rows = _wide_access(_rows)


@intrinsic
def load_four(typingctx, place, k):
    """Four vectors, from the k-th on."""
    return wide(place, types.intp), _read_four


@intrinsic
def store_four(typingctx, place, k, value):
    """Write four vectors, from the k-th on."""
    return types.void(place, types.intp, wide), _write_four


@intrinsic
def load_rows(typingctx, place, i, j):
    """Entries (i, j) to (i + 3, j) of a lower triangle kept row by row."""
    return wide(place, types.intp, types.intp), _read_rows


@intrinsic
def store_rows(typingctx, place, i, j, value):
    """Write entries (i, j) to (i + 3, j) of a lower triangle."""
    return types.void(place, types.intp, types.intp, wide), _write_rows


def transposed(builder: Any, v: list[Any]) -> list[Any]:
    """Transpose as many vectors as each has numbers: off-diagonal blocks change places (Eklundh 1972)."""
    size = len(v)
    d = size // 2
    while d:
        for i in (i for i in range(size) if not i & d):
            a, b = v[i], v[i + d]
            low = [k if not k & d else size + k - d for k in range(size)]
            high = [size + k if k & d else k + d for k in range(size)]
            v[i], v[i + d] = (shuffle(builder, a, b, places) for places in (low, high))
        d //= 2
    return v


@intrinsic
def to_lanes(typingctx, source, at, step, count, target):
    """Eight neighbours, from the at-th number on, of each of `count` sources `step` numbers apart, as lanes.

    Lanes from `count` on repeat the last.
    """

    def codegen(context, builder, sig, args):
        source, at, step, count, target = args
        last = builder.sub(count, ir.Constant(count.type, 1))
        vectors = []
        for t in range(LANES):
            t = ir.Constant(count.type, t)
            t = builder.select(builder.icmp_signed("<", t, last), t, last)
            place = _doubles(builder, source, builder.add(at, builder.mul(t, step)))
            vectors.append(builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=8))
        for t, x in enumerate(transposed(builder, vectors)):
            builder.store(x, builder.gep(target, [ir.Constant(at.type, t)]), align=8)
        return context.get_dummy_value()

    return types.void(source, *[types.intp] * 3, target), codegen


@intrinsic
def from_lanes(typingctx, source, target, at, step, count):
    """Undo `to_lanes`."""

    def codegen(context, builder, sig, args):
        source, target, at, step, count = args
        places = [builder.gep(source, [ir.Constant(at.type, t)]) for t in range(LANES)]
        for t, x in enumerate(transposed(builder, [builder.load(p, align=8) for p in places])):
            t = ir.Constant(count.type, t)
            with cgutils.if_likely(builder, builder.icmp_signed("<", t, count)):
                place = _doubles(builder, target, builder.add(at, builder.mul(t, step)))
                builder.store(x, builder.bitcast(place, VECTOR.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(source, target, *[types.intp] * 3), codegen

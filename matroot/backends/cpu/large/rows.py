# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Parts of the rows of a matrix in vector registers, of either precision; one register, or four at a time.

An array here is flat, and a part begins at its k-th number. Nothing tests an index.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin

from matroot.backends.cpu.tridiagonal.lanes import new_type, shuffle
from matroot.backends.cpu.tridiagonal.memory import transposed

#: Bytes of a register.
REGISTER = 64
ELEMENTS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
#: The numba type of a part, by the precision and the number of registers, and the precision of each.
PARTS = {
    (kind, count): new_type(f"Row_{kind}_{count}", ir.VectorType(element, count * REGISTER // (kind.bitwidth // 8)))
    for kind, element in ELEMENTS.items()
    for count in (1, 4)
}
KINDS = {part: kind for (kind, _), part in PARTS.items()}


def places(context: Any, builder: Any, kind: Any, array: Any, k: Any) -> Any:
    """Address of the k-th number of an array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [k])


def _vector(context: Any, part: Any) -> Any:
    return context.get_value_type(part)


def _take(count: int) -> Any:
    @intrinsic
    def take(typingctx, array, k):
        part = PARTS[array.dtype, count]

        def codegen(context, builder, sig, args):
            place = places(context, builder, sig.args[0], *args)
            kind = _vector(context, sig.return_type).as_pointer()
            return builder.load(builder.bitcast(place, kind), align=KINDS[part].bitwidth // 8)

        return part(array, types.intp), codegen

    return take


#: Load a part of one register, or of four.
take_one, take_four = _take(1), _take(4)


@intrinsic
def keep(typingctx, array, k, part):
    """Write a part to the array."""

    def codegen(context, builder, sig, args):
        place = places(context, builder, sig.args[0], *args[:2])
        place = builder.bitcast(place, args[2].type.as_pointer())
        builder.store(args[2], place, align=KINDS[sig.args[2]].bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, part), codegen


def repeated(builder: Any, x: Any, vector: Any) -> Any:
    """Return a vector whose numbers are all x."""
    index = ir.IntType(32)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), x, ir.Constant(index, 0))
    return shuffle(builder, one, one, [0] * vector.count)


@intrinsic
def plus_multiple(typingctx, a, x, y):
    """Compute a + x y for a number x of the same precision."""

    def codegen(context, builder, sig, args):
        a, x, y = args
        vector, letter = a.type, "f" + str(KINDS[sig.args[0]].bitwidth)
        name = f"llvm.fmuladd.v{vector.count}{letter}"
        known = builder.module.globals.get(name)
        function = known or ir.Function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        return builder.call(function, [repeated(builder, x, vector), y, a])

    return a(a, KINDS[a], a), codegen


@intrinsic
def multiple(typingctx, x, y):
    """Compute x y for a number x of the same precision."""

    def codegen(context, builder, sig, args):
        return builder.fmul(repeated(builder, args[0], args[1].type), args[1])

    return y(KINDS[y], y), codegen


@infer_global(operator.add)
class _Sums(ConcreteTemplate):
    key = operator.add
    cases = [signature(part, part, part) for part in KINDS]  # noqa: RUF012


for _part in KINDS:
    lower_builtin(operator.add, _part, _part)(lambda context, builder, sig, args: builder.fadd(*args))


@intrinsic
def turn(typingctx, source, k, step, target, m, other):
    """Transpose a square tile as wide as a register; its rows are `step` and `other` numbers apart (Eklundh 1972)."""

    def codegen(context, builder, sig, args):
        source, k, step, target, m, other = args
        kind = sig.args[0].dtype
        size = REGISTER // (kind.bitwidth // 8)
        vector = ir.VectorType(ELEMENTS[kind], size)

        def place(array, which, at, apart, t):
            at = builder.add(at, builder.mul(apart, ir.Constant(at.type, t)))
            return builder.bitcast(places(context, builder, sig.args[which], array, at), vector.as_pointer())

        align = kind.bitwidth // 8
        v = [builder.load(place(source, 0, k, step, t), align=align) for t in range(size)]
        for t, x in enumerate(transposed(builder, v)):
            builder.store(x, place(target, 3, m, other, t), align=align)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen

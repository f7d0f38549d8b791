# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""A matrix times a vector, some rows of the matrix at a time; of a symmetric one, each number is read once for both.

Arrays are flat; rows are `step` numbers apart, and filled up to whole registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from matroot.backends.cpu.large.rows import ELEMENTS, REGISTER, places, repeated
from matroot.backends.cpu.large.tiles import ROWS


def _strip(count: int, mirrored: bool) -> Any:
    @intrinsic
    def strip(typingctx, S, s, step, u, a, y, b, row, columns):
        """Compute the product of `count` rows of S with u, and add that of the columns that mirror them to y.

        The rows begin at s, u at a, y at b, where the product is set from its number `row` on. If `mirrored`, they are
        rows `row` and on of a symmetric matrix; the first register of each is in the block on the diagonal, which is
        there whole, and everything is added to y.
        """
        kind = S.dtype

        def codegen(context, builder, sig, args):
            _, s, step, _, a, _, b, row, columns = args
            size, word = REGISTER // (kind.bitwidth // 8), s.type
            vector, align = ir.VectorType(ELEMENTS[kind], size), kind.bitwidth // 8

            def place(which, at):
                return places(context, builder, sig.args[which], args[which], at)

            def registers(which, at):
                return builder.bitcast(place(which, at), vector.as_pointer())

            def function(name, *parts):
                known = builder.module.globals.get(name)
                return known or ir.Function(builder.module, ir.FunctionType(*parts), name)

            letters = f"v{size}f{kind.bitwidth}"
            fma = function(f"llvm.fmuladd.{letters}", vector, [vector] * 3)
            total = function(f"llvm.vector.reduce.fadd.{letters}", vector.element, [vector.element, vector])
            starts = [builder.add(s, builder.mul(step, ir.Constant(word, t))) for t in range(count)]
            own = [builder.add(row, ir.Constant(word, t)) for t in range(count)]
            sums = [cgutils.alloca_once(builder, vector) for _ in range(count)]
            if mirrored:
                first = builder.load(registers(3, a), align=align)
                for start, x in zip(starts, sums, strict=True):
                    builder.store(builder.fmul(builder.load(registers(0, start), align=align), first), x)
                numbers = [builder.load(place(3, builder.add(a, at)), align=align) for at in own]
                numbers = [repeated(builder, x, vector) for x in numbers]
            else:
                numbers = []
                for x in sums:
                    builder.store(ir.Constant(vector, None), x)
            begin = ir.Constant(word, size if mirrored else 0)
            with cgutils.for_range_slice(builder, begin, columns, ir.Constant(word, size), word) as (j, _):
                right = builder.load(registers(3, builder.add(a, j)), align=align)
                below = builder.load(registers(5, builder.add(b, j)), align=align) if mirrored else None
                for t, (start, x) in enumerate(zip(starts, sums, strict=True)):
                    left = builder.load(registers(0, builder.add(start, j)), align=align)
                    builder.store(builder.call(fma, [left, right, builder.load(x)]), x)
                    if mirrored:
                        below = builder.call(fma, [left, numbers[t], below])
                if mirrored:
                    builder.store(below, registers(5, builder.add(b, j)), align=align)
            for at, x in zip(own, sums, strict=True):
                target = place(5, builder.add(b, at))
                begun = builder.load(target, align=align) if mirrored else ir.Constant(vector.element, 0.0)
                builder.store(builder.call(total, [begun, builder.load(x)], fastmath=("reassoc",)), target, align=align)
            return context.get_dummy_value()

        word = types.intp
        return types.void(S, word, word, u, word, y, word, word, word), codegen

    return strip


#: The product of ROWS rows of a matrix, of one, and of ROWS rows of a symmetric matrix with what mirrors them.
several_rows, one_row, mirrored_rows = _strip(ROWS, False), _strip(1, False), _strip(ROWS, True)

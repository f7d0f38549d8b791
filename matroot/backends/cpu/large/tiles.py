# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Products of matrices that lie in a cache, of either precision: a few rows of the product at a time, in registers.

BLAS packs its arguments first, and chooses its arithmetic by the name of a processor, which it may not know yet. Arrays
here are flat; rows of a matrix are `step` numbers apart, and it is 0 from n on, rows and columns, to whole registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from matroot.backends.cpu.large.rows import ELEMENTS, REGISTER, places, repeated, turn
from matroot.backends.cpu.tridiagonal.stage import stage

#: Rows and registers of a tile: as many sums at once as hide the latency of arithmetic, and fit into the registers.
LONG = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[-1]
ROWS, COUNT = (8, 2) if LONG else (4, 1)


def _tile(count: int, adds: bool) -> Any:
    @intrinsic
    def tile(typingctx, A, a, across, along, B, b, step, C, c, below, n):
        """Compute ROWS rows of C, from its c-th number on and `count` registers wide, or add to them.

        The number of A for row i and the k-th row of B is at a + i across + k along; rows of B are `step` numbers
        apart, those of C `below`.
        """
        kind = A.dtype

        def codegen(context, builder, sig, args):
            A, a, across, along, B, b, step, C, c, below, n = args
            size = REGISTER // (kind.bitwidth // 8)
            vector, align = ir.VectorType(ELEMENTS[kind], size), kind.bitwidth // 8
            word = a.type

            def vectors(which, array, at):
                starts = [builder.add(at, ir.Constant(word, size * t)) for t in range(count)]
                found = [places(context, builder, sig.args[which], array, at) for at in starts]
                return [builder.bitcast(place, vector.as_pointer()) for place in found]

            def after(start, i, apart):
                return builder.add(start, builder.mul(apart, ir.Constant(word, i)))

            name = f"llvm.fmuladd.v{size}f{kind.bitwidth}"
            known = builder.module.globals.get(name)
            fma = known or ir.Function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(count)] for _ in range(ROWS)]
            targets = [vectors(7, C, after(c, i, below)) for i in range(ROWS)]
            for row in sums:
                for s in row:
                    builder.store(ir.Constant(vector, None), s)
            with cgutils.for_range(builder, n, intp=word) as loop:
                k = loop.index
                right = [builder.load(v, align=align) for v in vectors(4, B, builder.add(b, builder.mul(k, step)))]
                left = builder.add(a, builder.mul(k, along))
                for i, row in enumerate(sums):
                    x = builder.load(places(context, builder, sig.args[0], A, after(left, i, across)), align=align)
                    x = repeated(builder, x, vector)
                    for y, s in zip(right, row, strict=True):
                        builder.store(builder.call(fma, [x, y, builder.load(s)]), s)
            for row, target in zip(sums, targets, strict=True):
                for s, v in zip(row, target, strict=True):
                    found = builder.load(s)
                    if adds:  # last, since it may be large beside the products
                        found = builder.fadd(builder.load(v, align=align), found)
                    builder.store(found, v, align=align)
            return context.get_dummy_value()

        word = types.intp
        return types.void(A, word, word, word, B, word, word, C, word, word, word), codegen

    return tile


def _products(adds: bool) -> Any:
    one, several = _tile(1, adds), _tile(COUNT, adds)

    @stage()
    def product(A, a, across, along, B, b, step, C, c, below, rows, columns, n, wide, half):
        """Set C = A B, or add to it, for parts of A, B and C that begin at a, b and c; as `tile`, with more rows.

        If `half`, C is symmetric, and its upper triangle and more below it are filled in.
        """
        j = 0
        while j < columns:
            some = COUNT * wide if j + COUNT * wide <= columns else wide
            for i in range(0, min(rows, j + some) if half else rows, ROWS):
                if some == wide:
                    one(A, a + i * across, across, along, B, b + j, step, C, c + i * below + j, below, n)
                else:
                    several(A, a + i * across, across, along, B, b + j, step, C, c + i * below + j, below, n)
            j += some

    return product


product, add_product = _products(False), _products(True)


@stage()
def multiply(A, B, C, step, n, wide, half):
    """C = A B for matrices of order n; `half` as for `product`."""
    columns = -(-n // wide) * wide
    product(A, 0, step, 1, B, 0, step, C, 0, step, n, columns, n, wide, half)


@stage()
def mirror(P, step, n, wide):
    """Copy what is above the diagonal to below it."""
    for i in range(0, n, wide):
        for r in range(i, min(i + wide, n)):
            for c in range(i, r):
                P[r * step + c] = P[c * step + r]
        for j in range(i + wide, n, wide):
            turn(P, i * step + j, step, P, j * step + i, step)


@stage()
def transpose(P, Q, step, n, wide):
    """Q = P^T."""
    for i in range(0, n, wide):
        for j in range(0, n, wide):
            turn(P, i * step + j, step, Q, j * step + i, step)

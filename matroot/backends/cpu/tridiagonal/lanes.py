# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Numba types of eight float64 numbers, one of each of eight matrices, of four times as many, and of their memory.

A kernel written on `lanes` reads like one for a single matrix and works on eight; that they stay in vector
registers is not left to the compiler's guess. `wide` is four vectors in one value, such as four rows of a
matrix at one column, or four poles, and `pair` is two, such as both ends of a spectrum: independent work, which hides
the latency of arithmetic. Beside a longer value, lanes are repeated. Where a machine's registers are shorter, LLVM uses
several.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

#: Matrices side by side, and vectors in a wide value.
LANES, PARTS = 8, 4

DOUBLE, INDEX = ir.DoubleType(), ir.IntType(32)
VECTOR, PAIR, WIDE = (ir.VectorType(DOUBLE, LANES * k) for k in (1, 2, PARTS))


def new_type(name: str, model: Any) -> Any:
    """Make a numba type whose values are LLVM values of type `model`."""
    kind = type(name, (types.Type,), {})

    @register_model(kind)
    class Model(models.PrimitiveModel):
        def __init__(self, dmm: Any, fe_type: Any) -> None:
            super().__init__(dmm, fe_type, model)

    return kind(name)


lanes, pair, wide = new_type("Lanes", VECTOR), new_type("Pair", PAIR), new_type("Wide", WIDE)


def longest(*kinds: Any) -> Any:
    """Return the type of what is computed from values of these types."""
    return next(kind for kind in (wide, pair, lanes) if kind in kinds)


def shuffle(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    """Return the vector of the numbers of a and b at `places`."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INDEX, len(places)), places))


def joined(builder: Any, parts: list[Any]) -> Any:
    """One vector of several of the same length."""
    while len(parts) > 1:
        both = list(range(2 * parts[0].type.count))
        parts = [shuffle(builder, a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def parts_of(builder: Any, value: Any, count: int) -> list[Any]:
    """Return the `count` equal parts of a vector."""
    size = value.type.count // count
    return [shuffle(builder, value, value, list(range(size * k, size * (k + 1)))) for k in range(count)]


def matched(builder: Any, values: Any) -> list[Any]:
    """Bring the values to one type: repeat lanes beside a longer value."""
    count = max(value.type.count for value in values)
    places = list(range(LANES)) * (count // LANES)
    return [v if v.type.count == count else shuffle(builder, v, v, places) for v in values]


def _operator(symbol: Any, instruction: str, arity: int) -> None:
    """Let `symbol` be one instruction on lanes, pairs and wide values."""
    operands = [(kind,) * arity for kind in (lanes, pair, wide)]
    if arity == 2:
        operands += [(lanes, pair), (pair, lanes), (lanes, wide), (wide, lanes)]
    cases = [signature(longest(*kinds), *kinds) for kinds in operands]
    infer_global(symbol)(type(f"Lanes_{instruction}", (ConcreteTemplate,), {"key": symbol, "cases": cases}))
    for kinds in operands:

        @lower_builtin(symbol, *kinds)
        def lower(context, builder, sig, args):
            return getattr(builder, instruction)(*matched(builder, args))


for _symbol, _instruction, _arity in (
    (operator.add, "fadd", 2),
    (operator.sub, "fsub", 2),
    (operator.mul, "fmul", 2),
    (operator.truediv, "fdiv", 2),
    (operator.neg, "fneg", 1),
):
    _operator(_symbol, _instruction, _arity)


def _call(name: str, builder: Any, *args: Any) -> Any:
    """LLVM's function `name` for vectors."""
    vectors = matched(builder, args)
    kind = vectors[0].type
    name = f"llvm.{name}.v{kind.count}f64"
    known = builder.module.globals.get(name)
    return builder.call(
        known or ir.Function(builder.module, ir.FunctionType(kind, [kind] * len(vectors)), name), vectors
    )


@intrinsic
def fma(typingctx, a, b, c):
    """Compute a b + c, rounded once if the machine can."""

    def codegen(context, builder, sig, args):
        return _call("fmuladd", builder, *args)

    return longest(a, b, c)(a, b, c), codegen


@intrinsic
def less(typingctx, a, v, wj, w, vj):
    """Compute a - (v wj + w vj): the sum is small beside a, so that there is one rounding error that matters."""

    def codegen(context, builder, sig, args):
        a, v, wj, w, vj = matched(builder, args)
        return builder.fsub(a, _call("fmuladd", builder, w, vj, builder.fmul(v, wj)))

    return a(a, v, wj, w, vj), codegen


@intrinsic
def total(typingctx, a):
    """Add up a wide value's four vectors."""

    def codegen(context, builder, sig, args):
        two = builder.fadd(*parts_of(builder, args[0], 2))
        return builder.fadd(*parts_of(builder, two, 2))

    return lanes(a), codegen


@intrinsic
def inner(typingctx, a, b):
    """Add up the four products of two wide values' vectors."""

    def codegen(context, builder, sig, args):
        (a, c), (b, d) = (parts_of(builder, x, 2) for x in args)
        two = _call("fmuladd", builder, a, b, builder.fmul(c, d))
        return builder.fadd(*parts_of(builder, two, 2))

    return lanes(a, b), codegen


@intrinsic
def both(typingctx, a, b):
    """Make a pair of two lanes."""
    return pair(a, b), lambda context, builder, sig, args: joined(builder, list(args))


@intrinsic
def first_of(typingctx, a):
    """Return the first lanes of a pair."""
    return lanes(a), lambda context, builder, sig, args: parts_of(builder, args[0], 2)[0]


@intrinsic
def second_of(typingctx, a):
    """Return the second lanes of a pair."""
    return lanes(a), lambda context, builder, sig, args: parts_of(builder, args[0], 2)[1]


@intrinsic
def sqrt(typingctx, a):
    """Square root."""
    return a(a), lambda context, builder, sig, args: _call("sqrt", builder, *args)


@intrinsic
def size(typingctx, a):
    """Absolute value."""
    return a(a), lambda context, builder, sig, args: _call("fabs", builder, *args)


@intrinsic
def signed(typingctx, a, b):
    """Return |a| with the sign of b."""
    return lanes(a, b), lambda context, builder, sig, args: _call("copysign", builder, *args)


@intrinsic
def where_less(typingctx, a, b, x, y):
    """x in the lanes where a < b, y in the others."""

    def codegen(context, builder, sig, args):
        a, b, x, y = matched(builder, args)
        return builder.select(builder.fcmp_ordered("<", a, b), x, y)

    return longest(a, b, x, y)(a, b, x, y), codegen


@intrinsic
def any_less(typingctx, a, b):
    """Return True if a < b in any lane."""

    def codegen(context, builder, sig, args):
        a, b = matched(builder, args)
        bits = ir.IntType(a.type.count)
        less = builder.bitcast(builder.fcmp_ordered("<", a, b), bits)
        return builder.icmp_unsigned("!=", less, ir.Constant(bits, 0))

    return types.boolean(a, b), codegen


@intrinsic
def to_single(typingctx, a):
    """Round to float32."""

    def codegen(context, builder, sig, args):
        short = builder.fptrunc(args[0], ir.VectorType(ir.FloatType(), LANES))
        return builder.fpext(short, VECTOR)

    return lanes(a), codegen


@intrinsic
def full(typingctx, number):
    """Put the same number in all lanes."""

    def codegen(context, builder, sig, args):
        x = context.cast(builder, args[0], sig.args[0], types.float64)
        one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), x, ir.Constant(INDEX, 0))
        return shuffle(builder, one, one, [0] * LANES)

    return lanes(number), codegen


@intrinsic
def full_wide(typingctx, number):
    """Put the same number in all lanes of four vectors."""

    def codegen(context, builder, sig, args):
        x = context.cast(builder, args[0], sig.args[0], types.float64)
        one = builder.insert_element(ir.Constant(WIDE, ir.Undefined), x, ir.Constant(INDEX, 0))
        return shuffle(builder, one, one, [0] * (LANES * PARTS))

    return wide(number), codegen

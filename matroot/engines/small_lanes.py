# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""A numba type of eight float64 numbers, one of each of eight matrices: a vector register.

A kernel written on it reads like one for a single matrix and works on eight; that they stay in registers is
not left to the compiler's guess. Where the machine's registers are shorter, LLVM uses several.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

#: Matrices side by side.
LANES = 8

_DOUBLE = ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, LANES)
_INDEX = ir.IntType(32)


class LanesType(types.Type):
    """Eight float64 numbers."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


lanes = LanesType()


def _operator(symbol: Any, instruction: str, arity: int) -> None:
    """Let `symbol` on lanes be one machine instruction."""
    case = signature(lanes, *[lanes] * arity)
    infer_global(symbol)(type(f"Lanes_{instruction}", (ConcreteTemplate,), {"key": symbol, "cases": [case]}))

    @lower_builtin(symbol, *[lanes] * arity)
    def lower(context, builder, sig, args):
        return getattr(builder, instruction)(*args)


for _symbol, _instruction, _arity in (
    (operator.add, "fadd", 2),
    (operator.sub, "fsub", 2),
    (operator.mul, "fmul", 2),
    (operator.truediv, "fdiv", 2),
    (operator.neg, "fneg", 1),
):
    _operator(_symbol, _instruction, _arity)


def _function(name: str, builder: Any, *args: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, args)


def _address(context, builder, kind, array, k):
    """Pointer to the k-th vector of a contiguous float64 array."""
    data = context.make_array(kind)(context, builder, array).data
    start = builder.mul(k, context.get_constant(types.intp, LANES))
    return builder.bitcast(builder.gep(data, [start]), _VECTOR.as_pointer())


@intrinsic
def load(typingctx, array, k):
    """The k-th vector of a flat float64 array."""

    def codegen(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        return builder.load(_address(context, builder, sig.args[0], args[0], index), align=8)

    return lanes(array, k), codegen


@intrinsic
def store(typingctx, array, k, value):
    """Write the k-th vector."""

    def codegen(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        builder.store(args[2], _address(context, builder, sig.args[0], args[0], index), align=8)
        return context.get_dummy_value()

    return types.void(array, k, value), codegen


@intrinsic
def full(typingctx, number):
    """The same number in all lanes."""

    def codegen(context, builder, sig, args):
        x = context.cast(builder, args[0], sig.args[0], types.float64)
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), x, ir.Constant(_INDEX, 0))
        mask = ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES)
        return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), mask)

    return lanes(number), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """a b + c, rounded once where the machine can."""

    def codegen(context, builder, sig, args):
        return _function(f"llvm.fmuladd.v{LANES}f64", builder, *args)

    return lanes(a, b, c), codegen


@intrinsic
def sqrt(typingctx, a):
    """Square root."""

    def codegen(context, builder, sig, args):
        return _function(f"llvm.sqrt.v{LANES}f64", builder, *args)

    return lanes(a), codegen


@intrinsic
def size(typingctx, a):
    """Absolute value."""

    def codegen(context, builder, sig, args):
        return _function(f"llvm.fabs.v{LANES}f64", builder, *args)

    return lanes(a), codegen


@intrinsic
def signed(typingctx, a, b):
    """|a| with the sign of b."""

    def codegen(context, builder, sig, args):
        return _function(f"llvm.copysign.v{LANES}f64", builder, *args)

    return lanes(a, b), codegen


@intrinsic
def where_less(typingctx, a, b, x, y):
    """x in the lanes where a < b, y in the others."""

    def codegen(context, builder, sig, args):
        a, b, x, y = args
        return builder.select(builder.fcmp_ordered("<", a, b), x, y)

    return lanes(a, b, x, y), codegen


@intrinsic
def any_less(typingctx, a, b):
    """Whether a < b in any lane."""

    def codegen(context, builder, sig, args):
        less = builder.bitcast(builder.fcmp_ordered("<", *args), ir.IntType(LANES))
        return builder.icmp_unsigned("!=", less, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(a, b), codegen


@intrinsic
def to_single(typingctx, a):
    """Rounded to float32."""

    def codegen(context, builder, sig, args):
        short = builder.fptrunc(args[0], ir.VectorType(ir.FloatType(), LANES))
        return builder.fpext(short, _VECTOR)

    return lanes(a), codegen


@intrinsic
def load_at(typingctx, array, k):
    """Eight neighbours of a flat float64 array, from its k-th number on."""

    def codegen(context, builder, sig, args):
        return builder.load(_place(context, builder, sig, args), align=8)

    return lanes(array, k), codegen


@intrinsic
def store_at(typingctx, array, k, value):
    """Write eight neighbours, from the k-th number on."""

    def codegen(context, builder, sig, args):
        builder.store(args[2], _place(context, builder, sig, args), align=8)
        return context.get_dummy_value()

    return types.void(array, k, value), codegen


def _place(context, builder, sig, args):
    data = context.make_array(sig.args[0])(context, builder, args[0]).data
    index = context.cast(builder, args[1], sig.args[1], types.intp)
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@intrinsic
def transposed(typingctx, rows):
    """The transpose of eight vectors: off-diagonal blocks of 4, 2, 1 change places (Eklundh 1972)."""

    def codegen(context, builder, sig, args):
        v = [builder.extract_value(args[0], i) for i in range(LANES)]
        d = LANES // 2
        while d:
            for i in (i for i in range(LANES) if not i & d):
                a, b = v[i], v[i + d]
                low = [k if not k & d else LANES + k - d for k in range(LANES)]
                high = [LANES + k if k & d else k + d for k in range(LANES)]
                v[i], v[i + d] = (builder.shuffle_vector(a, b, _mask(m)) for m in (low, high))
            d //= 2
        return context.make_tuple(builder, sig.return_type, v)

    kind = types.UniTuple(lanes, LANES)
    return kind(rows), codegen


def _mask(places: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_INDEX, LANES), places)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Functions that are parts of one kernel, compiled into it.

numba compiles a function that another calls on its own, for Python too, and again in each of its callers: with
a dozen of them nested three deep, most of the time it takes is for code that nobody runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from numba import types
from numba.core.compiler import Flags, compile_internal
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin

#: The stages in each kernel's code.
_compiled: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def stage(*results: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a stage: of kernels alone, not called from Python; `results` are the types it returns."""
    result = types.UniTuple(results[0], len(results)) if len(results) > 1 else (*results, types.void)[0]

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        class Template(AbstractTemplate):
            key = function

            def generic(self, args, kws):
                return signature(result, *(types.unliteral(a) for a in args))

        infer_global(function, types.Function(Template))

        @lower_builtin(function, types.VarArg(types.Any))
        def call(context, builder, sig, args):
            stages = _compiled.setdefault(context.active_code_library, {})
            if (function, sig) not in stages:
                stages[function, sig] = _compile(context, function, sig)
            return context.call_internal(builder, stages[function, sig], sig, args)

        return function

    return register


def _compile(context: Any, function: Callable[..., Any], sig: Any) -> Any:
    """Put the function's code beside its caller's; what describes it to a caller is returned."""
    flags = Flags()
    flags.error_model = "numpy"
    flags.nrt = flags.no_rewrites = True
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    library = context.active_code_library
    return compile_internal(
        context.typing_context, context, library, function, sig.args, sig.return_type, flags, {}
    ).fndesc

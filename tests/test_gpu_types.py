"""What device arrays meet in solves, every combination of kinds, asked of the installed cupy; no card is needed.

The double of cupy (tests/cupy_double.py) computes with numpy, and lets through what numpy lets through. Here all that
is done with its arrays in a set of solves is put down, and of each combination of a name and the kinds of its operands
cupy itself is asked:

- Does the call get as far as the device? It is made with cupy's own arrays, on memory that cupy is told of and does not
  own. Names, keywords, the dispatch of operators and all that is checked before the device is asked for are the real
  ones; views are made in full. Without a driver the device then answers with an error, which is what is expected.
- Is there a kernel? Elementwise functions and reductions choose one from a table by dtypes and scalars; they do so here
  by the call that they do it with (private names of cupy 14). What comes out has the dtype that numpy gives, and may
  be cast to `out`, also of operators in place.
- matmul, the eigenvalues and the mask of copyto have rules of their own, which are repeated here.

What it cannot see: what is checked after the device was asked for (axes of reductions, shapes that do not go together,
indices that are arrays, the dtypes of new arrays); whether kernels compile, launch, and compute what numpy does; what
cuBLAS and cuSOLVER say to their arguments; RawModule, streams, events and graphs; what none of the solves below does.
"""

import functools
import operator
import sys
import warnings
from fractions import Fraction

import cupy_double
import numpy as np
import pytest
from cuda_double import kernels
from cupy_double import Device, Recorder, ndarray
from test_gpu import METHODS, serves

from matroot import (
    Floor,
    PseudoInverse,
    Ridge,
    RootError,
    RootTracker,
    Shift,
    Status,
    TargetCondition,
    cond_pth_root,
    fractional_power,
    gallery,
    inverse_pth_root,
    pth_root,
    solve,
    solve_each,
)
from matroot._solve import solve_power
from matroot.backends.cuda import graphs
from matroot.backends.cuda.gpu import gpu
from matroot.backends.cuda.limits import GPULimits
from matroot.cli import tune_gpu

__all__ = ["kernels"]
cupy = pytest.importorskip("cupy")
pytestmark = pytest.mark.skipif(cupy.is_available(), reason="there is a card: tests/test_gpu_card.py runs on it")

RULES = (1e-4, Shift(relative=1e-2), TargetCondition(50.0), Floor(1e-2), PseudoInverse(1e-2), Ridge(1e-6, retries=2))
LIMITS = (
    GPULimits(kernels=1),
    GPULimits(graphs=1 << 20),
    GPULimits(fused=64, eigen=8, kernels=1, graphs=1 << 20, halves=8, batched=64),
)
DTYPES = ("float16", "float32", "float64", "complex64", "complex128", "int32", "int64")


# What is asked of the double


def stack(n, dtype, batch=2):
    A = np.stack([gallery.spd(n, 1e2, rng=i)[0] for i in range(batch)])
    A = A if dtype[0] != "i" else np.rint(50 * A + 50 * np.eye(n))
    return A.astype(dtype)


def spoiled(A):
    """With a NaN, a zero, an indefinite and an asymmetric matrix."""
    rows = [A[0], A[0] - 9 * np.eye(len(A[0])), 0 * A[0], A[0] + 9 * np.eye(len(A[0]), k=1)]
    return np.stack([*rows, rows[0] * np.nan] if A.dtype.kind != "i" else rows).astype(A.dtype)


def solves(monkeypatch):
    """Every method, rule, exponent, dtype and shortcut, with good matrices and bad ones."""
    for dtype in DTYPES:
        A = stack(6, dtype)
        given = ndarray(spoiled(A))
        computed = dtype in ("float32", "float64", "complex64", "complex128")  # the others are widened first
        for method in METHODS if computed else ("minimax", "eigen"):
            for p, inverse in ((2, True), (2, False), (3, True), (3, False)):
                if serves(method, p):
                    read(solve(given, p, method=method, inverse=inverse))
            solve(given, 2, method=method, regularization=1e-4, compute_dtype=dtype if computed else None)
        for rule in RULES:
            solve(given, 4, regularization=rule)
        solve(given, 2, method="eigen", regularization=RULES[1])
        for s in (0, 1, -1, 3, Fraction(-7, 4), Fraction(5, 2), -0.1234, 0.4321):
            solve_power(given, s, method="auto")
        cond_pth_root(ndarray(A), 2)
        inverse_pth_root(ndarray(A), 2)
        solve_each([ndarray(A[0]), ndarray(A[:, :3, :3]), ndarray(A[1])], 2)
        solve(ndarray(stack(40, dtype)[None]), 4, method="eigen")
        for rounding in ("tf32", "bfloat16", dtype) if dtype in ("float32", "complex64") else ():
            solve(given, 4, rtol=1e-1, compute_dtype=rounding)
    singles(ndarray(stack(6, "float64")[0]))
    slow_float64(monkeypatch)
    shortcuts()


def read(result):
    return result.converged, result.message, repr(result), result.sentence(0), result.sentence(-1)


def singles(A):
    """One matrix, whose status and condition number are of no dimension."""
    for p in (2, 3):
        read(solve(A, p))
        read(solve(-1 * A, p, inverse=False))
        pth_root(A, p)
    for error, bad in ((RootError, -1 * A), (ValueError, A * ndarray(np.triu(np.ones((6, 6)))))):
        with pytest.raises(error):
            inverse_pth_root(bad, 2)
    fractional_power(A, -0.3)
    tracker = RootTracker(2, rtol=0.1)
    for _ in range(2):
        read(tracker.update(A))
    solve(ndarray(np.zeros((0, 3, 3))), 2)


def slow_float64(monkeypatch):
    """A card that computes float32 in float32, and tries again in float64 for those who wait."""
    monkeypatch.setattr(Device, "ratio", 64)
    gpu.cache_clear()
    hard = gallery.spd(20, 1e7, rng=0)[0].astype("float32")
    for method in ("auto", "eigen", "coupled_newton"):
        inverse_pth_root(ndarray(np.stack([hard, np.eye(20, dtype="float32")])), 4, method=method)
    monkeypatch.setattr(Device, "ratio", 2)
    gpu.cache_clear()


def shortcuts():
    backend = gpu(0)
    for backend.limits in LIMITS:
        graphs.forget()
        for dtype in DTYPES[1:5]:
            for n in (6, 40):
                A = ndarray(spoiled(stack(n, dtype)))
                solve(A, 4, compute_dtype=dtype)
                solve(A, 1 if n == 6 else 2, inverse=n == 6, regularization=1e-4)
            solve(A, 4, method="eigen", compute_dtype=dtype)
        graphs.forget()
    tune_gpu.race(backend, str, "", 2, 20, LIMITS[0], GPULimits())


@pytest.fixture
def seen(kernels, monkeypatch):
    """(name, operands, keywords, result) of the first of each combination; cupy is cupy again."""
    monkeypatch.setattr(Recorder, "seen", {})
    monkeypatch.setattr(tune_gpu, "ROUNDS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # digits lost, roots that do not exist
        solves(monkeypatch)
    found = [(name, *example) for (name, *_), example in Recorder.seen.items()]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return found


# What is asked of cupy

OPERATORS = {
    f"__{short}__": getattr(cupy, name)
    for short, name in {
        **{"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide"},
        **{"mod": "remainder", "pow": "power", "lshift": "left_shift", "rshift": "right_shift"},
        **{"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "invert": "invert"},
        **{"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"},
        **{"eq": "equal", "ne": "not_equal", "neg": "negative", "pos": "positive", "abs": "absolute"},
    }.items()
}
IN_PLACE = {f"__i{name[2:]}": kernel for name, kernel in OPERATORS.items()}
REDUCTIONS = {
    "sum": cupy._core._routines_math.sum_auto_dtype,
    "max": cupy._core._routines_statistics.amax,
    "min": cupy._core._routines_statistics.amin,
    "all": cupy._core._routines_logic.all,
    "any": cupy._core._routines_logic.any,
}
OTHERS = {
    "where": cupy._sorting.search._where_ufunc,
    "clip": cupy._core._routines_math.clip,
    "conj": cupy.conjugate,
    "linalg.norm": cupy.linalg._norms._norm_ord2,  # of real vectors
    **REDUCTIONS,
}


def function(name):
    return functools.reduce(getattr, name.split("."), cupy)


def real(value):
    """The same with cupy's arrays, which lie where the double's lie."""
    if isinstance(value, ndarray):
        a = value._a
        memory = cupy.cuda.UnownedMemory(a.ctypes.data, max(a.nbytes, 1), value, 0)
        return cupy.ndarray(a.shape, a.dtype, cupy.cuda.MemoryPointer(memory, 0), a.strides)
    if isinstance(value, tuple | list):
        return type(value)(map(real, value))
    return value


def reaches_the_device(name, args, kwargs, result):
    """Call it; what is made without the device is compared, and errors that are not the device's are let out."""
    args, kwargs = real(args), {key: real(value) for key, value in kwargs.items()}
    try:
        if name.startswith("ndarray."):
            given = getattr(args[0], name.removeprefix("ndarray."))(*args[1:], **kwargs)
        elif name.startswith("__"):
            given = getattr(operator, name)(*args)
        else:
            given = function(name)(*args, **kwargs)
    except ImportError:  # cuBLAS and cuSOLVER are not installed
        return
    except Exception as error:
        if not type(error).__module__.startswith("cupy_backends.cuda"):
            raise
        return
    if isinstance(given, cupy.ndarray):
        assert (given.dtype, given.shape) == (result.dtype, result.shape)


def chosen(kernel, inputs, dtype=None):
    """The dtypes that come out of an elementwise function or a reduction; an error where it has no kernel."""
    Scalar = cupy._core._scalar.CScalar
    inputs = [x if isinstance(x, cupy.ndarray) else Scalar(x) for x in real(inputs)]
    dtype = None if dtype is None else np.dtype(dtype)
    op = kernel._ops.guess_routine(kernel.name, {}, inputs, dtype, getattr(kernel, "_out_ops", None))
    for x, wanted in zip(inputs, op.in_types, strict=True):
        if type(x) is Scalar:
            x.apply_dtype(wanted)  # the value must fit
    return [np.dtype(t) for t in op.out_types]


def has_a_kernel(name, args, kwargs, result):
    """Or follows a rule that allows it."""
    short = name.removeprefix("ndarray.")
    casting, out = "same_kind", kwargs.get("out")
    if name in ("__matmul__", "matmul"):
        dtypes = [np.promote_types(*(x.dtype for x in args))]
    elif name == "copyto":
        assert "where" not in kwargs or kwargs["where"].dtype == bool
        return
    elif name in ("linalg.eigh", "linalg.eigvalsh"):
        _, dtype = cupy.linalg._util.linalg_common_type(*args)
        dtypes = [np.dtype(dtype.char.lower()), dtype][: 2 if short == "linalg.eigh" else 1]
    elif short == "astype":
        assert args[0].dtype.kind != "c" or result.dtype.kind == "c", "the imaginary part is lost"
        return
    elif name in IN_PLACE:
        dtypes, out = chosen(IN_PLACE[name], args), args[0]
    elif short in OTHERS and isinstance(args[0], ndarray):
        if short == "where":
            args = (ndarray(args[0]._a.astype(bool)), *args[1:])
        dtypes = chosen(
            OTHERS[short], args[:1] if short in REDUCTIONS or short == "linalg.norm" else args, kwargs.get("dtype")
        )
    elif name in OPERATORS:
        dtypes = chosen(OPERATORS[name], args)
    elif not name.startswith(("__", "ndarray.")) and isinstance(kernel := function(name), cupy.ufunc):
        assert len(args) == kernel.nin
        dtypes, casting = chosen(kernel, args, kwargs.get("dtype")), kernel._default_casting
    else:
        return
    if out is not None:
        assert np.can_cast(dtypes[0], out.dtype, casting), f"{dtypes[0]} is not cast to {out.dtype}"
    else:
        results = result if isinstance(result, tuple) else (result,)
        assert [x.dtype for x in results] == dtypes, f"cupy gives {dtypes}, numpy {[x.dtype for x in results]}"


def refusal(*combination):
    """What cupy has against it, or nothing."""
    for question in (reaches_the_device, has_a_kernel):
        try:
            question(*combination)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""


def described(name, args, kwargs, result):
    show = lambda x: f"{x.dtype.name}[{x.ndim}]" if isinstance(x, ndarray | np.ndarray) else repr(x)  # noqa: E731
    return f"{name}({', '.join([*map(show, args), *(f'{k}={show(v)}' for k, v in kwargs.items())])})"


@pytest.mark.slow
def test_cupy_takes_all_that_solves_do(seen):
    refused = {described(*one): why for one in seen if (why := refusal(*one))}
    assert not refused, "\n".join(f"{what}: {why}" for what, why in refused.items())
    names = {name for name, *_ in seen}
    assert len(seen) > 500 and len(names) > 60
    assert {"__eq__", "__iadd__", "__setitem__", "ldexp", "where", "clip", "copyto", "linalg.eigh"} <= names


def device(dtype, *shape):
    return ndarray(np.ones(shape or (2, 2), dtype))


REFUSED = {
    "an IntEnum": ("__eq__", (device("int8"), Status.CONVERGED), {}, device("bool"), "Unsupported type"),
    "bits of floats": ("__and__", (device("float64"),) * 2, {}, device("float64"), "Wrong type"),
    "minus a bool": ("__neg__", (device("bool"),), {}, device("bool"), "not supported"),
    "an int too large": ("__add__", (device("int8"), 300), {}, device("int8"), "out of bounds"),
    "floats into ints": ("__iadd__", (device("int32"), device("float64")), {}, device("int32"), "is not cast"),
    "complex into real": ("__imul__", (device("float32"), 1j), {}, device("float32"), "is not cast"),
    "an out": ("multiply", (device("float64"), 2.0), {"out": device("int64")}, device("int64"), "is not cast"),
    "another dtype": ("__mul__", (device("float32"), np.float64(2)), {}, device("float32"), "cupy gives"),
    "a host array": ("maximum", (device("float64"), np.ones(2)), {}, device("float64"), "Unsupported type"),
    "a Python condition": ("where", (True, device("float64"), 0.0), {}, device("float64"), "no attribute 'astype'"),
    "clipped complex": ("clip", (device("complex64"), 0.0, 1.0), {}, device("complex64"), "Wrong type"),
    "a start of max": ("ndarray.max", (device("float32"),), {"initial": 0}, device("float32"), "initial"),
    "a keyword": ("zeros", (3,), {"device": 0}, device("float64", 3), "device"),
    "a name": ("linalg.sqrtm", (device("float64"),), {}, device("float64"), "no attribute"),
    "half precision": ("linalg.eigvalsh", (device("float16"),), {}, device("float32", 2), "float16"),
    "a copy": ("copyto", (device("int32"), device("float64")), {}, device("int32"), "Cannot cast"),
    "the imaginary part": ("ndarray.astype", (device("complex64"), "float32"), {}, device("float32"), "is lost"),
    "a view": ("ndarray.reshape", (device("float32"), 3), {}, device("float32", 3), ""),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_cupy_refuses_is_seen(case):
    *combination, words = case
    why = refusal(*combination)
    assert why and words in why


def test_the_double_puts_down_all_ways(monkeypatch):
    monkeypatch.setattr(Recorder, "seen", {})
    monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
    a = device("float32")
    np.float64(2) * a + 1  # by numpy's __array_ufunc__
    a -= 1j * 0 == a
    np.sum(a, axis=(0, 1))
    a[0] = 2 - a.max(0)
    names = [name for name, *_ in Recorder.seen]
    assert names == ["multiply", "__add__", "__eq__", "__isub__", "sum", "ndarray.max", "__sub__", "__setitem__"]

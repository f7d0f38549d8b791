"""A double of cupy on numpy: the names of cupy's that are used, and its rules about what may meet what.

As on a device, arrays are opaque: `bool`, `float`, `get`, a boolean mask as an index, anything that would have to wait
for a value raises `Waited` while `waiting_forbidden` holds. Numpy arrays do not mix with the double's, and results of
reductions are arrays. Every function called is recorded, with the names of its keywords and what it got, so that a test
can ask the real cupy whether it has them.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import numbers
import time
import types
from typing import ClassVar

import numpy as np


class Waited(AssertionError):  # noqa: N818
    """The device was asked for a value."""


class Recorder:
    forbidden = False
    waits = 0
    captured: ClassVar[list | None] = None
    calls: ClassVar[set[tuple[str, int, tuple[str, ...]]]] = set()
    methods: ClassVar[set[str]] = set()
    #: a dict while a test wants to know: of all that is done with device arrays, by name and kinds, the first example
    seen: ClassVar[dict | None] = None

    @classmethod
    def record(cls, name, args, kwargs, result):
        if cls.seen is not None:
            cls.seen.setdefault((name, kinds(args), kinds(sorted(kwargs.items()))), (args, kwargs, result))

    @classmethod
    def wait(cls, what):
        cls.waits += 1
        if cls.forbidden:
            raise Waited(what)


def kinds(value):
    """What of an argument cupy's choice of a kernel hangs on: dtypes and dimensions, not sizes and values."""
    if isinstance(value, tuple | list):
        return tuple(map(kinds, value))
    if isinstance(value, ndarray | np.ndarray):
        return type(value).__module__, value.dtype.name, value.ndim
    if type(value) is int:
        return "int", np.min_scalar_type(value).name
    return value if isinstance(value, str | bool | type | np.dtype) else type(value)


class Allocated(AssertionError):  # noqa: N818
    """A new array was made while a graph was captured."""


def launch(work):
    """Run what a kernel does, or, while a graph is captured, put it down for later, as a device does."""
    if Recorder.captured is None:
        work()
    else:
        Recorder.captured.append(work)


def allocate(what):
    if Recorder.captured is not None:
        raise Allocated(what)


@contextlib.contextmanager
def waiting_forbidden():
    Recorder.forbidden = True
    try:
        yield
    finally:
        Recorder.forbidden = False


def unwrap(value):
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a numpy array among device arrays")
    if isinstance(value, numbers.Number) and type(value) not in (bool, int, float, complex):
        if not isinstance(value, np.generic):  # such as an IntEnum
            raise TypeError(f"Unsupported type {type(value)}: cupy takes numpy's and Python's own numbers")
    if isinstance(value, tuple | list):
        return type(value)(unwrap(v) for v in value)
    return value


def wrap(value):
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, tuple):
        return tuple(wrap(v) for v in value)
    return value


def index(key):
    """An index as cupy takes it: slices, integers, None, integer arrays of either side; no masks."""
    if isinstance(key, tuple):
        return tuple(index(k) for k in key)
    if isinstance(key, ndarray):
        if key.dtype == bool:
            Recorder.wait("a boolean mask as an index")
        return key._a
    if isinstance(key, np.ndarray) and key.dtype == bool:
        Recorder.wait("a boolean mask as an index")
    return key


BINARY = "add sub mul truediv floordiv mod pow and or xor matmul lshift rshift".split()
REFLECTED = {f"__r{op}__": f"__{op}__" for op in BINARY}


class ndarray:  # noqa: N801
    __slots__ = ("_a", "_id")

    def __init__(self, a, device=None):
        assert isinstance(a, np.ndarray)
        self._a, self._id = a, Device.current if device is None else device

    for _name in ("shape", "dtype", "ndim", "size", "nbytes", "strides", "flags"):
        locals()[_name] = property(lambda self, name=_name: getattr(self._a, name))
    data = property(lambda self: types.SimpleNamespace(ptr=self._a.ctypes.data))
    real = property(lambda self: wrap(self._a.real))
    imag = property(lambda self: wrap(self._a.imag))
    device = property(lambda self: Device(self._id))

    def __len__(self):
        return len(self._a)

    def __getitem__(self, key):
        part = wrap(self._a[index(key)])
        Recorder.record("__getitem__", (self, key), {}, part)
        return part

    def __setitem__(self, key, value):
        Recorder.record("__setitem__", (self, key, value), {}, None)
        launch(lambda: self._a.__setitem__(index(key), unwrap(value)))

    def get(self):
        Recorder.wait("get()")
        return self._a.copy()

    def _waiting(name):  # noqa: N805
        def method(self, *args):
            Recorder.wait(f"{name}()")
            return getattr(self._a, name)(*args)

        return method

    for _name in ("__bool__", "__int__", "__float__", "__complex__", "__index__", "item", "tolist"):
        locals()[_name] = _waiting(_name)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def _operator(name):  # noqa: N805
        @np.errstate(all="ignore")
        def method(self, *args):
            allocate(name)
            result = wrap(getattr(self._a, name)(*(unwrap(a) for a in args)))
            operands = (*args, self) if name in REFLECTED else (self, *args)
            Recorder.record(REFLECTED.get(name, name), operands, {}, result)
            return result

        return method

    for _op in BINARY:
        locals()[f"__{_op}__"] = _operator(f"__{_op}__")
        locals()[f"__r{_op}__"] = _operator(f"__r{_op}__")
    for _op in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert", "pos"):
        locals()[f"__{_op}__"] = _operator(f"__{_op}__")

    def _in_place(name):  # noqa: N805
        @np.errstate(all="ignore")
        def method(self, other):
            Recorder.record(name, (self, other), {}, self)
            launch(lambda: quietly(getattr(self._a, name), unwrap(other)))
            return self

        return method

    for _op in ("add", "sub", "mul", "truediv", "floordiv", "pow", "and", "or", "xor"):
        locals()[f"__i{_op}__"] = _in_place(f"__i{_op}__")
    __hash__ = None

    def _plain(name):  # noqa: N805
        @np.errstate(all="ignore")
        def method(self, *args, **kwargs):
            Recorder.methods.add(name)
            if name not in ("reshape", "swapaxes", "view"):
                allocate(name)
            result = wrap(getattr(self._a, name)(*(unwrap(a) for a in args), **kwargs))
            Recorder.record(f"ndarray.{name}", (self, *args), kwargs, result)
            return result

        return method

    for _name in ("astype", "copy", "reshape", "swapaxes", "sum", "max", "min", "all", "any", "conj", "ravel", "view"):
        locals()[_name] = _plain(_name)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        assert method == "__call__"
        if out is not None:
            kwargs["out"] = out[0]
        return getattr(MODULE, ufunc.__name__)(*inputs, **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        name = func.__module__.removeprefix("numpy").strip(".")
        module = getattr(MODULE, name) if name else MODULE
        return getattr(module, func.__name__)(*args, **kwargs)


class Namespace(types.ModuleType):
    """numpy's functions of the same names, on the double's arrays."""

    def __init__(self, name, source):
        super().__init__(name)
        self._source = source

    def __getattr__(self, name):
        found = getattr(self._source, name)
        if not callable(found) or isinstance(found, type):
            return found
        prefix = self.__name__.removeprefix("cupy").strip(".")

        def call(*args, **kwargs):
            called, given = f"{prefix}.{name}".strip("."), (args, kwargs)
            Recorder.calls.add((called, len(args), tuple(sorted(kwargs))))
            if name not in ("asarray", "array"):  # the two ways from the host to the device
                args, kwargs = [unwrap(a) for a in args], {k: unwrap(v) for k, v in kwargs.items()}
            else:
                args = [a._a if isinstance(a, ndarray) else a for a in args]
            if name == "matmul" and Recorder.captured is not None:
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
            out = args[0] if name == "copyto" else kwargs.get("out")
            if out is None:
                allocate(name)
                result = wrap(quietly(found, *args, **kwargs))
                Recorder.record(called, *given, result)
                return result
            Recorder.record(called, *given, ndarray(out))
            launch(lambda: quietly(found, *args, **kwargs))
            return ndarray(out)

        return call


def quietly(function, *args, **kwargs):
    function = inverses if function is np.linalg.inv else function
    with np.errstate(all="ignore"):
        return function(*args, **kwargs)


def inverses(A):
    """As cuBLAS has it: what is singular raises nothing."""
    result = np.full_like(A, np.inf)
    for index in np.ndindex(A.shape[:-2]):
        with contextlib.suppress(np.linalg.LinAlgError):
            result[index] = np.linalg.inv(A[index])
    return result


def properties(device):
    return {"name": b"Double of a card", "major": 9, "minor": 0, "totalGlobalMem": 1 << 30}


class Event:
    """Time in milliseconds, as a device counts it."""

    def __init__(self, **options):
        self.at = None

    def record(self, stream=None):
        self.at = time.perf_counter()

    def synchronize(self):
        Recorder.wait("Event.synchronize()")


class Graph:
    def __init__(self, works):
        self.works = works
        self.launches = 0

    def launch(self, stream=None):
        self.launches += 1
        for work in self.works:
            work()


class Stream(contextlib.AbstractContextManager):
    """A stream; everything happens at once, so all that it does is to be the current one, and to capture."""

    ptr = 0
    current: ClassVar[list] = []
    made = 0

    def __init__(self, null=False, non_blocking=False):
        Stream.made += 1
        self.ptr, self.seen = 0 if null else 1000 + Stream.made, []

    def __enter__(self):
        Stream.current.append(self)
        return self

    def __exit__(self, *error):
        Stream.current.pop()

    def begin_capture(self):
        assert Recorder.captured is None and Stream.current[-1] is self
        Recorder.captured = []

    def end_capture(self):
        works, Recorder.captured = Recorder.captured, None
        return Graph(works)

    def record(self, event=None):
        self.seen.append(("record", event))
        return event

    def wait_event(self, event):
        self.seen.append(("wait", event))


def get_current_stream():
    return Stream.current[-1] if Stream.current else NULL


NULL = Stream(null=True)


class OutOfMemoryError(MemoryError):
    pass


class Device(contextlib.AbstractContextManager):
    """One card: as much memory as `memory` says, and the ratio of its rates."""

    current = 0
    memory = 1 << 30
    ratio = 2
    shared = 48 << 10

    def __init__(self, number=None):
        self.id = Device.current if number is None else number

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    @property
    def attributes(self):
        return {"SingleToDoublePrecisionPerfRatio": Device.ratio, "MaxSharedMemoryPerBlockOptin": Device.shared}

    def synchronize(self):
        Recorder.wait("Device.synchronize()")

    @property
    def mem_info(self):
        return Device.memory, 2 * Device.memory

    def __enter__(self):
        self.before, Device.current = Device.current, self.id
        return self

    def __exit__(self, *error):
        Device.current = self.before


def rounded(a, bits):
    """Single precision numbers to so many bits, to nearest, ties to even; what is not finite is left alone."""
    drop = 24 - bits
    parts = a.view(np.float32)
    words = parts.view(np.uint32).astype(np.uint64)
    words += (1 << (drop - 1)) - 1 + ((words >> drop) & 1)
    words &= ~np.uint64((1 << drop) - 1)
    near = words.astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(parts), near, parts).view(a.dtype)


class Cublas:
    """cupy.cuda.cublas: one function, on addresses, leading dimensions and strides, by columns; never in a capture."""

    __file__ = "cublas.so"

    calls: ClassVar[list] = []
    dtypes: ClassVar[dict] = {0: np.float32, 1: np.float64, 4: np.complex64, 5: np.complex128}
    bits: ClassVar[dict] = {77: 11, 75: 8}

    @classmethod
    def gemmStridedBatchedEx(
        cls, handle, turn_a, turn_b, m, n, k, alpha, A, ta, lda, sa, B, tb, ldb, sb, beta, C, tc, ldc, sc, *rest
    ):
        if Recorder.captured is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        assert handle == HANDLE
        cls.multiply(turn_a, turn_b, m, n, k, alpha, A, ta, lda, sa, B, tb, ldb, sb, beta, C, tc, ldc, sc, *rest)

    @classmethod
    def multiply(cls, turn_a, turn_b, m, n, k, alpha, A, ta, lda, sa, B, tb, ldb, sb, beta, C, tc, ldc, sc, *rest):
        count, compute, algo = rest
        dtype = np.dtype(cls.dtypes[tc])
        assert turn_a == turn_b == 0 and ta == tb == tc and algo == -1
        assert compute in ((68, 75, 77) if dtype.name in ("float32", "complex64") else (70,))
        assert lda >= m and ldb >= k and ldc >= m and min(m, n, k, count) > 0
        assert all(type(v) is int for v in (m, n, k, A, lda, sa, B, ldb, sb, C, ldc, sc, count))
        cls.calls.append((m, n, k, count, compute))

        def columns(address, rows, cols, lead, stride):
            size = dtype.itemsize * ((count - 1) * stride + (cols - 1) * lead + rows)
            flat = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
            steps = tuple(dtype.itemsize * s for s in (stride, 1, lead))
            return np.lib.stride_tricks.as_strided(flat, (count, rows, cols), steps)

        def scalar(address):
            return np.frombuffer((ctypes.c_char * dtype.itemsize).from_address(address), dtype)[0]

        assert scalar(alpha) == 1 and scalar(beta) == 0
        a, b, c = columns(A, m, k, lda, sa), columns(B, k, n, ldb, sb), columns(C, m, n, ldc, sc)
        assert not np.shares_memory(a, c) and not np.shares_memory(b, c)

        @np.errstate(all="ignore")
        def work():
            left, right = (rounded(x.copy(), cls.bits[compute]) if compute in cls.bits else x for x in (a, b))
            c[...] = left @ right

        launch(work)


def library(path):
    return {Cublas.__file__: Libcublas, Cusolver.__file__: Libcusolver}[path](path)


def c_functions(owner, *rows):
    for name, work, *types_ in rows:
        setattr(owner, name, ctypes.CFUNCTYPE(ctypes.c_int, *types_)(work))


class Cusolver:
    """cupy.cuda.cusolver, as far as parameters go."""

    __file__ = "cusolver.so"
    open = 0

    @classmethod
    def createParams(cls):
        cls.open += 1
        return 99

    @classmethod
    def destroyParams(cls, parameters):
        assert parameters == 99
        cls.open -= 1


class Libcusolver:
    """What ctypes finds in cuSOLVER: a batch of decompositions, by columns, in place."""

    fails: ClassVar[set] = set()

    def __init__(self, path):
        pointer, number, long, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
        problem = (*(pointer,) * 2, *(number,) * 2, long, number, pointer, long, number, pointer, number)
        self.stream = None
        c_functions(
            self,
            ("cusolverDnSetStream", self.set_stream, pointer, pointer),
            ("cusolverDnXsyevBatched_bufferSize", self.sizes, *problem, *(ctypes.POINTER(size),) * 2, long),
            ("cusolverDnXsyevBatched", self.solve, *problem, pointer, size, pointer, size, pointer, long),
        )

    def set_stream(self, handle, stream):
        self.stream = stream or 0
        return 0

    def sizes(self, *arguments):
        *_, device, host, count = arguments
        device[0], host[0] = 640 * count, 64
        return 0

    def solve(self, handle, params, vectors, lower, n, kind, A, lead, real, W, arithmetic, *rest):
        on_device, device, on_host, host, info, count = rest
        right = handle == HANDLE + 2 and params == 99 and lower == 0 and lead == n and arithmetic == kind
        spaces = device == 640 * count and host == 64 and on_device and on_host
        if not right or not spaces or self.stream != get_current_stream().ptr:
            return 3  # CUSOLVER_STATUS_INVALID_VALUE
        dtype, short = (np.dtype(Cublas.dtypes[k]) for k in (kind, real))
        assert short == np.empty(0, dtype).real.dtype

        def at(address, what, shape):
            memory = (ctypes.c_char * (what.itemsize * math.prod(shape))).from_address(address)
            return np.frombuffer(memory, what).reshape(shape)

        a, w, codes = at(A, dtype, (count, n, n)), at(W, short, (count, n)), at(info, np.dtype("int32"), (count,))
        for i in range(count):
            w[i], Q = np.linalg.eigh(np.triu(a[i]).T)  # by columns the lower triangle
            a[i] = Q.T if vectors else np.nan
            codes[i] = i in self.fails
        return 0


class Libcublas:
    """What ctypes finds in cuBLAS, as C sees it: a handle knows its stream and its work space."""

    def __init__(self, path):
        assert path == Cublas.__file__
        self.stream, self.space = None, 0
        pointer, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
        matrix = (pointer, number, number, long)
        product = (pointer, *(number,) * 5, pointer, *matrix, *matrix, pointer, *matrix, *(number,) * 3)
        c_functions(
            self,
            ("cublasCreate_v2", self.create, ctypes.POINTER(pointer)),
            ("cublasSetStream_v2", self.set_stream, pointer, pointer),
            ("cublasSetWorkspace_v2", self.set_space, pointer, pointer, ctypes.c_size_t),
            ("cublasGemmStridedBatchedEx", self.gemm, *product),
        )

    def create(self, handle):
        handle[0] = HANDLE + 1
        return 0

    def set_stream(self, handle, stream):
        self.stream, self.space = stream or 0, 0
        return 0 if handle == HANDLE + 1 else 1

    def set_space(self, handle, address, size):
        self.space = size
        return 0 if handle == HANDLE + 1 and address else 1

    def gemm(self, handle, *arguments):
        current = get_current_stream().ptr
        if handle != HANDLE + 1 or self.stream != current or not self.space:
            return 13  # CUBLAS_STATUS_EXECUTION_FAILED
        Cublas.multiply(*arguments)
        return 0


HANDLE = 4711


def _module():
    module = Namespace("cupy", np)
    module.__version__ = "14"
    module.linalg = Namespace("cupy.linalg", np.linalg)
    module.ndarray = ndarray
    module.is_available = lambda: True
    pool = types.SimpleNamespace(free_bytes=lambda: 0, used_bytes=lambda: 0, get_limit=lambda: 0, total_bytes=lambda: 0)
    module.get_default_memory_pool = lambda: pool
    module.cuda = types.SimpleNamespace(
        Device=Device,
        Stream=Stream,
        Event=Event,
        get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at),
        get_current_stream=get_current_stream,
        cublas=Cublas,
        get_cublas_handle=lambda: HANDLE,
        cusolver=Cusolver,
        device=types.SimpleNamespace(get_cusolver_handle=lambda: HANDLE + 2),
        runtime=types.SimpleNamespace(
            getDeviceCount=lambda: 2,
            getDeviceProperties=properties,
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
        ),
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    )
    state = {"f": 7}  # CUPY_TF32=1
    module._core = types.SimpleNamespace(get_compute_type=state.__getitem__, set_compute_type=state.__setitem__)
    return module


MODULE = _module()

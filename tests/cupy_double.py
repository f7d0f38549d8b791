"""A double of cupy on numpy: the names of cupy's that are used, and its rules about what may meet what.

As on a device, arrays are opaque: `bool`, `float`, `get`, a boolean mask as an index, anything that would have to wait
for a value raises `Waited` while `waiting_forbidden` holds. Numpy arrays do not mix with the double's, and results of
reductions are arrays. Every function called is recorded, with the names of its keywords and what it got, so that a test
can ask the real cupy whether it has them.
"""

from __future__ import annotations

import contextlib
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

    @classmethod
    def wait(cls, what):
        cls.waits += 1
        if cls.forbidden:
            raise Waited(what)


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


class ndarray:  # noqa: N801
    __slots__ = ("_a", "_id")

    def __init__(self, a, device=None):
        assert isinstance(a, np.ndarray)
        self._a, self._id = a, Device.current if device is None else device

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    real = property(lambda self: wrap(self._a.real))
    imag = property(lambda self: wrap(self._a.imag))
    device = property(lambda self: Device(self._id))

    def __len__(self):
        return len(self._a)

    def __getitem__(self, key):
        return wrap(self._a[index(key)])

    def __setitem__(self, key, value):
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
            return wrap(getattr(self._a, name)(*(unwrap(a) for a in args)))

        return method

    for _op in "add sub mul truediv floordiv mod pow and or xor matmul lshift rshift".split():
        locals()[f"__{_op}__"] = _operator(f"__{_op}__")
        locals()[f"__r{_op}__"] = _operator(f"__r{_op}__")
    for _op in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert", "pos"):
        locals()[f"__{_op}__"] = _operator(f"__{_op}__")

    def _in_place(name):  # noqa: N805
        @np.errstate(all="ignore")
        def method(self, other):
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
            return wrap(getattr(self._a, name)(*(unwrap(a) for a in args), **kwargs))

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
            Recorder.calls.add((f"{prefix}.{name}".strip("."), len(args), tuple(sorted(kwargs))))
            if name not in ("asarray", "array"):  # the two ways from the host to the device
                args, kwargs = [unwrap(a) for a in args], {k: unwrap(v) for k, v in kwargs.items()}
            else:
                args = [a._a if isinstance(a, ndarray) else a for a in args]
            out = args[0] if name == "copyto" else kwargs.get("out")
            if out is None:
                allocate(name)
                with np.errstate(all="ignore"):
                    return wrap(found(*args, **kwargs))
            launch(lambda: quietly(found, *args, **kwargs))
            return ndarray(out)

        return call


def quietly(function, *args, **kwargs):
    with np.errstate(all="ignore"):
        return function(*args, **kwargs)


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

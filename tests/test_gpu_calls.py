"""The public functions on cupy's double: refusals, memory, and the place of the caller's arrays."""

import contextlib
import inspect
import sys
import types
from fractions import Fraction

import numpy as np
import pytest
from cupy_double import Device, Recorder, ndarray, waiting_forbidden
from test_gpu import METHODS, blind, on_device

from matroot import (
    ConditionWarning,
    Eigen,
    Floor,
    Minimax,
    PseudoInverse,
    RootError,
    SchurNewton,
    Shift,
    gallery,
    inverse_pth_root,
    pth_root,
    select_method,
    solve,
)
from matroot._solve import solve_power
from matroot.backends import backend_of
from matroot.backends.arrays import Origin, take
from matroot.backends.cuda.gpu import gpu

pytestmark = pytest.mark.usefixtures("cupy")


class TestPlainFunctions:
    def test_wait_once(self):
        A, root = gallery.spd(9, 100, batch=(4,), rng=0)
        before = Recorder.waits
        X = inverse_pth_root(on_device(A), 2)
        assert Recorder.waits == before + 1
        assert np.allclose(X.get(), root(Fraction(-1, 2)))

    def test_failure_is_an_error(self):
        A = np.stack([np.eye(3), np.diag([1.0, 1.0, -1.0])])
        with pytest.raises(RootError, match=r"1 of 2 matrices has no root; the first, a\[1\], .*not all positive"):
            inverse_pth_root(on_device(A), 2)

    def test_asymmetry_is_a_value_error(self):
        with pytest.raises(ValueError, match=r"symmetric.*2\.5e-01.*gen"):
            pth_root(on_device([[4.0, 1.0], [0.0, 4.0]]), 2)

    def test_lost_digits_are_a_warning(self):
        A, _ = gallery.spd(8, 1e15, rng=0)
        with pytest.warns(ConditionWarning):
            inverse_pth_root(on_device(A), 1, method="eigen")


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"assume_a": "gen"}, r"Schur.*a\.get\(\)"),
            ({"method": "schur_newton"}, r"a\.get\(\)"),
            ({"method": SchurNewton(), "assume_a": "gen"}, r"a\.get\(\)"),
            ({"method": "newton_db"}, "2, 4, 8"),
            ({"method": "minimax", "regularization": Floor(1e-3)}, "Floor"),
            ({"method": "no such"}, "must be one of"),
        ],
    )
    def test_arguments(self, options, words):
        with pytest.raises(ValueError, match=words):
            blind(np.eye(3), 3, **options)

    def test_auto(self):
        A = on_device(np.eye(3))
        assert isinstance(select_method(A, 4), Minimax)
        assert isinstance(select_method(A, 4, regularization=Floor(1e-3)), Eigen)
        assert "GPU" in repr(select_method(A, 4))

    def test_other_arrays(self):
        with pytest.raises(TypeError, match="no backend for list"):
            backend_of([1.0])


class TestMemory:
    A = np.stack([gallery.spd(16, 10.0 ** (1 + k), rng=k)[0] for k in range(6)])

    def test_chunks(self, monkeypatch):
        whole = blind(self.A, 2)
        monkeypatch.setattr(Device, "memory", 2 * 10 * 16 * 16 * 8 * 5 // 4)  # room for two
        seen = []
        monkeypatch.setattr(
            type(backend_of(on_device(self.A))), "free_bytes", lambda e: seen.append(1) or Device.memory
        )
        parts = blind(self.A, 2)
        assert seen
        for name in ("x", "status", "residual", "cond", "n_iter"):
            assert (getattr(parts, name).get() == getattr(whole, name).get()).all()

    def test_too_large_says_what_fits(self, monkeypatch):
        monkeypatch.setattr(Device, "memory", 10 * 16 * 16 * 8)
        A = on_device(self.A)
        with pytest.raises(MemoryError, match=r"n = 16 need .* GiB.* n = 14 would fit.*CPU"):
            solve(A, 2)
        assert (A.get() == self.A).all()

    def test_running_out_on_the_way(self, monkeypatch, cupy):
        def full(*args, **kwargs):
            raise cupy.cuda.memory.OutOfMemoryError

        monkeypatch.setattr(cupy, "matmul", full, raising=False)
        A = on_device(self.A)
        with pytest.raises(MemoryError, match=r"6 of n = 16 need .* at a time would fit"):
            solve(A, 2)
        assert (A.get() == self.A).all()

    def test_no_room_for_the_result(self, monkeypatch, cupy):
        def full(*args, **kwargs):
            raise cupy.cuda.memory.OutOfMemoryError

        monkeypatch.setattr(cupy, "empty", full, raising=False)
        with pytest.raises(MemoryError, match="the result alone needs"):
            solve(on_device(self.A), 2)


class TestPlace:
    def test_the_arrays_own_device(self):
        assert backend_of(ndarray(np.eye(3), device=1)).device == 1

    def test_a_device_that_is_not_there(self, cupy, monkeypatch):
        with pytest.raises(RuntimeError, match="CUDA device 5 was asked for, and cupy sees 2"):
            gpu(5)
        monkeypatch.setattr(cupy, "is_available", lambda: False)
        gpu.cache_clear()
        with pytest.raises(RuntimeError, match="cupy sees none; use CPU arrays"):
            gpu(0)

    def test_without_cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", None)
        with pytest.raises(RuntimeError, match="needs cupy: pip install"):
            gpu(0)

    def test_float32_products_are_float32(self, cupy):
        """CUPY_TF32=1 is set in the double: lifted inside, restored outside, errors or not."""
        origin = types.SimpleNamespace(library="cupy")
        with gpu(0).here(origin):
            assert cupy._core.get_compute_type("f") == 1
        assert cupy._core.get_compute_type("f") == 7

    def test_float32_products_are_float32_in_overlapping_solves(self, cupy):
        first, second = (gpu(0).here(types.SimpleNamespace(library="cupy")) for _ in range(2))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert cupy._core.get_compute_type("f") == 1
        second.__exit__(None, None, None)
        assert cupy._core.get_compute_type("f") == 7

    def test_half_precision_is_widened_on_the_arrays_device(self):
        seen = []

        class Half(ndarray):
            def astype(self, dtype):
                seen.append(Device().id)
                return ndarray(self._a.astype(dtype), device=Device().id)

        values, origin = take(Half(np.eye(3, dtype="float16"), device=1))
        assert seen == [1] and values.device.id == origin.device.id == 1 and values.dtype == "float32"

    def test_jax_gets_its_own_dtype_back(self):
        """By DLPack, here from an array of the host that is no numpy array."""
        jax = pytest.importorskip("jax")

        class Elsewhere:
            def __init__(self, a):
                self.__dlpack__, self.__dlpack_device__ = a.__dlpack__, a.__dlpack_device__

            __dlpack__ = __dlpack_device__ = None

        values = Elsewhere(np.ones((2, 2), "float32"))
        for name in ("float32", "bfloat16", "float16"):
            origin = Origin("jax", jax.numpy.dtype(name), None)
            assert origin.give_back(values).dtype == name
            assert origin.give_back(values, as_input=False).dtype == "float32"

    def test_torchs_stream_is_the_one_used(self, cupy, monkeypatch):
        entered = []

        def from_external(stream):
            entered.append((*stream.__cuda_stream__(), Device.current))
            return contextlib.nullcontext()

        monkeypatch.setattr(cupy.cuda.Stream, "from_external", from_external, raising=False)
        for pointer, wanted in ((0, []), (77, [(0, 77, 1)])):
            stream = types.SimpleNamespace(cuda_stream=pointer)
            cuda = types.SimpleNamespace(current_stream=lambda device, stream=stream: stream)
            monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
            with gpu(1).here(types.SimpleNamespace(library="torch")):
                assert cupy.cuda.Device().id == 1
            assert entered == wanted


def test_everything_called_exists_in_cupy(monkeypatch):
    """What the double was called with in a run of every method, asked of the installed cupy."""
    A = np.stack([gallery.spd(40, 1e3, rng=0)[0]] * 2)
    Recorder.calls.clear()
    Recorder.methods.clear()
    for values in (A, A.astype("complex64"), A.astype("float16")):
        for method in METHODS:
            for inverse in (True, False):
                blind(values, 2, method=method, inverse=inverse, regularization=1e-4)
    blind(A, 2, regularization=Shift(relative=1e-2))
    blind(A, 2, regularization=PseudoInverse(1e-2))
    with waiting_forbidden():
        solve_power(on_device(A), -0.1234567890123)
    calls, methods = set(Recorder.calls), set(Recorder.methods)

    monkeypatch.delitem(sys.modules, "cupy")
    cupy = pytest.importorskip("cupy")
    for name, count, keywords in sorted(calls):
        function = cupy
        for part in name.split("."):
            function = getattr(function, part)
        if isinstance(function, cupy.ufunc):
            assert count <= function.nargs and set(keywords) <= {"out", "dtype"}, name
        elif name == "matmul":  # a generalized ufunc
            assert count == 2 and set(keywords) <= {"out"}
        else:
            inspect.signature(function).bind(*range(count), **dict.fromkeys(keywords))
    assert all(hasattr(cupy.ndarray, name) for name in methods)
    assert {"ldexp", "frexp", "linalg.eigh", "linalg.eigvalsh"} <= {name for name, _, _ in calls}
    assert "dl->d" in cupy.ldexp.types or "di->d" in cupy.ldexp.types
    assert "d->di" in cupy.frexp.types
    assert hasattr(cupy.cuda.Stream, "from_external") and hasattr(cupy.cuda, "get_cublas_handle")
    assert cupy._core.get_compute_type("f") == 1  # COMPUTE_TYPE_DEFAULT
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    pool = cupy.get_default_memory_pool()
    assert all(hasattr(pool, name) for name in ("free_bytes", "used_bytes", "get_limit"))
    assert hasattr(cupy.cuda.runtime, "cudaDevAttrSingleToDoublePrecisionPerfRatio")

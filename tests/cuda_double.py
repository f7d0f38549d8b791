"""cupy.RawModule for the double of cupy: the real .cu files, compiled for threads of the host.

What a launch is given is checked as a device would take it: dtypes, layouts, shapes, the size of shared memory.
"""

import ctypes
import functools
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import cupy_double
import numpy as np
import pytest

from matroot.backends.cuda import cusolver, libraries, stacks
from matroot.backends.cuda.gpu import gpu

SOURCES = {name: files("matroot.backends.cuda").joinpath(name) for name in ("small.cu", "stack.cu")}
NAMES = {
    "small.cu": [f"coupled<{kind}, {size}>" for kind in ("float", "double") for size in (1, 2, 3, 4)],
    "stack.cu": [f"{name}<{kind}>" for name in ("combine", "mirror", "ritz") for kind in ("float", "double")],
}
HERE = Path(__file__).parent


def command(*options, **sources):
    """A compiler's call for the host, or a reason to skip; `sources` replace files by others."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    chosen = {name: sources.get(name.removesuffix(".cu"), path) for name, path in SOURCES.items()}
    defined = [f'-D{name.replace(".", "_").upper()}="{path}"' for name, path in chosen.items()]
    return [compiler, "-std=c++20", "-pthread", "-Wno-unknown-pragmas", *options, *defined]


@functools.cache
def library(folder):
    """The kernels compiled for host threads."""
    where = Path(folder) / "kernels.so"
    made = [*command("-O2", "-shared", "-fPIC"), HERE / "cuda_on_host.cpp", "-o", where]
    subprocess.run(made, check=True)
    return ctypes.CDLL(str(where))


def address(array):
    return ctypes.c_void_p(array._a.ctypes.data)


class RawModule:
    """cupy.RawModule's part that is used: a function by name, launched with device arrays and numpy scalars."""

    library = None
    launched: list

    def __init__(self, *, code, options, name_expressions):
        (self.file,) = (name for name, path in SOURCES.items() if path.read_text() == code)
        assert options == ("-std=c++17",)
        self.names = name_expressions

    def get_function(self, name):
        assert name in self.names and name in NAMES[self.file]
        return Function(name)


class Function:
    def __init__(self, name):
        self.name, self.most = name, 48 << 10

    def __setattr__(self, key, value):
        key = {"max_dynamic_shared_size_bytes": "most"}.get(key, key)
        assert key in ("name", "most")
        object.__setattr__(self, key, value)

    def __call__(self, grid, block, arguments, *, shared_mem=0):
        assert shared_mem <= self.most and all(0 < g < 1 << 16 for g in grid[1:]) and grid[0] > 0
        assert all(a._a.flags.c_contiguous for a in arguments if isinstance(a, cupy_double.ndarray))
        assert all(isinstance(a, cupy_double.ndarray | np.int32 | np.float64) for a in arguments)
        RawModule.launched.append(self.name)
        wide = int("double" in self.name)
        work = getattr(self, self.name.split("<")[0])
        cupy_double.launch(lambda: work(wide, np.float64 if wide else np.float32, grid, block, arguments, shared_mem))

    def coupled(self, wide, real, grid, block, arguments, shared_mem):
        A, X, tops, off, n, steps, c, program, eps = arguments
        (B,) = grid
        size = int(self.name[-2])
        m = 16 * size
        assert block == (16, 16) and shared_mem == 4 * m * (m + 1) * (8 if wide else 4)
        assert all(a.dtype == real for a in (A, X, tops, off))
        assert A.shape == X.shape == (B, n, n) and tops.shape == off.shape == (B,) and 16 * (size - 1) < n <= m
        assert c.dtype == np.float64 and c.shape == (steps, 5) and program.dtype == np.int32
        failed = RawModule.library.run(
            B,
            wide,
            size,
            *map(address, (A, X, tops, off)),
            int(n),
            int(steps),
            *map(address, (c, program)),
            ctypes.c_double(eps),
        )
        assert not failed

    def combine(self, wide, real, grid, block, arguments, shared_mem):
        C, S, M, s, m, d, B, n = arguments
        assert C.dtype == S.dtype == M.dtype == real and C.shape == S.shape == M.shape == (B, n, n)
        assert len(block) == 1 and shared_mem == 0 and all(isinstance(v, np.float64) for v in (s, m, d))
        numbers = map(ctypes.c_double, (s, m, d))
        RawModule.library.run_combine(wide, *grid, *map(address, (C, S, M)), *numbers, int(B), int(n))

    def mirror(self, wide, real, grid, block, arguments, shared_mem):
        A, B, n = arguments
        assert A.dtype == real and A.shape == (B, n, n) and block == (32, 8)
        assert shared_mem == 32 * 33 * A.dtype.itemsize
        RawModule.library.run_mirror(wide, *grid, address(A), int(B), int(n))

    def ritz(self, wide, real, grid, block, arguments, shared_mem):
        A, start, ends, n, steps = arguments
        (B,) = grid
        assert A.dtype == real and start.dtype == ends.dtype == np.float64
        assert A.shape == (B, n, n) and start.shape == (n,) and ends.shape == (B, 2) and steps <= n
        assert block == (512,) and shared_mem == stacks.vectors(int(n)) and 1 <= steps <= 16
        RawModule.library.run_ritz(wide, B, *map(address, (A, start, ends)), int(n), int(steps))


@pytest.fixture
def kernels(monkeypatch, tmp_path_factory):
    """The double of cupy with kernels that run; the list of those launched."""
    monkeypatch.setattr(RawModule, "library", library(tmp_path_factory.getbasetemp()))
    monkeypatch.setattr(RawModule, "launched", [], raising=False)
    monkeypatch.setattr(cupy_double.MODULE, "RawModule", RawModule, raising=False)
    monkeypatch.setattr(libraries, "CDLL", cupy_double.library)
    monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
    gpu.cache_clear()
    stacks.kernel.cache_clear()
    cusolver._library.cache_clear()
    monkeypatch.setattr(cupy_double.Device, "shared", 227 << 10)
    yield RawModule.launched
    gpu.cache_clear()
    stacks.kernel.cache_clear()

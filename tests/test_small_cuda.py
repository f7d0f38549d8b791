"""small.cu without a card: run on host threads against the iteration in numpy, and compiled for every architecture."""

import ctypes
import functools
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import cupy_double
import numpy as np
import pytest
from cupy_double import ndarray, waiting_forbidden

from matroot import Minimax, Status, gallery, solve
from matroot.engines.gpu import GPU, gpu
from matroot.methods import fused
from matroot.methods.base import Problem
from matroot.methods.minimax import Minimax as Reference

SOURCE = files("matroot.engines").joinpath("small.cu")
NAMES = [f"coupled<{kind}, {size}>" for kind in ("float", "double") for size in (1, 2, 3, 4)]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
#: What a block can have on the least of them, sm_120; a double 4 x 4 tile needs more and goes another way there.
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "sm_120": 99 << 10}


@functools.cache
def on_host(folder):
    """small.cu compiled for host threads, or a reason to skip."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = Path(folder) / "small.so"
    main = Path(__file__).with_name("cuda_on_host.cpp")
    command = [compiler, "-std=c++20", "-O2", "-shared", "-fPIC", "-pthread", "-Wno-unknown-pragmas"]
    subprocess.run([*command, f'-DSMALL_CU="{SOURCE}"', main, "-o", library], check=True)
    return ctypes.CDLL(str(library))


class RawModule:
    """cupy.RawModule's part that is used: a function by name, launched with device arrays and numpy scalars."""

    library = None

    def __init__(self, *, code, options, name_expressions):
        assert code == SOURCE.read_text() and options == ("-std=c++17",)
        self.names = name_expressions

    def get_function(self, name):
        assert name in self.names and name in NAMES
        return functools.partial(self.launch, name)

    def launch(self, name, grid, block, arguments, *, shared_mem):
        assert block == (16, 16) and len(arguments) == 9
        wide, size = int("double" in name), int(name[-2])
        m = 16 * size
        assert shared_mem == 4 * m * (m + 1) * (8 if wide else 4)
        A, X, tops, off, n, steps, c, program, eps = arguments
        real, B = np.float64 if wide else np.float32, grid[0]
        assert all(a._a.dtype == real and a._a.flags.c_contiguous for a in (A, X, tops, off))
        assert A.shape == X.shape == (B, n, n) and tops.shape == off.shape == (B,)
        assert c._a.dtype == np.float64 and c.shape == (steps, 5) and program._a.dtype == np.int32
        assert type(n) is type(steps) is np.int32 and type(eps) is np.float64
        address = [ctypes.c_void_p(a._a.ctypes.data) for a in (A, X, tops, off, c, program)]
        failed = RawModule.library.run(
            B, wide, size, *address[:4], int(n), int(steps), *address[4:], ctypes.c_double(eps)
        )
        assert not failed


@pytest.fixture
def engine(monkeypatch, tmp_path_factory):
    """A GPU engine on the double, whose small matrices go to the kernel on host threads."""
    monkeypatch.setattr(RawModule, "library", on_host(tmp_path_factory.getbasetemp()))
    monkeypatch.setattr(cupy_double.MODULE, "RawModule", RawModule, raising=False)
    monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
    monkeypatch.setattr(GPU, "fused", 64)
    gpu.cache_clear()
    found = gpu(0)
    found.shared_bytes = 227 << 10
    yield found
    gpu.cache_clear()


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_as_the_iteration(n, dtype, engine):
    eps = float(np.finfo(dtype).eps)
    for s in (Fraction(-1, 2), Fraction(-1, 4), Fraction(-2, 3)) if n in (17, 33) else (Fraction(-1, 4),):
        A = np.stack([gallery.spd(n, 100.0, rng=k)[0] if n > 1 else np.eye(1) for k in range(2)]).astype(dtype)
        problem = Problem(s=s, floor=np.full(2, 1e-3))
        ours = fused.run(Reference(), ndarray(A.copy()), problem, engine)
        theirs = Reference().apply(ndarray(A.copy()), None, -s.numerator, problem, engine)
        X, Y = ours.x.get(), theirs.x.get()
        assert (np.linalg.norm(X - Y, 2, (-1, -2)) <= 100 * n * eps * np.linalg.norm(Y, 2, (-1, -2))).all()
        assert (ours.status.get() == theirs.status.get()).all()
        assert (ours.n_iter == theirs.n_iter).all() and ours.n_products == theirs.n_products


def races(source, folder):
    """What the thread sanitizer counts while `source` runs; a skip where there is none."""
    compiler, fixed = shutil.which("g++"), shutil.which("setarch")
    if compiler is None or fixed is None:
        pytest.skip("no g++, or no setarch to hold addresses still for the sanitizer")
    main, program = Path(__file__).with_name("cuda_races.cpp"), folder / "races"
    command = [compiler, "-std=c++20", "-O1", "-fsanitize=thread", "-pthread", "-Wno-unknown-pragmas"]
    made = subprocess.run([*command, f'-DSMALL_CU="{source}"', main, "-o", program], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no thread sanitizer: {made.stderr[-200:]}")
    run = subprocess.run([fixed, "-R", program], capture_output=True, text=True)
    if "done" not in run.stdout and "data race" not in run.stderr:
        pytest.skip(f"the thread sanitizer does not run here: {run.stderr[-200:]}")
    return run.stderr.count("WARNING: ThreadSanitizer: data race")


def test_no_barrier_is_missing(tmp_path):
    assert races(SOURCE, tmp_path) == 0


@pytest.mark.parametrize("k", [1, 2])
def test_a_missing_barrier_is_seen(k, tmp_path):
    parts = SOURCE.read_text().split("__syncthreads();")
    broken = tmp_path / "broken.cu"
    broken.write_text("__syncthreads();".join(parts[:k]) + "__syncthreads();".join(parts[k:]))
    assert races(broken, tmp_path) > 0


def test_through_solve(engine, monkeypatch):
    good, root = gallery.spd(20, 1e6, rng=0)
    batch = np.stack([good, np.full_like(good, np.nan), 0 * good, good - 0.3 * np.eye(20), 1e30 * good])
    launched = []
    launch = RawModule.launch
    monkeypatch.setattr(
        RawModule, "launch", lambda self, name, *a, **k: (launched.append(name), launch(self, name, *a, **k))
    )
    fused.kernel.cache_clear()
    for inverse in (True, False):
        s = Fraction(-1 if inverse else 1, 4)
        with waiting_forbidden():
            result = solve(ndarray(batch), 4, inverse=inverse)
        at_zero = Status.NOT_POSITIVE if inverse else Status.CONVERGED
        assert result.status.get().tolist() == [0, Status.NONFINITE_INPUT, at_zero, Status.NOT_POSITIVE, 0]
        bar = 3 * 1e6 / 4 * 2.0**-53 if inverse else 1e-12
        X = result.x.get()
        assert np.linalg.norm(X[0] - root(s), 2) <= bar * np.linalg.norm(root(s), 2)
    assert launched == ["coupled<double, 2>"] * 3


def test_what_does_not_fit_goes_another_way(engine):
    fits = lambda n, dtype: fused.fits(ndarray(np.zeros((1, n, n), dtype)), engine)  # noqa: E731
    assert fits(64, "float64") and fits(64, "float32")
    assert not fits(65, "float32") and not fits(8, "complex64")
    engine.shared_bytes = SHARED["sm_120"]
    assert fits(64, "float32") and fits(48, "float64") and not fits(49, "float64")
    engine.fused = 32
    assert fits(32, "float64") and not fits(33, "float64")


def test_it_takes_nothing_by_itself():
    """Until a card has shown that it is right and faster; see the note at `GPU.fused`."""
    assert GPU.fused == 0 and isinstance(Minimax(), Reference)


def instances():
    line = "template __global__ void {}(const {t}*, {t}*, {t}*, {t}*, int, int, const double*, const int*, double);"
    return "\n".join(line.format(name, t=name[8:].split(",")[0]) for name in NAMES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills(architecture, tmp_path, capsys):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on the PATH")
    source = tmp_path / "all.cu"
    source.write_text(f'#include "{SOURCE}"\n{instances()}\n')
    command = [nvcc, "-cubin", "--resource-usage", "-std=c++17", f"-arch={architecture}", source]
    run = subprocess.run([*command, "-o", tmp_path / "all.cubin"], capture_output=True, text=True)
    text = run.stdout + run.stderr
    assert run.returncode == 0, text
    registers = re.findall(r"Used (\d+) registers", text)
    with capsys.disabled():
        print(f"\nsmall.cu for {architecture}: registers {', '.join(registers)}")
    assert len(registers) == len(NAMES) and max(map(int, registers)) <= 255
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
    assert spills and set(spills) == {("0", "0", "0")}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_as_cupy_does_it(architecture):
    """By NVRTC, header-free, with the names that are asked for."""
    pytest.importorskip("cupy")
    from cupy.cuda import compiler

    try:
        program = compiler._NVRTCProgram(SOURCE.read_text(), "small.cu", name_expressions=tuple(NAMES), method="cubin")
        binary, names = program.compile((f"-arch={architecture}", "-std=c++17"))
    except (ImportError, RuntimeError, OSError) as missing:
        if "nvrtc" not in str(missing).lower() or "compil" in str(missing).lower():
            raise
        pytest.skip(f"no NVRTC: {missing}")
    assert len(binary) > 10_000 and set(names) == set(NAMES)

"""small.cu without a card: run on host threads against the iteration in numpy; and races in any kernel."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from cuda_double import SOURCES, command, kernels
from cupy_double import Stream, ndarray, waiting_forbidden

from matroot import Minimax, Status, gallery, solve
from matroot.backends.cuda.gpu import gpu
from matroot.backends.cuda.limits import GPULimits
from matroot.methods import minimax_kernel as fused
from matroot.methods.base import Problem

__all__ = ["kernels"]
#: What a block can have at most; sm_120 is why: a double 4 x 4 tile of small.cu needs more and goes another way there.
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "sm_120": 99 << 10}


@pytest.fixture
def backend(kernels, monkeypatch):
    """A GPU backend on the double, whose small matrices go to small.cu on host threads."""
    monkeypatch.setattr(gpu(0), "limits", GPULimits(fused=64))
    return gpu(0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_as_the_iteration(n, dtype, backend):
    eps = float(np.finfo(dtype).eps)
    for s in (Fraction(-1, 2), Fraction(-1, 4), Fraction(-2, 3)) if n in (17, 33) else (Fraction(-1, 4),):
        A = np.stack([gallery.spd(n, 100.0, rng=k)[0] if n > 1 else np.eye(1) for k in range(2)]).astype(dtype)
        problem = Problem(s=s, floor=np.full(2, 1e-3))
        ours = fused.run(Minimax(), ndarray(A.copy()), problem, backend)
        theirs = Minimax().apply(ndarray(A.copy()), None, -s.numerator, problem, backend)
        X, Y = ours.x.get(), theirs.x.get()
        assert (np.linalg.norm(X - Y, 2, (-1, -2)) <= 100 * n * eps * np.linalg.norm(Y, 2, (-1, -2))).all()
        assert (ours.status.get() == theirs.status.get()).all()
        assert (ours.n_iter == theirs.n_iter).all() and ours.n_products == theirs.n_products


def test_every_stream_copies_the_schedule_for_itself(backend):
    """What one stream copies is not there yet for another."""
    fused.on_device.cache_clear()
    first, second = Stream(), Stream()
    for stream in (first, second, first):
        with stream:
            solve(ndarray(np.eye(4)), 2)
    assert fused.on_device.cache_info().misses == 2


def races(folder, **sources):
    """What the thread sanitizer counts while the kernels run; a skip where there is none."""
    fixed = shutil.which("setarch")
    if fixed is None:
        pytest.skip("no setarch to hold addresses still for the sanitizer")
    main, program = Path(__file__).with_name("cuda_races.cpp"), folder / "races"
    compiler = command("-O1", "-fsanitize=thread", **sources)
    made = subprocess.run([*compiler, main, "-o", program], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no thread sanitizer: {made.stderr[-200:]}")
    run = subprocess.run([fixed, "-R", program], capture_output=True, text=True)
    if "done" not in run.stdout and "data race" not in run.stderr:
        pytest.skip(f"the thread sanitizer does not run here: {run.stderr[-200:]}")
    return run.stderr.count("WARNING: ThreadSanitizer: data race")


@pytest.mark.slow
def test_no_barrier_is_missing(tmp_path):
    assert races(tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "k"), [("small", 2), ("stack", 1), ("stack", 2), ("stack", 7)])
def test_a_missing_barrier_is_seen(name, k, tmp_path):
    parts = SOURCES[f"{name}.cu"].read_text().split("__syncthreads();")
    broken = tmp_path / "broken.cu"
    broken.write_text("__syncthreads();".join(parts[:k]) + "__syncthreads();".join(parts[k:]))
    assert races(tmp_path, **{name: broken}) > 0


@pytest.mark.slow
def test_through_solve(backend, kernels):
    good, root = gallery.spd(20, 1e6, rng=0)
    batch = np.stack([good, np.full_like(good, np.nan), 0 * good, good - 0.3 * np.eye(20), 1e30 * good])
    for inverse in (True, False):
        s = Fraction(-1 if inverse else 1, 4)
        with waiting_forbidden():
            result = solve(ndarray(batch), 4, inverse=inverse)
        at_zero = Status.SINGULAR if inverse else Status.CONVERGED
        assert result.status.get().tolist() == [0, Status.NONFINITE_INPUT, at_zero, Status.NOT_POSITIVE, 0]
        bar = 3 * 1e6 / 4 * 2.0**-53 if inverse else 1e-12
        X = result.x.get()
        assert np.linalg.norm(X[0] - root(s), 2) <= bar * np.linalg.norm(root(s), 2)
    assert kernels == ["coupled<double, 2>"] * 3


def test_what_does_not_fit_goes_another_way(backend):
    fits = lambda n, dtype: fused.fits(ndarray(np.zeros((1, n, n), dtype)), backend)  # noqa: E731
    assert fits(64, "float64") and fits(64, "float32")
    assert not fits(65, "float32") and not fits(8, "complex64")
    backend.shared_bytes = SHARED["sm_120"]
    assert fits(64, "float32") and fits(48, "float64") and not fits(49, "float64")
    backend.limits = GPULimits(fused=32)
    assert fits(32, "float64") and not fits(33, "float64")


def test_it_takes_nothing_by_itself():
    """Until a card has shown that it is right and faster; see the notes in `GPULimits`."""
    assert GPULimits() == GPULimits(fused=0, eigen=0, kernels=0, graphs=0)

"""The first root of an installation waits for no compiler; a process that has much to do compiles after all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import matroot
from matroot import gallery
from matroot.backends.cpu import background, kernels, mark
from matroot.backends.cpu import triangular as tri

ROOT = Path(matroot.__file__).parents[1]

ROOTS = """
import sys; sys.path.insert(0, {root!r})
import numpy as np
from matroot import Floor, gallery, solve
A, _ = gallery.spd(12, 100, batch=(9,), rng=0)
G = gallery.general(12, 100.0, rng=0)[0]
found = [solve(A, 2), solve(A[0], 3), solve(A.astype("f4"), 2), solve(A + 0j, 4), solve(A, 4, regularization=Floor(.1)),
         solve(gallery.spd(200, 100, rng=0)[0], 2), solve(G, 6, assume_a="gen"), solve(G + 1j * G.T, 3, assume_a="gen")]
assert all(r.converged.all() and r.residual.max() < 1e-6 for r in found), found
print(*[r.method.name for r in found])
"""
#: What processes without kernels compute with.
LAPACK = "eigen " * 6 + "schur_newton schur_newton"


def run(folder, when=None, before="", after="", **env):
    """What a fresh process prints, and its processor time."""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "OPENBLAS_NUM_THREADS": "1", **env}
    env.pop("MATROOT_COMPILE", None)
    if when is not None:
        env["MATROOT_COMPILE"] = when
    code = before + ROOTS.format(root=str(ROOT)) + after
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def shim(tmp_path):
    """A program in place of Python: it notes its arguments and what it inherits, and goes on until a file is there."""
    program = tmp_path / "python-shim"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@ $MATROOT_COMPILE" >> {tmp_path}/started\n'
        f"ls -l /proc/$$/fd > {tmp_path}/inherited\n"
        f"for _ in $(seq 600); do [ -e {tmp_path}/go ] && break; sleep 0.1; done\n"
        f"echo ended > {tmp_path}/ended\n"
    )
    program.chmod(0o755)
    return program


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def test_nothing_is_compiled(tmp_path):
    assert run(tmp_path, "never") == LAPACK
    assert not list(tmp_path.rglob("*.nbc"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_process_compiles_and_nobody_waits_for_it(tmp_path, shim):
    before = f"import sys; sys.executable = {str(shim)!r}\n"
    for _ in range(2):
        assert run(tmp_path / "cache", before=before) == LAPACK  # its pipes are closed while the other one runs
    assert wait_for(tmp_path / "started") == "-P -m matroot warm-up --background now\n"
    inherited = wait_for(tmp_path / "inherited")
    assert "pipe:" not in inherited
    assert ".tries" in inherited  # the lock
    (tmp_path / "go").touch()
    wait_for(tmp_path / "ended")


@pytest.mark.parametrize(
    ("before", "env"),
    (
        ("import sys; sys.frozen = True\n", {}),
        ("import sys; sys.executable = '/usr/bin/uwsgi'\n", {}),
        ("", {"NUMBA_DISABLE_JIT": "1"}),
        ("import matroot, os, sys\nif pid := os.fork(): sys.exit(os.waitpid(pid, 0)[1])\n", {}),
    ),
    ids=("frozen", "another program", "no jit", "forked"),
)
def test_no_process_is_started(before, env, tmp_path):
    assert run(tmp_path, before=before, **env) in (LAPACK, "")
    assert not list(tmp_path.rglob("*.tries"))


def test_a_compiler_that_fails_is_not_started_for_ever(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(background.subprocess, "run", lambda *args, **options: calls.append(args))
    for _ in range(background.TRIES + 5):
        background.fill(str(tmp_path), 1)
    assert len(calls) == background.TRIES
    background.fill(str(tmp_path), 2)  # other sources
    assert len(calls) == background.TRIES + 1
    background.fill(str(tmp_path / "missing"), 3)


@pytest.fixture
def undecided(monkeypatch):
    monkeypatch.setattr(kernels, "_decided", {})
    monkeypatch.setattr(kernels, "_left", {})
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    started = []
    monkeypatch.setattr(background, "fill", lambda *place: started.append(place))
    return started


@pytest.mark.parametrize("complete", (True, False))
@pytest.mark.parametrize("folder", (None, "/somewhere"))
@pytest.mark.parametrize("when", ("", "now", "never", "nonsense"))
def test_decision(undecided, monkeypatch, complete, folder, when):
    monkeypatch.setenv(kernels.VARIABLE, when)
    monkeypatch.setattr(mark, "complete", lambda: complete)
    monkeypatch.setattr(mark, "folder", lambda: folder)
    use = complete or when == "now" or (folder is None and when != "never")
    assert kernels.in_use() is use
    assert len(undecided) == (not use and when != "never")
    monkeypatch.setattr(mark, "complete", lambda: not complete)
    assert kernels.in_use() is use  # no luck in when the compiler is done
    kernels.use_kernels()
    assert kernels.in_use()


def test_auto_says_why_it_is_slow(undecided, monkeypatch):
    monkeypatch.setattr(mark, "complete", lambda: False)
    A, _ = gallery.spd(16, 100, batch=(5,), rng=0)
    result = matroot.solve(A, 4)
    assert result.method.name == "eigen"
    assert "matroot warm-up" in repr(result.method) == repr(matroot.select_method(A, 4))
    assert matroot.solve(A, 4, method="tridiagonal").method.name == "tridiagonal"  # is compiled, since it is asked for
    assert matroot.solve(A, 4).method.name == "eigen"
    matroot.use_kernels()
    assert matroot.solve(A, 4).method.name == "tridiagonal"


@pytest.mark.parametrize("when", ("", "never"))
def test_much_work_is_worth_a_compiler(undecided, monkeypatch, when):
    monkeypatch.setenv(kernels.VARIABLE, when)
    monkeypatch.setattr(mark, "complete", lambda: False)
    monkeypatch.setattr(kernels, "PATIENCE", 5.5 * kernels.lapack_seconds(50, 16))
    A, _ = gallery.spd(16, 100, batch=(50,), rng=0)
    matroot.solve(A, 4, method="eigen")  # its work is not one that a kernel would save
    matroot.solve(np.eye(4), 4, assume_a="gen")
    names = [matroot.solve(A, 4).method.name for _ in range(8)]
    assert names == ["eigen"] * 6 + (["tridiagonal"] * 2 if when == "" else ["eigen"] * 2)


def test_much_work_of_the_loops_is_too(undecided, monkeypatch):
    monkeypatch.setattr(mark, "complete", lambda: False)
    calls = [tri.loops_for(tri.INTERPRETED) is tri.interpreted() for _ in range(8)]
    assert calls == [True] * 4 + [False] * 4  # half a second each


@pytest.mark.parametrize("dtype", (np.float64, np.complex128))
def test_python_runs_the_same_loops(undecided, monkeypatch, dtype):
    G = gallery.general(30, 100.0, rng=0)[0].astype(dtype)
    matroot.use_kernels()
    assert tri.loops_for(30) is not tri.interpreted()
    compiled = matroot.pth_root(G, 5, assume_a="gen")
    kernels._decided["use"] = False
    assert tri.loops_for(30) is tri.interpreted()
    assert tri.loops_for(tri.INTERPRETED + 1) is not tri.interpreted()
    assert not hasattr(tri.interpreted().sqrt_block, "py_func")
    assert not hasattr(tri.interpreted().sqrt_block.__globals__["_column"], "py_func")
    X = matroot.pth_root(G, 5, assume_a="gen")
    assert np.linalg.norm(X - compiled) < 1e-12 * np.linalg.norm(X)


def test_optimizers_compile_whatever_was_decided(tmp_path):
    after = "import matroot_optim, matroot; print(matroot.select_method(A, 2).name)"
    assert run(tmp_path, "never", after=after).splitlines() == [LAPACK, "tridiagonal"]


def test_a_process_with_all_kernels_uses_them():
    matroot.use_kernels()
    mark.finish()
    code = "import numpy as np, matroot; print(matroot.select_method(np.eye(4), 2).name)"
    env = {name: value for name, value in os.environ.items() if name != "MATROOT_COMPILE"}
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == "tridiagonal\n"

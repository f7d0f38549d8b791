"""Nothing in the surroundings of a process stops a root: no compiler, no home, no place to write, a damaged cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import matroot
from matroot.backends import profile
from matroot.backends.cpu.compiled import Forgiving, compiled

ROOT = Path(matroot.__file__).parents[1]

ROOTS = """
import sys; sys.path.insert(0, {root!r})
import numpy as np
from matroot import gallery, solve
A, _ = gallery.spd(12, 100, batch=(9,), rng=0)
G = np.array([[2.0, 1.0, 0.0], [0.5, 3.0, 0.1], [0.2, 0.0, 1.0]])
for result in (solve(A, 2), solve(A, 2, method="tridiagonal"), solve(A[0], 3), solve(G, 3, assume_a="gen")):
    assert result.converged.all() and result.residual.max() < 1e-12, result
"""

HOMELESS = """
import os, pwd
def nobody(*_): raise KeyError("no such user")
pwd.getpwuid = nobody
"""
BROKEN = """
import sys, warnings
sys.modules["numba"] = None
warnings.filterwarnings("error")
warnings.filterwarnings("ignore", "numba cannot compile")
"""
FULL = """
from numba.core.caching import IndexDataCacheFile
def full(*_): raise OSError(28, "No space left on device")
IndexDataCacheFile._save_index = IndexDataCacheFile._save_data = full
"""


def damage(folder):
    for file in folder.rglob("*.nb[ic]"):
        file.write_bytes(file.read_bytes()[:40] + b"\xff" * 10)


def run(before, env, *flags, stdout=subprocess.PIPE):
    """Roots of all kinds in a fresh process: what it says, which should be nothing."""
    env = {name: value for name, value in {**os.environ, **env}.items() if value is not None}
    command = [sys.executable, *flags, "-c", before + ROOTS.format(root=str(ROOT))]
    done = subprocess.run(command, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "env", "flags"),
    (
        ("", {"NUMBA_DISABLE_JIT": "1"}, ()),
        (HOMELESS, {"HOME": None, "XDG_CONFIG_HOME": None}, ("-W", "error")),
        (BROKEN, {}, ()),
        (FULL, {"NUMBA_CACHE_DIR": "{tmp}"}, ()),
        ("", {"NUMBA_CACHE_DIR": "/dev/null/x", "XDG_CONFIG_HOME": "/dev/null", "TMPDIR": "/nowhere"}, ("-W", "error")),
        ("import sys; sys.stdout = sys.stderr = None\n", {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}, ("-OO",)),
        ("", {}, ("-I",)),
    ),
    ids=("no jit", "no home", "no numba", "full disk", "no places", "no streams", "isolated"),
)
def test_a_root_comes_out(before, env, flags, tmp_path):
    env = {name: value and value.replace("{tmp}", str(tmp_path)) for name, value in env.items()}
    assert run(before, env, *flags) == ""


@pytest.mark.slow
def test_a_damaged_cache_is_compiled_anew_and_mended(tmp_path):
    env = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert run("", env) == ""
    whole = {file.name for file in tmp_path.rglob("*.nb[ic]")}
    assert whole
    damage(tmp_path)
    assert run("", env) == ""
    assert all(not file.read_bytes().endswith(b"\xff" * 10) for file in tmp_path.rglob("*.nbi"))


class Broken:
    def __init__(self):
        self.flushed = 0

    def load_overload(self, *args):
        raise EOFError

    def save_overload(self, *args):
        raise OSError(28, "No space left on device")

    def flush(self):
        self.flushed += 1
        raise OSError


def test_a_cache_that_can_do_nothing():
    cache = Forgiving(Broken())
    assert cache.load_overload("sig", None) is None
    assert cache.save_overload("sig", None) is None
    assert cache.flushed == 1


def test_a_function_is_compiled_beside_such_a_cache(monkeypatch):
    import numba.core.dispatcher as dispatcher

    monkeypatch.setattr(dispatcher, "FunctionCache", lambda function: Broken())

    def thrice(x):
        return 3 * x

    assert compiled("float64(float64)")(thrice)(2.0) == 6.0
    assert compiled()(thrice)(2.0) == 6.0


@pytest.mark.slow
def test_no_home_is_no_profile(monkeypatch, capsys):
    from matroot.cli.command import main

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("MATROOT_PROFILE", "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(profile.Path, "home", homeless)
    profile.limits.cache_clear()
    try:
        assert profile.limits() == profile.Limits()
        assert main(["info"]) == 0
        assert "built in" in capsys.readouterr().out
        assert main(["tune"]) == 1
        assert "let MATROOT_PROFILE name a file" in capsys.readouterr().err
    finally:
        profile.limits.cache_clear()

"""Importing brings little along, and every public name when it is first used."""

import ast
import importlib
import os
import subprocess
import sys

import pytest
from test_project import ROOT

import matroot

HEAVY = ("numba", "cupy", "torch", "jax", "matplotlib", "scipy", "pandas")


def fresh(code):
    """Run code in a process of its own, and return what it prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout


class TestImport:
    """`import matroot` imports little, and every public name when it is first used."""

    def test_a_cpu_import_loads_nothing_of_the_gpu(self):
        loaded = "print(len([m for m in sys.modules if m.startswith('matroot.')]))"
        root = "import numpy; matroot.solve(numpy.eye(3), 2)"
        code = f"import sys, matroot; {loaded}; {root}; {loaded}; print(*sys.modules)"
        of_import, of_root, modules = fresh(code).splitlines()
        assert int(of_import) <= 10
        assert int(of_root) <= 60
        ours = [m for m in modules.split() if m.startswith("matroot.")]
        assert "matroot.pipeline.kernel" in ours
        assert not [m for m in ours if "cuda" in m or "device" in m or m.startswith("matroot.methods.minimax")]

    def test_type_checkers_see_the_same_names(self):
        names, homes = [], {"gallery": "matroot"}
        for node in ast.parse((ROOT / "matroot" / "__init__.pyi").read_text()).body:
            if isinstance(node, ast.ImportFrom):
                homes |= {alias.name: node.module for alias in node.names}
            elif isinstance(node, ast.Assign):
                names = ast.literal_eval(node.value)
        assert names == matroot.__all__ == sorted(homes)
        for name, home in homes.items():
            assert getattr(matroot, name) is getattr(importlib.import_module(home), name)

    def test_a_name_is_found_in_every_way(self):
        fresh("from matroot import *; solve, gallery.spd, Ridge")
        fresh("import matroot.gallery; matroot.gallery.spd, matroot.solve")
        assert "CoupledNewton" in fresh("import matroot; help(matroot)")
        assert fresh("import matroot, pickle; print(pickle.loads(pickle.dumps(matroot.Ridge(0.5))))").startswith(
            "Ridge"
        )
        with pytest.raises(AttributeError, match="module 'matroot' has no attribute 'slove'"):
            matroot.slove  # noqa: B018

    def test_two_threads_may_be_first(self):
        code = """
import sys, threading, matroot
sys.setswitchinterval(1e-6)
barrier, found = threading.Barrier(8), []
def use(name):
    barrier.wait()
    found.append(getattr(matroot, name))
names = ["solve", "RootTracker", "solve_each", "polar"] * 2
threads = [threading.Thread(target=use, args=(name,)) for name in names]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(len(found), len(set(found)))
"""
        assert fresh(code).split() == ["8", "4"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_a_fork_waits_for_a_name(self):
        """A child that inherits a half-imported module waits for ever for the thread that it has not."""
        code = """
import os, signal, sys, threading, time, warnings, matroot
warnings.simplefilter("ignore")
thread = threading.Thread(target=lambda: matroot.solve)
thread.start()
time.sleep(0.01)
child = os.fork()
if child == 0:
    signal.alarm(30)
    matroot.solve
    os._exit(0)
thread.join()
print(os.waitpid(child, 0)[1])
"""
        assert fresh(code).strip() == "0"


@pytest.mark.parametrize("module", ("matroot", "matroot.cli", "matroot_optim"))
def test_import_brings_nothing_along(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    assert fresh(code).strip() == "[]"
    if module == "matroot":
        code = f"import sys; from matroot import *; print([m for m in {HEAVY} if m in sys.modules])"
        assert fresh(code).strip() == "[]"

"""Types as users see them: an array of one kind goes in, and the same kind comes out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import torch

import matroot
import matroot_optim
import matroot_optim.torch

a: npt.NDArray[np.float64] = np.eye(3)
assert_type(matroot.inverse_pth_root(a, 4), npt.NDArray[np.float64])
assert_type(matroot.sqrtm(a), npt.NDArray[np.float64])
assert_type(matroot.solve(a, 2), matroot.RootResult[npt.NDArray[np.float64]])
assert_type(matroot.solve(a, 2).x, npt.NDArray[np.float64])
assert_type(matroot.solve(a, 2).message, str)
assert_type(matroot.solve_each([a, a], 2)[0].x, npt.NDArray[np.float64])

t: torch.Tensor = torch.eye(3)
assert_type(matroot.inverse_pth_root(t, 4), torch.Tensor)
assert_type(matroot.solve(t, 2, regularization=matroot.Ridge(1e-6)).x, torch.Tensor)

core = matroot_optim.Shampoo(1e-3)
state = core.init({"w": a})
assert_type(state, matroot_optim.State)
assert_type(state.step, int)
print(core.plan({"w": a}).over_adam + 1.0)

model: torch.nn.Module = torch.nn.Linear(3, 2)
optimizer = matroot_optim.torch.Shampoo(model, lr=1e-3)
optimizer.step()
"""

WRONG = """
import numpy as np

import matroot

matroot.solve([[1.0]], 2)
matroot.inverse_pth_root(np.eye(2), "4")
matroot.solve(np.eye(2), 2).residuals
matroot.slove
"""


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """What mypy says of a program; what it has learnt of torch and the packages serves the next one."""
    folder = tmp_path_factory.mktemp("mypy")
    link = folder / "packages"
    link.mkdir()
    for name in ("matroot", "matroot_optim"):
        (link / name).symlink_to(ROOT / name)
    (folder / "mypy.ini").write_text(
        f"[mypy]\nstrict = true\nmypy_path = {link}\n\n[mypy-torch.*]\nfollow_imports = normal\n"
    )

    def run(text):
        (folder / "program.py").write_text(text)
        command = [sys.executable, "-m", "mypy", "--cache-dir", "cache", "program.py"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_program_of_a_user(mypy):
    said = mypy(PROGRAM)  # what it says of the packages themselves, it keeps to itself once installed
    assert "program.py:" not in said, said
    assert "Found" in said or "Success" in said


@pytest.mark.slow
def test_wrong_calls_are_seen(mypy):
    said = mypy(WRONG)
    assert said.count("program.py:") == 4, said


@pytest.mark.slow
def test_pyright_sees_the_same(tmp_path):
    for name, text in (("program.py", PROGRAM), ("wrong.py", WRONG)):
        (tmp_path / name).write_text(text)
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "standard", "include": ["program.py", "wrong.py"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    files = [Path(one["file"]).name for one in found if one["severity"] == "error"]
    assert files == ["wrong.py"] * 4, found


def test_both_packages_say_that_they_are_typed():
    for name in ("matroot", "matroot_optim"):
        assert (ROOT / name / "py.typed").exists()

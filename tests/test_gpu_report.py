"""asv_benchmarks/gpu_report.py on the double of cupy: the table is whole, and an error costs its own row only."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_double import kernels
from cupy_double import MODULE, Recorder, Waited

from matroot import gallery
from matroot.backends.cuda import graphs, stacks

__all__ = ["kernels"]
PATH = Path(__file__).parents[1] / "asv_benchmarks" / "gpu_report.py"


@pytest.fixture
def report(kernels, monkeypatch):
    """The script with matrices small enough for the double."""
    monkeypatch.syspath_prepend(PATH.parent)
    spec = importlib.util.spec_from_file_location("gpu_report", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_report", module)
    spec.loader.exec_module(module)
    sizes = {
        "LAYERS": (2, 20),
        "SMALL": (2, 16),
        "REPEATED": (2, 20),
        "MIXED": (2, 20),
        "LARGE": 16,
        "ROUNDS": 1,
        "PROOFS": (16, 70),
    }
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    questions = {
        "SMALL": (4,),
        "JACOBI": (16,),
        "MANY": 2,
        "SHAPES": ((2, 20),),
        "BYTES": (1 << 16,),
        "HALVES": (40,),
        "BATCHED": (24,),
        "NUMBERS": 1600,
        "ROUNDS": 1,
    }
    for name, value in questions.items():
        monkeypatch.setattr(module.tune_gpu, name, value)

    def waits(side):
        Recorder.forbidden = True
        try:
            side()
        except Waited:
            return 1
        finally:
            Recorder.forbidden = False
        return 0

    monkeypatch.setattr(module, "waits", waits)
    yield module
    graphs.forget()


@pytest.mark.slow
def test_the_whole_table(report, tmp_path, capsys):
    where = tmp_path / "figures.json"
    assert report.main(["--json", str(where)]) == 0
    found = json.loads(where.read_text())
    assert found["failed"] == {} and found["left_out"] == []
    assert set(found["machine"]) == {"card", "driver", "versions", "date"}
    assert "Double of a card (sm_90)" in found["machine"]["card"]
    assert set(found["limits"]) == {"fused", "eigen", "jacobi", "batched", "kernels", "graphs", "halves"}
    rows = {row["what"]: row for row in found["rows"]}
    assert all(row["value"] <= 1e-11 for what, row in rows.items() if "distance of the root" in what)
    assert all(row["value"] == 0 for what, row in rows.items() if "waits" in what or "new memory" in what)
    promised = {row["promise"] for row in found["rows"]} - {""}
    accuracy = {"<= 1e-11", "<= 1e-6", "<= 0.1", "< 1e-8"}
    assert promised == accuracy | {">= 70", ">= 60", ">= 3", ">= 10", "<= 1.5", "0"}  # >= 20 needs torch
    out = capsys.readouterr().out
    assert all(what in out for what in rows)


@pytest.mark.slow
def test_what_fails_is_named_and_the_rest_goes_on(report, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("CUDA_ERROR_INVALID_VALUE")

    monkeypatch.setattr(stacks, "combine", broken)
    monkeypatch.setattr(report, "precision", broken)
    where = tmp_path / "figures.json"
    assert report.main(["--json", str(where)]) == 1
    found = json.loads(where.read_text())
    assert {"stack.cu", "stack.cu, n = 16"} <= set(found["failed"])
    assert any("looped coupled Newton / " in row["what"] for row in found["rows"])
    assert found["limits"]["kernels"] == 0


def test_the_baselines_are_right(report):
    torch = pytest.importorskip("torch")
    A, root = gallery.spd(30, 1e3, batch=(2,), rng=0)
    Y = root(-1 / 4)
    X = report.torch_eigh(torch, torch.from_numpy(A), 4).numpy()
    assert np.allclose(X, Y)
    for library in (torch, None):
        loop = report.looped_newton(np, library, A.copy(), 4)
        assert np.allclose(np.stack([np.asarray(x) for x in loop()]), Y, atol=2e-3)  # its ridge is 1e-6 ||A||
    assert np.allclose(report.cupy_eigh(np, A, 4), Y)


def test_no_time_left(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LIMIT", -1.0)
    where = tmp_path / "figures.json"
    assert report.main(["--json", str(where)]) == 0
    assert len(json.loads(where.read_text())["left_out"]) == 7


def test_no_card(report, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(MODULE, "is_available", lambda: False)
    assert report.main(["--json", str(tmp_path / "none")]) == 2
    assert "no CUDA device here" in capsys.readouterr().err and not list(tmp_path.iterdir())

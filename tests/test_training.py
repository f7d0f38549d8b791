"""asv_benchmarks/training: every workload learns a little on data made here, and runs are kept and compared fairly."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "asv_benchmarks"))

import itertools

import torch
from training import __main__ as command
from training import times
from training import tune as tuning
from training.clicks import auc
from training.optimizers import make
from training.run import WORKLOADS, factor, figure_of, run, steps_to


def write(path, lines):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for every workload, with a little data of the right form."""
    rng, top = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    made = {name: top / name for name in WORKLOADS}
    for folder in made.values():
        folder.mkdir()
    words = [f"w{k}" for k in range(50)]
    for part, count in (("train", 80), ("val", 20)):
        pairs = [rng.choice(words, rng.integers(3, 8)) for _ in range(count)]
        write(made["translation"] / f"{part}.en.gz", [" ".join(pair) for pair in pairs])
        write(made["translation"] / f"{part}.fr.gz", [" ".join(f"f{word}" for word in pair) for pair in pairs])
    for name in ("language", "masked", "plain"):
        write(made[name] / "text8.gz", [" ".join(rng.choice(words, 40)) for _ in range(100)])
    rows = []
    for _ in range(1700):
        number = rng.integers(0, 100, 13)
        rows.append(
            "\t".join([str(int(number[0] > 50)), *map(str, number), *(f"{x:x}" for x in rng.integers(0, 9, 26))])
        )
    for part, some in (("train", rows[:1650]), ("dev", rows[1650:1680]), ("test", rows[1680:])):
        write(made["clicks"] / f"kaggle8k_{part}.tsv.gz", some)
    for part, count in (("validation", 60), ("test", 20)):
        starts = np.arange(0, 60, 6)  # of the numbers of every category
        lines = [
            f"{rng.choice([-1, 1])} " + " ".join(f"{k}:1" for k in starts + rng.integers(0, 6, 10))
            for _ in range(count)
        ]
        (made["apps"] / f"frappe.{part}.libfm").write_text("\n".join(lines) + "\n")
    arrays = {}
    for part, count in (("train", 40), ("test", 20)):
        arrays[f"x_{part}_delta"] = rng.integers(0, 256, (3, count, 32, 32), dtype=np.uint8)
        arrays[f"y_{part}"] = rng.integers(0, 10, count, dtype=np.uint8)
    np.savez(made["images"] / "cifar10_18k.npz", **arrays)
    return made


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "shampoo"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_runs(folders, workload, optimizer):
    result = run(workload, optimizer=optimizer, rate=1e-3, seed=0, data=str(folders[workload]), size="tiny")
    assert result["curve"][-1][0] == WORKLOADS[workload].steps["tiny"]
    assert all(np.isfinite(figure) for _, figure, _ in result["curve"])
    again = run(workload, optimizer=optimizer, rate=1e-3, seed=0, data=str(folders[workload]), size="tiny")
    assert [point[:2] for point in again["curve"]] == [point[:2] for point in result["curve"]]


@pytest.mark.parametrize("optimizer", ["our_soap", "kl_shampoo"])
def test_kin_run_too(folders, optimizer):
    result = run("clicks", optimizer=optimizer, rate=1e-3, seed=0, data=str(folders["clicks"]), size="tiny")
    assert all(np.isfinite(figure) for _, figure, _ in result["curve"])


@pytest.mark.filterwarnings("ignore:Shampoo's state takes")
@pytest.mark.parametrize("optimizer", ["schedule_free", "ema"])
def test_averages_of_the_weights_are_what_is_evaluated(folders, optimizer):
    """With batch normalization's means made anew for them; the weights of the training stay."""
    problem = WORKLOADS["images"].load(str(folders["images"]), "tiny", 0)
    opt = make(optimizer, problem.model, problem.tables, 1e-2, {})
    for _ in range(3):
        problem.model.zero_grad()
        next(problem.losses)().backward()
        opt.step()
    kept = [p.detach().clone() for p in problem.model.parameters()]
    found = figure_of(problem, opt, averaged=True)
    assert all(torch.equal(p, x) for p, x in zip(problem.model.parameters(), kept, strict=True))
    with torch.no_grad():
        for p, x in zip(problem.model.parameters(), opt.averaged_parameters(), strict=True):
            p.copy_(x)
        problem.settle()
        problem.model.eval()
        assert problem.evaluate() == found


def test_run_prints_a_line_of_json(folders, capsys):
    arguments = [
        "run",
        "clicks",
        "--optimizer",
        "sgd",
        "--rate",
        "0.1",
        "--size",
        "tiny",
        "--data",
        str(folders["clicks"]),
    ]
    assert command.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["optimizer"] == "sgd"


def test_a_closer_look_does_not_change_the_training(folders, capsys):
    """`--every` adds evaluations between; the figures that are there without it stay, of a model with dropout too."""
    same = ["--rate", "1e-2", "--steps", "30", "--size", "tiny", "--data", str(folders["translation"])]
    curves = []
    for every in ([], ["--every", "4"]):
        assert command.main(["run", "translation", *same, *every]) == 0
        curves.append({step: figure for step, figure, _ in json.loads(capsys.readouterr().out)["curve"]})
    usual, closer = curves
    assert list(usual) == [14, 28, 30] and list(closer) == [4, 8, 12, 16, 20, 24, 28, 30]
    assert closer[28] == usual[28] and closer[30] == usual[30]


def test_tuning_goes_on_after_a_kill_and_freezes_once(folders, tmp_path, capsys):
    """Nothing that is whole in the file runs again; a line that was cut off does; a target is frozen before Shampoo."""
    path = str(tmp_path / "small.jsonl")
    arguments = ["tune", "clicks", "--size", "tiny", "--data", str(folders["clicks"]), "--results", path]
    command.main([*arguments, "--optimizer", "adamw", "--rates", "1e-3", "1e-2"])
    lines = Path(path).read_text().splitlines(keepends=True)
    assert len(lines) == 4  # two rates, and two more seeds of the better one
    Path(path).write_text("".join(lines[:-1]) + lines[-1][:40])
    command.main([*arguments, "--optimizer", "adamw", "--rates", "1e-3", "1e-2"])
    results = tuning.Results(path)
    assert len(results.runs) == 4
    command.main(["freeze", "clicks", "--results", path])
    with pytest.raises(ValueError, match="is frozen"):
        tuning.freeze(results, "clicks")
    command.main([*arguments, "--optimizer", "shampoo", "--rates", "1e-3", "1e-2"])
    capsys.readouterr()
    command.main(["time", "clicks", "--size", "tiny", "--data", str(folders["clicks"]), "--results", path])
    found = times.read(results)["clicks"]
    assert set(found["own"]) == {"adamw", "shampoo"} and found["gradient_ms"] > 0
    same = ["time", "clicks", "--size", "tiny", "--data", str(folders["clicks"]), "--results", path]
    times.write(results, "clicks", {"own": {"adamw": []}}, partly=True)
    command.main([*same, "--optimizer", "adamw"])
    again = times.read(results)["clicks"]
    assert again["own"]["shampoo"] == found["own"]["shampoo"] and len(again["own"]["adamw"]) > 0
    assert again["gradient_ms"] == found["gradient_ms"]
    command.main(["report", "--results", path, "--tables", str(tmp_path), "--pictures", str(tmp_path)])
    out = capsys.readouterr().out
    assert "AdamW" in out and f"- {times.own_ms(found, 'shampoo'):.1f}\n" in out
    assert (tmp_path / "clicks.rst").read_text() in out
    assert (tmp_path / "training_clicks.png").stat().st_size > 1000


def test_milliseconds_of_a_step():
    """Young statistics have roots at every step: the last third of a training says more of a long one."""
    found = {"own": {"shampoo": [[40, 0.8], [80, 1.2], [120, 1.4]]}}
    assert times.own_ms(found, "shampoo") == pytest.approx(1e3 * 1.4 / 120)
    assert times.own_ms(found, "shampoo", 1 / 3) == pytest.approx(1e3 * 0.2 / 40)
    assert times.own_ms({"own": {"sgd": [[100, 1.0]]}}, "sgd", 1 / 3) == pytest.approx(10.0)
    assert times.own_ms(found, "adamw") is None


def test_no_target_after_shampoo_has_run(folders, tmp_path):
    results = tuning.Results(str(tmp_path / "small.jsonl"))
    results.add({"workload": "clicks", "optimizer": "shampoo", "seed": 0})
    with pytest.raises(ValueError, match="before Shampoo"):
        tuning.freeze(results, "clicks")


def test_area_under_the_curve():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, 200), rng.integers(0, 2, 200)
    clicks, others = scores[labels == 1], scores[labels == 0]
    want = np.mean([(a > b) + 0.5 * (a == b) for a in clicks for b in others])
    assert auc(scores, labels) == pytest.approx(want, rel=1e-12)


def test_rate_over_a_run():
    factors = [factor(step, 100) for step in range(100)]
    assert factors[4] == 1.0 and factors[0] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(factors[4:])) and 0 < factors[-1] < 0.01
    assert [factor(step, 100, falling=False) for step in (0, 4, 99)] == [factors[0], 1.0, 1.0]


def test_steps_to_a_target():
    curve = [[10, 3.0, 1.0], [20, 2.0, 2.0], [30, 1.0, 3.0]]
    assert steps_to(curve, 2.0, less=True) == (20, 2.0)
    assert steps_to(curve, 0.5, less=True) is None
    assert steps_to(curve, 3.5, less=False) is None

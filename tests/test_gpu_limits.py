"""The tuned numbers of a card: written, read, refused when damaged; measured so that nothing wrong is turned on."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from cuda_double import kernels
from cupy_double import MODULE, Device, ndarray

from matroot import Eigen, Minimax, select_method
from matroot.backends.cuda import graphs, stacks
from matroot.backends.cuda import limits as gpu_limits
from matroot.backends.cuda.gpu import gpu
from matroot.backends.cuda.limits import GPULimits
from matroot.cli import tune_gpu
from matroot.cli.command import main
from matroot.methods import minimax_kernel as fused

__all__ = ["kernels"]
MINE = GPULimits(fused=48, eigen=8, jacobi=64, batched=96, kernels=1, graphs=1 << 20, halves=512)
NAME = "Double of a card, sm_90, cupy 14"


@pytest.fixture
def where(tmp_path, monkeypatch):
    monkeypatch.setenv("MATROOT_PROFILE", str(tmp_path / "deep" / "mine.json"))
    gpu_limits.limits.cache_clear()
    gpu.cache_clear()
    yield tmp_path / "deep" / "mine-gpu.json"
    gpu_limits.limits.cache_clear()
    gpu.cache_clear()


def test_round_trip(where):
    gpu_limits.save(NAME, MINE, where)
    gpu_limits.save("another card", GPULimits(), where)
    assert gpu_limits.limits(NAME) == MINE
    assert gpu_limits.limits("another card") == gpu_limits.limits("a third") == GPULimits()
    assert list(where.parent.iterdir()) == [where]


def test_the_engine_and_auto_follow_them(where, kernels):
    assert isinstance(select_method(ndarray(np.eye(8)), 4), Minimax)
    gpu_limits.save(NAME, MINE, where)
    gpu_limits.limits.cache_clear()
    gpu.cache_clear()
    assert gpu(0).limits == MINE
    assert isinstance(select_method(ndarray(np.eye(8)), 4), Eigen)
    assert "up to 8" in repr(select_method(ndarray(np.eye(8)), 4))
    assert isinstance(select_method(ndarray(np.eye(9)), 4), Minimax)


@pytest.mark.parametrize(
    "spoil",
    (
        lambda data: data.clear(),
        lambda data: data.update(cards=3),
        lambda data: data["cards"].update({NAME: 3}),
        lambda data: data["cards"][NAME].pop("fused"),
        lambda data: data["cards"][NAME].update(fused="many"),
        lambda data: data["cards"][NAME].update(fused=-1),
        lambda data: data["cards"][NAME].update(kernels=True),
        lambda data: data.update(format=0),
    ),
    ids=("empty", "no cards", "no card", "one missing", "a word", "negative", "a bool", "old format"),
)
def test_a_damaged_file_is_warned_of_once_and_ignored(where, spoil):
    gpu_limits.save(NAME, MINE, where)
    data = json.loads(where.read_text())
    spoil(data)
    where.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match=r"mine-gpu\.json is damaged; .* run `matroot tune`"):
        assert gpu_limits.limits(NAME) == GPULimits()
    assert gpu_limits.limits(NAME) == GPULimits()


@pytest.fixture
def short(monkeypatch, kernels, where):
    """Questions small enough for the double, where clocks say which side wins."""
    for name, value in {
        "SMALL": (4, 16, 20),
        "JACOBI": (16, 24),
        "MANY": 2,
        "SHAPES": ((2, 20),),
        "BYTES": (1 << 16,),
        "HALVES": (40,),
        "BATCHED": (24, 40),
        "NUMBERS": 1600,
        "ROUNDS": 1,
    }.items():
        monkeypatch.setattr(tune_gpu, name, value)
    times = {}
    monkeypatch.setattr(tune_gpu, "milliseconds", lambda xp, work: (work(), times.get(work.args[1], 2.0))[1])
    backend = gpu(0)
    yield backend, times
    graphs.forget()


@pytest.mark.slow
def test_what_is_right_and_faster_is_turned_on(short, kernels):
    backend, times = short
    before, lines = backend.limits, []
    best = GPULimits(kernels=1)
    times[best] = 1.5
    best = replace(best, graphs=1 << 16)
    times[best], times[replace(best, fused=16, jacobi=0)] = 1.0, 9.0
    for n in (4, 16):
        times[replace(best, fused=n)] = 0.5
    best = replace(best, fused=16, jacobi=24)
    times[best], times[replace(best, halves=40)] = 1.0, 0.7
    assert tune_gpu.measure(backend, lines.append) == replace(best, halves=40)
    assert "n = 40: halves takes 0.70 of the time" in lines
    assert backend.limits == before and {"combine<double>", "ritz<double>", "coupled<double, 1>"} <= set(kernels)
    assert "2 of n = 20: stack.cu takes 0.75 of the time" in lines


def test_what_is_wrong_or_fails_is_not(short, monkeypatch):
    backend, _ = short
    combine, lines = stacks.combine, []

    def wrong(s, S, m, M, d, out, backend):
        combine(s, S, 1.001 * m, M, d, out, backend)

    def broken(*arguments):
        raise RuntimeError("CUDA_ERROR_INVALID_VALUE")

    monkeypatch.setattr(stacks, "combine", wrong)
    monkeypatch.setattr(graphs, "capture", broken)
    monkeypatch.setattr(fused, "run", broken)
    monkeypatch.setattr(tune_gpu, "milliseconds", lambda xp, work: (work(), 1.0)[1])
    found = tune_gpu.measure(backend, lines.append)
    assert asdict(found) == asdict(GPULimits(jacobi=0))
    said = "\n".join(lines)
    assert "stack.cu is off by" in said and "a graph fails: RuntimeError: CUDA_ERROR_INVALID_VALUE" in said
    assert "small.cu fails" in said


@pytest.mark.slow
def test_from_the_command_line(short, where, monkeypatch, capsys):
    from matroot.backends.profile import Limits
    from matroot.cli import tune_cpu as tune

    monkeypatch.setattr(tune, "measure", lambda say: Limits())
    assert main(["tune"]) == 0
    out = capsys.readouterr().out
    assert out.count(NAME) == 2 and str(where) in out
    assert gpu_limits.limits(NAME) == gpu(1).limits and gpu(1).limits.fused == 0
    assert main(["tune", "--reset"]) == 0
    assert not where.exists()


@pytest.mark.slow
def test_info_shows_the_cards(where, kernels, capsys, monkeypatch):
    monkeypatch.setattr(Device, "ratio", 64)
    assert main(["info"]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("backend gpu"))
    assert "Double of a card, sm_90" in line and "float32 64 times as fast as float64" in line
    assert "fused 0" in line


def test_without_a_card_nothing_is_measured(where, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", MODULE)
    monkeypatch.setattr(MODULE, "is_available", lambda: False)
    tune_gpu.tune(lambda line: pytest.fail(line))
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    tune_gpu.tune(lambda line: pytest.fail(line))
    assert not where.exists()

"""``python -m matroot_optim plan``: the shapes, and the deal of the roots to ranks."""

from __future__ import annotations

import json
import math
import re
import struct
import time

import numpy as np
import pytest

from matroot_optim import SOAP, InlineEngine, RankEngine, Shampoo
from matroot_optim.__main__ import main
from matroot_optim.layout.layout import make_layout
from matroot_optim.planning.deal import bound, plan_ranks
from matroot_optim.planning.networks import NETWORKS
from matroot_optim.planning.shapes import parameters_of
from matroot_optim.refresh.shares import deal_blocks
from matroot_optim.step.statistics import packed_size
from optim.problems import SHAPES, run, weights
from optim.test_optim_ranks import on_ranks

MILLIONS = {"resnet50": 25.557, "transformer-big": 214.2, "bert-large": 335.1, "llama-8b": 8030.3}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_deal_of_known_networks_is_near_to_the_bound(name):
    found = parameters_of(name)
    assert sum(math.prod(x.shape) for x in found.values()) / 1e6 == pytest.approx(MILLIONS[name], rel=1e-3)
    begin = time.process_time()
    opt = Shampoo(1e-3)
    layout = make_layout(opt, found)
    for ranks in (8, 64, 256, 1024):
        for lag in (0, 10):
            plan = plan_ranks(opt, layout, ranks, lag)
            assert 1 <= plan.bound <= plan.makespan * (1 + 1e-9)
            # With a lag, the roots of later steps are not known when those of earlier ones are dealt.
            assert plan.makespan <= (1.25 if lag else 1.05) * plan.bound
            assert plan.roots_per_rank[0] <= plan.roots / ranks <= plan.roots_per_rank[1]
            assert plan.tables == sum(s.blocks for s, _ in layout.factors if s.by_row)
            statistics = plan.tables * 4 * packed_size(1024)  # and a tenth of that as roots, their facts and heads
            assert plan.summed_bytes == statistics
            assert 0 <= plan.table_bytes - statistics / 10 <= 45 * plan.tables + 240 * ranks
            if not lag:  # the roots of each step, though an owner has both roots of a block
                assert plan.owned_makespan <= 1.05 * plan.bound
    assert time.process_time() - begin < 60  # about 1 s for Llama


@pytest.mark.parametrize(("kind", "lag"), [(Shampoo, 0), (Shampoo, 4), (SOAP, 0)])
def test_the_plan_is_what_the_engine_does(kind, lag):
    options = {"refresh_every": 4, "refresh_growth": 0.0, "block_size": 4, "start_step": None if kind is SOAP else 1}
    steps, size = 13 + lag, 3

    def train(rank, ranks):
        engine = RankEngine(ranks, InlineEngine(lag))
        run(kind(0.01, **options, engine=engine), steps)
        roots, sent = engine.clock.roots, engine.clock.bytes_sent
        return roots, sent

    found = on_ranks(size, train)
    opt = kind(0.01, **options, engine=InlineEngine(lag))
    plan = plan_ranks(opt, make_layout(opt, weights(SHAPES)), size, lag)
    # Every root is due once in each of three intervals, and those of the first phase once more.
    total = sum(roots for roots, _ in found)
    assert 3 * plan.roots <= total <= 3 * plan.roots + (plan.roots if lag == 0 else 2 * plan.roots)
    sent = sum(bytes_ for _, bytes_ in found) / steps
    assert sent == pytest.approx(plan.received_bytes, rel=0.35)


def test_shapes_from_files(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "up.weight": {"dtype": "BF16", "shape": [32, 16], "data_offsets": [0, 1024]},
        "steps": {"dtype": "I64", "shape": [], "data_offsets": [1024, 1032]},
        "down": {"dtype": "F64", "shape": [16, 8], "data_offsets": [1032, 2056]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    found = parameters_of(str(path))
    assert {name: (x.shape, x.dtype.name) for name, x in found.items()} == {
        "up.weight": ((32, 16), "float32"),
        "down": ((16, 8), "float64"),
    }
    for content, want in (([[3, 4], [5]], {"0": (3, 4), "1": (5,)}), ({"w": [2, 2]}, {"w": (2, 2)})):
        path = tmp_path / "shapes.json"
        path.write_text(json.dumps(content))
        assert {name: x.shape for name, x in parameters_of(str(path)).items()} == want


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "must be a file or one of resnet50"),
        ("bad.json", b"[", "must be JSON"),
        ("bad.json", b"3", "must have a list of shapes, or an object"),
        ("bad.json", b"[]", "must have parameters of floating point"),
        ("bad.json", b'{"w": [2, -1]}', "the shape of 'w' must be a list of integers >= 0"),
        ("bad.json", b'{"w": [2, 1.5]}', "the shape of 'w' must be"),
        ("bad.json", b'{"w": [10000000000, 10000000000]}', "the shape of 'w' must be"),
        ("bad.safetensors", b"abc", "must have the header of a safetensors file"),
        ("bad.safetensors", struct.pack("<Q", 2**60), "must have the header of a safetensors file"),
        ("bad.safetensors", struct.pack("<Q", 4) + b"[[]]", "must have the header of a safetensors file"),
    ],
)
def test_wrong_files_are_told_in_one_line(name, content, message, tmp_path, capsys):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(path), "--ranks", "4"])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "wrong", [["--ranks", "0"], ["--ranks", "x"], ["--ranks", "-1"], ["--lag", "-1"], ["--lag", "x"]]
)
def test_wrong_numbers_are_told_in_one_line(wrong, capsys):
    with pytest.raises(SystemExit):
        main(["plan", "resnet50", *wrong])
    assert f"is wanted, not {wrong[1]!r}" in capsys.readouterr().err.splitlines()[-1]


def test_a_network_of_empty_parameters(tmp_path, capsys):
    (tmp_path / "empty.json").write_text('{"w": [0, 4]}')
    assert main(["plan", str(tmp_path / "empty.json"), "--ranks", "2"]) == 0
    assert "no roots" in capsys.readouterr().out


def test_the_command(capsys):
    assert main(["plan", "resnet50", "--ranks", "8", "64", "--block-size", "512", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [plan["ranks"] for plan in found] == [8, 64]
    assert found[0]["largest"] == 512
    assert main(["plan", "resnet50", "--ranks", "8", "--lag", "10"]) == 0
    text = capsys.readouterr().out
    assert "lag 10" in text
    assert "times Adam's" in text
    assert main(["plan", "resnet50", "--preconditioned-dims", "none"]) == 0
    assert capsys.readouterr().out.endswith("Adam's\n")
    assert main(["plan", "resnet50", "--ranks", "1", "64"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"\nranks +1 +64\n", text)
    assert re.search(r"\n  the least that whole roots allow +1.00 +9.57\n", text)
    assert "\nFrom 64 ranks on, ranks wait for few roots: use a lag, or --schedule interval, or" in text
    assert main(["plan", "resnet50", "--ranks", "64", "--schedule", "interval", "--block-size", "128"]) == 0
    assert "wait for" not in capsys.readouterr().out
    assert main([]) == 2
    assert main(["--help"]) == 0
    with pytest.raises(SystemExit):
        main(["plan", "resnet50", "--ranks", "0"])
    with pytest.raises(SystemExit):
        main(["plan", "resnet50", "--schedule", "sometimes"])
    assert "schedule must be" in capsys.readouterr().err


def test_owned_blocks_are_even_in_every_step_and_in_the_sum():
    rng = np.random.default_rng(0)
    costs = [{0: 1.0 + a, 1 + int(b): 10.0, 5: 10.0} for a, b in rng.random((400, 2)) * (1, 4)]
    for ranks in (1, 3, 8):
        owners = deal_blocks(costs, ranks)
        for part in range(6):
            load = np.bincount(owners, [cost.get(part, 0.0) for cost in costs], ranks)
            assert load.max() <= 1.1 * load.mean()
    # The last block meets a load on every rank; the first, whose steps are free on the second rank, makes room for it.
    assert deal_blocks([{0: 1.0, 2: 1.0}, {1: 2.0}, {0: 1.0, 1: 1.0}, {1: 1.0, 2: 1.0}], 3).tolist() == [1, 1, 2, 0]
    assert deal_blocks([], 3).tolist() == []
    assert deal_blocks([{}, {}], 2).tolist() == [0, 0]


def test_the_bound():
    assert bound([], 3) == 0.0
    assert bound([4.0, 1.0, 1.0], 3) == 4.0
    assert bound([2.0] * 5, 2) == 6.0
    assert bound(np.ones(64), 2) == 32.0

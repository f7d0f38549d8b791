"""Damaged state dicts of torch are refused, and a refused one changes nothing."""

from __future__ import annotations

import copy
import json

import pytest
from fuzz_checkpoints import bits

from matroot_optim.entries import UNITS
from matroot_optim.step.betas import BETAS


def torch_optimizer(lr):
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as Torch

    torch.manual_seed(0)
    net = torch.nn.Linear(5, 4)
    opt = Torch([{"params": [net.weight]}, {"params": [net.bias], "lr": 3 * lr}], lr=lr, refresh_every=2)
    for _ in range(3):
        opt.zero_grad()
        net(torch.ones(2, 5)).square().sum().backward()
        opt.step()
    return opt


def test_a_refused_state_dict_changes_nothing():
    opt, saved = torch_optimizer(0.1), torch_optimizer(0.5).state_dict()
    before, attributes = copy.deepcopy(opt.state_dict()), {**vars(opt), "defaults": dict(opt.defaults)}
    groups = [dict(group) for group in opt.param_groups]
    edits = {
        "moment": lambda d: d["state"][1].update(moment=-d["state"][1]["moment"] - 1),
        "momentum": lambda d: d["state"][0].pop("momentum"),
        "step": lambda d: d["state"][0].update(step=d["state"][0]["step"] + 1),
        "lr": lambda d: d["param_groups"][1].update(lr="fast"),
        "block_size": lambda d: d["param_groups"][0].update(block_size=-1),
        "format": lambda d: d["param_groups"][0].update(matroot_optim='{"format": 7, "leaves": []}'),
        "metadata": lambda d: [group.pop("matroot_optim") for group in d["param_groups"]],
        "state": lambda d: d.pop("state"),
        "param_groups": lambda d: d.pop("param_groups"),
        "parameters": lambda d: d["state"].pop(1),
    }
    for word, edit in edits.items():
        damaged = copy.deepcopy(saved)
        edit(damaged)
        with pytest.raises(ValueError, match=word):
            opt.load_state_dict(damaged)
        assert vars(opt).keys() == attributes.keys()
        assert all(vars(opt)[name] is x for name, x in attributes.items() if name != "defaults")
        assert opt.defaults == attributes["defaults"]
        assert [dict(group) for group in opt.param_groups] == groups
        after = opt.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for number, entries in before["state"].items():
            assert all(x.equal(after["state"][number][name]) for name, x in entries.items())
    opt.load_state_dict(saved)
    assert [group["lr"] for group in opt.param_groups] == [0.5, 1.5]


def test_a_state_dict_of_format_2_is_read():
    opt, other = torch_optimizer(0.5), torch_optimizer(0.1)
    saved = opt.state_dict()
    for group in saved["param_groups"]:
        group["matroot_optim"] = json.dumps({**json.loads(group["matroot_optim"]), "format": 2})
    for entries in saved["state"].values():
        for part in BETAS:
            entries.pop(part)
    other.load_state_dict(saved)
    got, want = bits(other._current()), bits(opt._current())
    assert got.keys() == want.keys()
    assert {k for k in got if got[k] != want[k]} == {"0/0/beta1", "1/0/beta1"}  # which the next step sets


def test_a_state_dict_of_format_1_is_read():
    opt, other = torch_optimizer(0.5), torch_optimizer(0.1)
    saved = opt.state_dict()
    leaves = {}
    for g, group in enumerate(saved["param_groups"]):
        for leaf in json.loads(group.pop("matroot_optim"))["leaves"]:
            leaf.pop("parts")
            leaves[f"{g}/0"] = leaf
    saved["matroot_optim"] = {"format": 1, "roots": True, "leaves": leaves}
    for entries in saved["state"].values():
        for part in UNITS:
            entries.pop(part)
    other.load_state_dict(saved)
    got, want = ({k: v for k, v in bits(x._current()).items() if not k.endswith(tuple(UNITS))} for x in (other, opt))
    assert got == want

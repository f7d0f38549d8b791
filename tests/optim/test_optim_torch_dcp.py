"""torch.distributed.checkpoint: asking for the state changes nothing, and a load goes on to the bit."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.state_dict import (  # noqa: E402
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from matroot_optim import ExecutorEngine, InlineEngine  # noqa: E402
from matroot_optim.torch import Shampoo  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")

OPTIONS = {"lr": 0.01, "refresh_every": 3, "block_size": 4, "weight_decay": 0.1, "decay": "independent"}


def net(seed=0):
    torch.manual_seed(seed)
    found = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 2), torch.nn.Linear(2, 2))
    found[3].requires_grad_(False)
    return found


def optimizer(model, engine=None):
    groups = [
        {"params": model[0].parameters()},
        {"params": [*model[2].parameters(), *model[3].parameters()], "lr": 2e-3},
    ]
    return Shampoo(groups, engine=engine, **OPTIONS)


def train(model, opt, start, stop):
    for k in range(start, stop):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(k))
        opt.zero_grad()
        (model(x) - x[:, :2].sin()).square().mean().backward()
        opt.step()
    opt.zero_grad()


def entries(opt):
    return {(n, name): x.clone() for n, mine in opt.state_dict()["state"].items() for name, x in mine.items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key, x in a.items():
        assert torch.equal(x, b[key]), key


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("steps", [0, 5])
def test_asking_for_the_state_changes_nothing(steps, flatten):
    model = net()
    opt = optimizer(model)
    train(model, opt, 0, steps)
    weights, before = copy.deepcopy(model.state_dict()), entries(opt)
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    found = get_optimizer_state_dict(model, opt, options=options)
    get_state_dict(model, opt, options=options)
    assert_same(entries(opt), before)
    assert_same(model.state_dict(), weights)
    assert opt.diagnostics().step == steps
    assert any("0.weight" in key for key in (found if flatten else found["state"]))


@pytest.mark.parametrize("lag", [0, 4])
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("way", ["memory", "file", "checkpoint"])
def test_a_load_into_a_new_optimizer_goes_on_to_the_bit(way, flatten, lag, tmp_path):
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    with ExecutorEngine(lambda: ThreadPoolExecutor(2), lag=lag) as engine:
        model = net()
        opt = optimizer(model, engine)
        train(model, opt, 0, 7)
        weights, saved = get_state_dict(model, opt, options=options)
        saved, weights = copy.deepcopy((saved, weights))
        if way == "checkpoint":
            dcp.save({"model": weights, "optimizer": saved}, checkpoint_id=tmp_path / "saved")
        train(model, opt, 7, 14)
    other = net(1)
    again = optimizer(other, InlineEngine(lag))
    if way == "file":
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
    if way == "checkpoint":
        weights, saved = get_state_dict(other, again, options=options)
        dcp.load({"model": weights, "optimizer": saved}, checkpoint_id=tmp_path / "saved")
    set_state_dict(other, again, model_state_dict=weights, optim_state_dict=saved, options=options)
    assert again.diagnostics().step == 7
    train(other, again, 7, 14)
    assert_same(other.state_dict(), model.state_dict())


def test_parameters_in_another_order_take_their_own_state():
    model = net()
    opt = Shampoo(model[0].parameters(), **OPTIONS)
    train(model, opt, 0, 5)
    again = Shampoo([model[0].bias, model[0].weight], **OPTIONS)
    set_optimizer_state_dict(model, again, get_optimizer_state_dict(model, opt))
    for p in model[0].parameters():
        assert_same(dict(again.state[p]), dict(opt.state[p]))


def test_the_full_state_dict():
    model = net()
    opt = optimizer(model)
    train(model, opt, 0, 5)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found = get_optimizer_state_dict(model, opt, options=options)
    again = optimizer(model)
    set_optimizer_state_dict(model, again, found, options=options)
    for p in model.parameters():
        if p.requires_grad:  # torch leaves out what is frozen
            assert_same(dict(again.state[p]), dict(opt.state[p]))

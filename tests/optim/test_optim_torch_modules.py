"""Tables told by their modules: an embedding and a head tied to it move by row, whatever their shape."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch")

import torch.distributed.checkpoint as dcp  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict  # noqa: E402

from matroot import ConditionTracker  # noqa: E402
from matroot_optim.torch import Shampoo, parameter_groups  # noqa: E402


class Language(nn.Module):
    """Words and places of nearly square tables, a bag of features, a tied head and another that is not."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.places = nn.Embedding(40, 32), nn.Embedding(12, 32)
        self.bag = nn.EmbeddingBag(36, 32)
        self.dense, self.norm = nn.Linear(32, 32), nn.LayerNorm(32)
        self.head, self.other = nn.Linear(32, 40, bias=False), nn.Linear(32, 36)
        self.head.weight = self.words.weight

    def forward(self, words):
        x = self.words(words) + self.places(torch.arange(words.shape[1])) + self.bag(words % 36)[:, None]
        x = self.norm(self.dense(x).tanh())
        return self.head(x), self.other(x)


TABLES = ["words.weight", "places.weight", "bag.weight"]
DENSE = ["dense.weight", "dense.bias", "norm.weight", "norm.bias", "other.weight", "other.bias"]


def names(groups):
    return {group["name"]: [name for name, _ in group["params"]] for group in groups}


def train(model, opt, start, stop):
    for k in range(start, stop):
        words = torch.randint(0, 40, (8, 12), generator=torch.Generator().manual_seed(k))
        opt.zero_grad()
        head, other = model(words)
        (nn.functional.cross_entropy(head.flatten(0, 1), words.flatten()) + other.square().mean()).backward()
        opt.step()


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert torch.equal(x, b[name]), name


def treatments(opt):
    return {row.path: row.treatment for row in opt.plan().rows}


def test_tables_are_told_by_their_modules():
    assert names(parameter_groups(Language())) == {"dense": DENSE, "tables": TABLES}


@pytest.mark.parametrize("give", [lambda model: model, parameter_groups, nn.DataParallel])
def test_tables_move_by_row(give):
    found = treatments(Shampoo(give(Language()), block_aspect=8.0))
    for name, how in found.items():
        name = name.removeprefix("module.")
        narrow = name == "places.weight" or name.endswith(("bias", "norm.weight"))
        assert how == ("adam" if narrow else "by row" if name in TABLES else "both sides"), name
    by_shape = treatments(Shampoo(Language().named_parameters()))  # which are no tables by their shape
    assert all(by_shape[name] == "both sides" for name in TABLES)


def test_a_table_has_one_side_where_it_is_asked_for():
    groups = parameter_groups(Language())
    groups[1]["preconditioned_dims"] = "one_sided"
    opt = Shampoo(groups, block_size=8)
    assert {treatments(opt)[name] for name in TABLES} == {"one side"}
    assert max(stack.shape[axis] for stack, axis in opt._current().layout.factors) == 8


def test_an_output_layer_that_is_not_tied_is_a_table_by_request():
    model = Language()
    for tables in ([model.other], [model.other.weight], nn.ModuleList([model.other])):
        found = names(parameter_groups(model, tables=tables))
        assert found["tables"] == [*TABLES, "other.weight"]
        assert "other.bias" in found["dense"]


def test_a_subclass_and_a_parametrized_embedding_are_tables():
    class Mine(nn.Embedding):
        pass

    model = nn.ModuleDict({"a": Mine(9, 8), "b": nn.utils.parametrizations.weight_norm(nn.Embedding(9, 8))})
    assert set(names(parameter_groups(model))["tables"]) == {name for name, _ in model.named_parameters()}


def test_a_group_without_parameters_is_left_out():
    assert list(names(parameter_groups(nn.Linear(3, 2)))) == ["dense"]
    assert list(names(parameter_groups(nn.Embedding(3, 2)))) == ["tables"]
    lazy = nn.Sequential(nn.Embedding(9, 8), nn.LazyLinear(4))
    assert names(parameter_groups(lazy, tables=[lazy[1]]))["tables"] == ["0.weight", "1.weight", "1.bias"]


def test_wrong_arguments():
    model = Language()
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got generator"):
        parameter_groups(model.parameters())
    with pytest.raises(TypeError, match="tables must be modules and tensors, got str"):
        parameter_groups(model, tables=["head"])
    with pytest.raises(ValueError, match=r"tables must be of the model, got a Linear of shape \(2, 3\)"):
        parameter_groups(model, tables=[nn.Linear(3, 2)])
    with pytest.raises(ValueError, match="empty parameter list"):
        Shampoo(nn.Tanh())


def test_the_numbers_are_those_of_groups_by_hand():
    model, other = Language(), Language()
    mine = Shampoo(model, 1e-2)
    tables = [other.words.weight, other.places.weight, other.bag.weight]
    dense = [p for p in other.parameters() if not any(p is table for table in tables)]
    theirs = Shampoo([{"params": dense}, {"params": tables, "preconditioned_dims": "table"}], 1e-2)
    train(model, mine, 0, 8)
    train(other, theirs, 0, 8)
    assert_same(model.state_dict(), other.state_dict())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("way", ["state_dict", "file", "checkpoint", "copy"])
def test_checkpoints_go_on_to_the_bit(way, tmp_path):
    model, other = Language(), Language(1)
    opt, again = Shampoo(model, 1e-2, weight_decay=0.1), Shampoo(other, 1e-3)
    train(model, opt, 0, 6)
    if way in ("state_dict", "file"):
        saved = copy.deepcopy((opt.state_dict(), model.state_dict()))
        if way == "file":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        again.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
    elif way == "checkpoint":
        weights, saved = get_state_dict(model, opt)
        dcp.save({"model": weights, "optimizer": saved}, checkpoint_id=tmp_path / "saved")
        weights, saved = get_state_dict(other, again)
        dcp.load({"model": weights, "optimizer": saved}, checkpoint_id=tmp_path / "saved")
        set_state_dict(other, again, model_state_dict=weights, optim_state_dict=saved)
    else:
        other, again = copy.deepcopy((model, opt))
    assert [group["name"] for group in again.param_groups] == ["dense", "tables"]
    assert again.param_groups[1]["preconditioned_dims"] == "table"
    train(model, opt, 6, 12)
    train(other, again, 6, 12)
    assert_same(model.state_dict(), other.state_dict())
    assert treatments(again) == treatments(opt)


def test_names_need_no_recent_torch(monkeypatch):
    """Before 2.6 it takes tensors alone."""

    def add(self, group, real=torch.optim.Optimizer.add_param_group):
        assert all(isinstance(p, torch.Tensor) for p in group["params"])
        real(self, group)

    monkeypatch.setattr(torch.optim.Optimizer, "add_param_group", add)
    opt = Shampoo(Language())
    assert opt.param_groups[0]["param_names"] == DENSE
    with pytest.raises(AssertionError):
        Shampoo([("a", nn.Parameter(torch.zeros(3))), nn.Parameter(torch.zeros(2))])


def test_diagnostics_have_the_names():
    model, tracker = Language(), ConditionTracker()
    opt = Shampoo(model, 1e-2, block_size=8)
    train(model, opt, 0, 6)
    found = opt.diagnostics(tracker)
    assert set(found.nonfinite) == set(found.graft_ratio) == {*DENSE, *TABLES}
    roots = {"dense.weight/block0/axis0", "dense.weight/block3/axis1", "other.weight/block5/axis1"}
    assert roots < set(found.names)
    assert set(tracker.to_dict()) == set(found.names)
    unnamed = Shampoo(list(Language().parameters()))
    assert set(unnamed.diagnostics().nonfinite) == {f"0/{i}" for i in range(9)}


def test_schedulers_and_groups_work_as_ever():
    model = Language()
    groups = parameter_groups(model)
    groups[1].update(lr=0.5, weight_decay=0.0)
    opt = Shampoo(groups, 1e-2, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, [lambda t: 0.5**t, lambda t: 0.0])
    train(model, opt, 0, 1)
    before = model.words.weight.detach().clone()
    scheduler.step()
    assert [group["lr"] for group in opt.param_groups] == [0.005, 0.0]
    opt.add_param_group({"params": [("more", nn.Parameter(torch.zeros(4, 4)))]})
    train(model, opt, 1, 2)
    assert torch.equal(model.words.weight, before)
    assert opt.plan().rows[-1].path == "more"


def test_groups_without_names_follow_those_of_a_model():
    """A model's groups have names that nobody asked for; parameters that come later need none."""
    model, more = nn.Linear(8, 8), nn.Linear(8, 8)
    opt = Shampoo(model, 1e-2)
    for later in (more.parameters(), nn.Parameter(torch.ones(3))):
        opt.add_param_group({"params": later})
    loss = more(model(torch.ones(2, 8))).square().mean()
    for _ in range(6):
        opt.zero_grad()
        loss = more(model(torch.ones(2, 8))).square().mean()
        loss.backward()
        opt.step()
    assert [row.path for row in opt.plan().rows] == ["weight", "bias", "1/0", "1/1", "2/0"]
    again = Shampoo(model, 1e-2)
    for later in (more.parameters(), nn.Parameter(torch.ones(3))):
        again.add_param_group({"params": later})
    again.load_state_dict(opt.state_dict())
    assert torch.equal(again.state[more.weight]["momentum"], opt.state[more.weight]["momentum"])


def test_integers_of_a_model_are_no_parameters():
    model = nn.Linear(8, 8)
    model.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    assert [name for name, _ in parameter_groups(model)[0]["params"]] == ["weight", "bias"]

"""State dicts of the optimizer for torch, whole, foreign and damaged."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim.checkpoint.exchange import export

torch = pytest.importorskip("torch")

from matroot_optim.torch import Shampoo  # noqa: E402
from optim.test_optim_torch_state import OPTIONS, assert_same, entries, step, tensors  # noqa: E402


def test_entries_without_those_of_the_optimizer_start_afresh():
    """``state[p] = {}`` is how the state of a torch optimizer is reset for one parameter."""
    a, b = tensors((6, 5), (5,))
    opt = Shampoo([a, b], **OPTIONS)
    step(opt, steps=5)
    opt.state[a], opt.state[b] = {}, {"slow": torch.ones(2)}
    step(opt)
    assert [int(opt.state[p]["count"]) for p in (a, b)] == [1, 1]
    assert torch.equal(opt.state[b]["slow"], torch.ones(2))


def test_a_dict_with_its_metadata_beside_the_groups_still_loads():
    params = tensors((6, 5), (5,))
    opt = Shampoo(params, **OPTIONS)
    step(opt, steps=5)
    names, meta = export(opt._current())
    saved = opt.state_dict()
    for group in saved["param_groups"]:
        del group["matroot_optim"]
    for i in (0, 1):
        mine = {n.removeprefix(f"0/{i}/"): torch.from_numpy(np.array(x)) for n, x in names.items() if n[:3] == f"0/{i}"}
        saved["state"][i] = {**mine, "step": torch.tensor(5)}
    again = Shampoo(tensors((6, 5), (5,)), **OPTIONS)
    again.load_state_dict({**saved, "matroot_optim": meta})
    for p, q in zip(opt.state, again.state, strict=True):
        assert_same(entries(again, q), entries(opt, p))


def test_a_dict_that_lacks_a_named_parameter():
    opt = Shampoo(tensors((6, 5), (5,)), **OPTIONS)
    step(opt, steps=3)
    saved = opt.state_dict()  # torch.distributed.checkpoint puts names for numbers, and leaves out what is frozen
    saved["state"] = {"a": saved["state"][0]}
    saved["param_groups"][0]["params"] = ["a", "b"]
    a, b = tensors((6, 5), (5,))
    again = Shampoo([a, b], **OPTIONS)
    with pytest.warns(UserWarning, match="no state for 0/1; they start afresh") as seen:
        again.load_state_dict(saved)
    assert seen[0].filename == __file__
    assert int(again.state[a]["count"]) == 3
    assert int(again.state[b]["count"]) == 0
    b.requires_grad_(False)
    again.load_state_dict(saved)


def damaged():
    def step(d):
        del d["state"][0]["step"]

    def text(d):
        d["param_groups"][0]["matroot_optim"] = "{"

    def version(d):
        d["param_groups"][0]["matroot_optim"] = d["param_groups"][0]["matroot_optim"].replace(
            '"format": ', '"format": 9'
        )

    def groups(d):
        d["param_groups"].append(d["param_groups"][0])

    def option(d):
        d["param_groups"][0]["block_size"] = 0

    def no_state(d):
        d["state"] = [1, 2]

    def sparse(d):
        d["state"][0]["momentum"] = "lost"

    def other_step(d):
        d["state"][0]["step"] = d["state"][1]["step"] + 1

    def parameter(d):
        del d["state"][1]

    def another(d):
        d["state"][99] = d["state"][0]

    def no_groups(d):
        del d["param_groups"]

    def numbers(d):
        d["state"] = {k: {name: x.to("meta") for name, x in mine.items()} for k, mine in d["state"].items()}

    def rate(d):
        d["param_groups"][0]["lr"] = "fast"

    return [
        step,
        other_step,
        parameter,
        another,
        no_groups,
        numbers,
        rate,
        text,
        version,
        groups,
        option,
        no_state,
        sparse,
    ]


@pytest.mark.parametrize("damage", damaged(), ids=lambda f: f.__name__)
def test_a_dict_that_is_refused_changes_nothing(damage):
    opt = Shampoo(tensors((6, 5), (5,)), **OPTIONS)
    step(opt, steps=3)
    saved = opt.state_dict()
    saved["param_groups"][0]["lr"] = 7.0
    damage(saved)
    params = tensors((6, 5), (5,))
    again = Shampoo(params, **OPTIONS)
    step(again, seed=5, steps=2)
    before = [entries(again, p) for p in params]
    with pytest.raises(ValueError, match=r"."):
        again.load_state_dict(saved)
    assert again.param_groups[0]["lr"] == 0.1
    for p, want in zip(params, before, strict=True):
        assert_same(entries(again, p), want)
    step(again)


def test_an_empty_dict_starts_afresh():
    params = tensors((6, 5))
    opt = Shampoo(params, **OPTIONS)
    step(opt, steps=3)
    saved = opt.state_dict()
    opt.load_state_dict({"state": {}, "param_groups": saved["param_groups"]})
    assert opt.diagnostics().step == 0

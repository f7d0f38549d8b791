"""Fused weights and leading batch dimensions: each part is treated as the same optimizer treats it alone."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import SOAP, KLShampoo, Shampoo

# Shape, options, and the slices of the parts with the shape that each has alone.
CASES = {
    "qkv": ((18, 5), {"split": 3}, [np.s_[:6], np.s_[6:12], np.s_[12:]]),
    "grouped heads": ((14, 6), {"split": (8, 3, 3)}, [np.s_[:8], np.s_[8:11], np.s_[11:]]),
    "in, out": ((5, 18), {"split": [9, 9], "split_dim": -1}, [np.s_[:, :9], np.s_[:, 9:]]),
    "experts": ((3, 6, 5), {"batch_dims": 1}, [np.s_[0], np.s_[1], np.s_[2]]),
    "layers of experts": ((2, 2, 4, 3), {"batch_dims": 2}, [np.s_[i, j] for i in range(2) for j in range(2)]),
    "experts, gate and up": (
        (2, 8, 5), {"batch_dims": 1, "split": 2}, [np.s_[i, p] for i in range(2) for p in (slice(4), slice(4, 8))]
    ),
    "long parts in blocks": ((24, 4), {"split": 2, "block_aspect": 1.5}, [np.s_[:12], np.s_[12:]]),
}  # fmt: skip
PLAIN = {"graft_per_block": True, "graft_epsilon": 0.0, "start_step": 1}


def gradients(shape, steps, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for _ in range(steps)]


def run(opt, G):
    W = {"blocks": [{"qkv": {"weight": np.zeros(G[0].shape)}}]}
    state, found = opt.init(W), []
    for g in G:
        update, state = opt.update({"blocks": [{"qkv": {"weight": g}}]}, state, W)
        found.append(update["blocks"][0]["qkv"]["weight"])
    return found, state


@pytest.mark.parametrize("kind", [Shampoo, KLShampoo])
@pytest.mark.parametrize("case", CASES)
def test_parts_are_what_they_are_alone(kind, case):
    shape, options, parts = CASES[case]
    G = gradients(shape, 6)
    others = {"block_aspect": options["block_aspect"]} if "block_aspect" in options else {}
    fused, _ = run(kind(0.1, groups={"*.qkv.weight": options}, **PLAIN), G)
    for part in parts:
        alone, _ = run(kind(0.1, **PLAIN, **others), [g[part] for g in G])
        for u, want in zip(fused, alone, strict=True):
            np.testing.assert_allclose(u[part], want, rtol=1e-6, atol=1e-9)


def test_parts_of_a_soap():
    G = gradients((12, 6), 6)
    fused, _ = run(SOAP(0.1, split=2, graft_epsilon=0.0), G)
    alone, _ = run(SOAP(0.1, graft_epsilon=0.0), [g[6:] for g in G])
    for u, want in zip(fused, alone, strict=True):
        np.testing.assert_allclose(u[6:], want, rtol=1e-7)


def test_the_plan_shows_the_parts():
    net = {"qkv": np.zeros((14, 6)), "experts": np.zeros((4, 6, 5)), "bias": np.zeros(14), "wide": np.zeros((120, 6))}
    rules = {"qkv": {"split": (8, 3, 3)}, "experts": {"batch_dims": 1}, "bias": {"split": 2}, "wide": {"split": 3}}
    opt = Shampoo(1e-3, groups=rules)
    rows = {row.path: row for row in opt.plan(net).rows}
    assert rows["qkv"].blocks == "1 of 8 x 6, 2 of 3 x 6"
    assert (rows["experts"].matrix, rows["experts"].blocks) == ((4, 6, 5), "4 of 1 x 6 x 5")
    assert {row.treatment for name, row in rows.items() if name != "bias"} == {"both sides"}
    assert rows["bias"].treatment == "adam"
    assert Shampoo(1e-3).plan(net).rows[3].treatment == "adam"  # as a whole it is a table
    assert Shampoo.from_json(opt.to_json()) == opt
    assert hash(opt) == hash(Shampoo(1e-3, groups=rules))


def test_what_has_no_matrix_is_not_split():
    net = {"scale": np.zeros(()), "bias": np.zeros(15), "head": np.zeros((400, 60))}
    found = Shampoo(1e-3, split=2, split_dim=-1).plan(net).rows
    assert [row.treatment for row in found] == ["adam", "adam", "adam"]  # each part of the head is a classifier


@pytest.mark.parametrize("split", [4, (8, 8)])
def test_parts_must_fill_the_dimension(split):
    with pytest.raises(ValueError, match=r"split must give parts of dimension 0 of the merged shape \(14, 6\) of 'w'"):
        Shampoo(1e-3, split=split).init({"w": np.zeros((14, 6))})


@pytest.mark.parametrize("again", [{"split": (8, 3, 3)}, {"split": 2}, {"split": (8, 3, 3), "block_size": 3}, {}])
def test_checkpoints_and_other_cuts(tmp_path, again):
    G = gradients((14, 6), 8)
    opt = Shampoo(0.1, split=(8, 3, 3))
    W = {"blocks": [{"qkv": {"weight": np.zeros((14, 6))}}]}
    _, state = run(opt, G)
    state.save(tmp_path / "state.npz")
    other = Shampoo(0.1, **again)
    if not again:  # an optimizer without the rule has no reason to expect the parts
        with pytest.raises(ValueError, match="must have the blocks of a cutting"):
            other.load(tmp_path / "state.npz", W)
        return
    loaded = other.load(tmp_path / "state.npz", W)
    total = sum(np.trace(state[n]) if state[n].ndim > 1 else 0 for n in state if n.endswith("root"))
    assert np.isfinite(total)
    g = {"blocks": [{"qkv": {"weight": G[0]}}]}
    u, v = (o.update(g, s, W)[0]["blocks"][0]["qkv"]["weight"] for o, s in ((opt, state), (other, loaded)))
    if again == {"split": (8, 3, 3)}:
        np.testing.assert_array_equal(u, v)
    assert np.vdot(u, v) > 0.7 * np.linalg.norm(u) * np.linalg.norm(v)


def test_a_damaged_cut_of_parts_is_refused():
    from matroot_optim.checkpoint.exchange import export, restore
    from matroot_optim.layout.layout import make_layout

    opt, W = Shampoo(0.1, split=(8, 3, 3)), np.zeros((14, 6))
    names, meta = export(opt.init({"w": W}))
    for wrong in ([[[0, 0], [8, 6]]], [[[0, 0], [8, 6]], [[7, 0], [7, 6]]], [[[0, 0], [14, 60]]], [[[0], [14]]]):
        meta["leaves"]["w"]["blocks"] = wrong
        with pytest.raises(ValueError, match="must have the blocks of a cutting for 'w'"):
            restore(opt, make_layout(opt, {"w": W}), [W], names, meta)


def test_torch_groups_by_rules():
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as TorchShampoo
    from matroot_optim.torch import parameter_groups

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = torch.nn.Linear(6, 18), torch.nn.Linear(6, 6)

    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"table": torch.nn.Embedding(9, 6), "block": Block()})
    groups = parameter_groups(model, rules={"*.qkv.weight": {"split": 3}, "*.bias": {"weight_decay": 0.0}})
    names = [(g["name"], g.get("split"), g.get("weight_decay"), [n for n, _ in g["params"]]) for g in groups]
    assert names == [
        ("dense", None, None, ["block.out.weight"]),
        ("dense", 3, None, ["block.qkv.weight"]),
        ("dense", None, 0.0, ["block.qkv.bias", "block.out.bias"]),
        ("tables", None, None, ["table.weight"]),
    ]
    optimizer = TorchShampoo(groups, lr=0.1, start_step=1, weight_decay=0.1)
    assert {row.path: row.blocks for row in optimizer.plan().rows}["block.qkv.weight"] == "3 of 6 x 6"
    core = Shampoo(0.1, start_step=1, split=3, weight_decay=0.1)
    W = model["block"].qkv.weight.detach().numpy().copy()
    state = core.init(W)
    for g in gradients((18, 6), 4):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        model["block"].qkv.weight.grad = torch.from_numpy(g.astype(np.float32))
        optimizer.step()
        state = core.step(W, g.astype(np.float32), state)
        np.testing.assert_allclose(model["block"].qkv.weight.detach().numpy(), W, rtol=1e-3, atol=1e-5)
    again = TorchShampoo(groups, lr=0.1, start_step=1)
    again.load_state_dict(optimizer.state_dict())


def test_optax_by_rules():
    jax = pytest.importorskip("jax")
    pytest.importorskip("optax")
    from matroot_optim.optax import plan, scale_by_shampoo

    rules = {"*/kernel": {"split": 2, "split_dim": -1}}
    tx = scale_by_shampoo(groups=rules, start_step=1)
    net = {"qkv": {"kernel": jax.numpy.zeros((6, 12))}}
    assert plan(tx, net).rows[0].blocks == "2 of 6 x 6"
    core, W = Shampoo(1.0, groups=rules, start_step=1), {"qkv": {"kernel": np.zeros((6, 12), np.float32)}}
    state, plain, update = tx.init(net), core.init(W), jax.jit(tx.update)
    for g in gradients((6, 12), 3):
        g = g.astype(np.float32)
        found, state = update({"qkv": {"kernel": jax.numpy.asarray(g)}}, state)
        want, plain = core.update({"qkv": {"kernel": g}}, plain, W)
        np.testing.assert_allclose(found["qkv"]["kernel"], -want["qkv"]["kernel"], rtol=1e-3, atol=1e-4)

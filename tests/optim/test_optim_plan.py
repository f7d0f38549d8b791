"""Shapes of real networks: no root is larger than a block or the short side of a table, and the state is bounded."""

from __future__ import annotations

import math

import numpy as np
import pytest

from matroot_optim import Shampoo
from matroot_optim.layout.axes import is_table
from matroot_optim.layout.layout import make_layout
from matroot_optim.plan import warn_if_large

RESNET50 = [(64, 3, 7, 7), (1000, 2048)] + [
    shape
    for width in (64, 128, 256, 512)
    for shape in [(width, 4 * width, 1, 1), (width, 2 * width, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
]
VIT = [(768, 3, 16, 16), (2304, 768), (768, 768), (3072, 768), (768, 3072), (1000, 768), (1, 197, 768), (1, 1, 768)]
BERT = [(30522, 768), (512, 768), (2, 768), (768, 768), (3072, 768), (768, 3072), (768,), (3072,)]
BERT_FLAX = [(30522, 768), (768, 12, 64), (12, 64, 768), (12, 64), (768, 3072)]
UNET = [(64, 1, 3, 3), (64, 64, 3, 3), (1024, 512, 3, 3), (1024, 1024, 3, 3), (1024, 512, 2, 2), (2, 64, 1, 1)]
UNET_JAX = [(3, 3, 1, 64), (3, 3, 64, 64), (3, 3, 512, 1024), (2, 2, 1024, 512), (1, 1, 64, 2), (3, 3, 3, 32, 64)]
DLRM = [(1460, 16), (10_131, 16), (3, 16), (512, 13), (256, 512), (16, 64), (1024, 479), (1, 256)]
NETWORKS = {
    "ResNet-50": RESNET50,
    "ViT": VIT,
    "BERT": BERT,
    "BERT, flax": BERT_FLAX,
    "U-Net": UNET,
    "U-Net, jax": UNET_JAX,
    "DLRM": DLRM,
}


def plan(shapes, **options):
    params = {str(shape): np.broadcast_to(np.float32(0), shape) for shape in shapes}
    return Shampoo(1e-3, **options).plan(params)


@pytest.mark.parametrize("network", NETWORKS)
def test_no_parameter_takes_more_than_six_numbers_for_each(network):
    for row in plan(NETWORKS[network]).rows:
        assert row.numbers <= 6, row
        assert row.treatment in ("adam", "by row", "one side") or not is_table(row.matrix), row
        if is_table(row.matrix):
            assert row.numbers <= 3, row


@pytest.mark.parametrize("network", NETWORKS)
def test_no_root_is_larger_than_a_block(network):
    params = {str(shape): np.broadcast_to(np.float32(0), shape) for shape in NETWORKS[network]}
    opt = Shampoo(1e-3, block_size=256)
    layout = opt.init({name: x for name, x in params.items() if x.size < 1e7}).layout
    assert all(stack.shape[axis] <= 256 for stack, axis in layout.factors)


def test_tables_are_those_of_the_networks():
    tables = {shape for shapes in NETWORKS.values() for shape in shapes if len(shape) == 2 and is_table(shape)}
    assert tables == {(30522, 768), (2, 768), (1460, 16), (10_131, 16), (512, 13), (1, 256)}


@pytest.mark.parametrize("shape", [(16,), (1, 16), (16, 1), (1, 1, 16), ()])
def test_vectors_are_vectors(shape):
    assert plan([shape]).rows[0].treatment == "adam"


def test_plan_counts_what_the_state_has():
    params = {
        "w": np.zeros((96, 384), np.float32),
        "b": np.zeros(384, np.float32),
        "c": np.zeros((8, 3, 3, 3), np.float32),
    }
    opt = Shampoo(1e-3)
    state = opt.init(params)
    parts = ("/momentum", "/moment", "/statistic", "/root")
    measured = sum(x.nbytes for name, x in state.items() if name.endswith(parts))
    assert opt.plan(params).state_bytes == measured


def test_table_of_a_plan():
    text = str(plan([(4000, 96), (64, 3, 7, 7)], block_aspect=None, preconditioned_dims="all"))
    assert "both sides" in text and "block_size and block_aspect make it less" in text
    assert "Adam's" in str(plan([(4000, 96)])) and "make it less" not in str(plan([(4000, 96)]))


def test_measured_plan_has_seconds():
    params = {"w": np.zeros((24, 40), np.float32), "b": np.zeros(7)}
    rows = Shampoo(1e-3).plan(params, measure=True).rows
    assert 0 < rows[0].root_seconds < 1
    assert rows[1].root_seconds == 0
    assert math.isnan(Shampoo(1e-3).plan(params).rows[0].root_seconds)


# The warning of memory: once for every optimizer, in every adapter, and never by the defaults.

LARGE = {"preconditioned_dims": "all", "block_aspect": None}
WARNING = (
    r"Shampoo's state takes 2\.63 MB, 1\d\.\d times Adam's; most of the excess for '(w|0/0|up\.weight)': block_size and"
)


def lines(plan):
    return sorted(str(plan).splitlines())


def structs(shapes):
    return {str(shape): np.broadcast_to(np.float32(0), shape) for shape in shapes}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_defaults_are_not_warned_of(network):
    warn_if_large(make_layout(Shampoo(1e-3), structs(NETWORKS[network])))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_defaults_are_not_warned_of_in_torch(network):
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as TorchShampoo

    TorchShampoo([torch.empty(shape, requires_grad=True) for shape in NETWORKS[network]])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_defaults_are_not_warned_of_under_optax(network):
    jax = pytest.importorskip("jax")
    from matroot_optim.optax import plan, shampoo

    shapes = {str(shape): jax.ShapeDtypeStruct(shape, np.float32) for shape in NETWORKS[network]}
    jax.eval_shape(shampoo(1e-3).init, shapes)
    found = plan(shampoo(1e-3), shapes)
    assert lines(found) == lines(Shampoo(1e-3).plan(structs(NETWORKS[network])))


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (2, 2), (2, 3), (3, 2, 2)])
def test_toys_are_not_warned_of(shape):
    Shampoo(1e-3).init(np.zeros(shape))


def test_the_core_warns_at_init():
    with pytest.warns(UserWarning, match=WARNING) as found:
        state = Shampoo(1e-3, **LARGE).init({"w": np.ones((640, 32), np.float32), "b": np.ones(3, np.float32)})
    assert len(found) == 1
    assert found[0].filename == __file__
    Shampoo(1e-3, **LARGE).update({"w": np.ones((640, 32), np.float32)}, state)
    assert "16.0 times" in str(Shampoo(1e-3, **LARGE).plan({"w": np.ones((640, 32), np.float32)}))


@pytest.mark.parametrize("named", [False, True])
def test_torch_warns_when_the_optimizer_is_made(named):
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as TorchShampoo

    model = torch.nn.ModuleDict({"up": torch.nn.Linear(32, 640)})
    with pytest.warns(UserWarning, match=WARNING) as found:
        opt = TorchShampoo(model.named_parameters() if named else model.parameters(), **LARGE)
    assert len(found) == 1
    assert found[0].filename == __file__
    model["up"](torch.ones(2, 32)).square().mean().backward()
    opt.step()
    opt.load_state_dict(opt.state_dict())
    assert [row.path for row in opt.plan().rows] == (["up.weight", "up.bias"] if named else ["0/0", "0/1"])


def test_optax_warns_at_init():
    jax = pytest.importorskip("jax")
    from matroot_optim.optax import plan, shampoo

    params = {"w": np.ones((640, 32), np.float32)}
    tx = shampoo(1e-3, **LARGE)
    assert "16.0 times" in str(plan(tx, params))
    with pytest.warns(UserWarning, match=WARNING) as found:
        state = tx.init(params)
    assert len(found) == 1
    jax.eval_shape(tx.update, params, state, params)


def test_a_plan_in_torch_is_that_of_the_core():
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as TorchShampoo

    shapes = {"conv": (64, 32, 3, 3), "table": (2000, 16), "bias": (64,)}
    params = [(name, torch.zeros(shape, requires_grad=True)) for name, shape in shapes.items()]
    opt = TorchShampoo([{"params": params[:2]}, {"params": params[2:], "block_size": 8}], block_size=48)
    core = Shampoo(1e-3, block_size=48).plan({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    assert lines(opt.plan()) == lines(core)
    measured = opt.plan(measure=True).rows
    assert 0 < measured[0].root_seconds < 1
    assert measured[2].root_seconds == 0
    assert not opt._keeper.tensors  # nothing is allocated by it


@pytest.mark.parametrize("others", ["masked", "several"])
def test_a_plan_under_optax_has_what_shampoo_gets(others):
    optax = pytest.importorskip("optax")
    from matroot_optim.optax import plan, shampoo

    params = {"w": np.ones((40, 30), np.float32), "v": np.ones((20, 30), np.float32)}
    tx = {
        "masked": optax.masked(shampoo(1e-3), {"w": True, "v": False}),
        "several": optax.multi_transform({"s": shampoo(1e-3), "a": optax.adam(1e-3)}, {"w": "s", "v": "a"}),
    }[others]
    found = plan(optax.chain(optax.clip(1.0), tx), params)
    assert [row.path for row in found.rows] == ["w"]
    two = optax.multi_transform({"s": shampoo(1e-3), "a": shampoo(1e-3, block_size=8)}, {"w": "s", "v": "a"})
    assert {row.path: row.blocks.split(" of ")[0] for row in plan(two, params).rows} == {"w": "1", "v": "20"}
    with pytest.raises(ValueError, match="tx must hold a ShampooState, got"):
        plan(optax.adam(1e-3), params)


def test_the_warning_names_what_takes_the_bytes():
    """An average takes as much as the weights; large blocks are those of vectors here, not of the larger matrix."""
    params = {"w": np.ones((96, 384), np.float32), "b": np.ones(384, np.float32)}
    with pytest.warns(UserWarning, match=r"3\.4 times Adam's; 0\.149 MB of it are the averages of the weights"):
        Shampoo(1e-3, averaging="ema").init(params)
    with pytest.warns(UserWarning, match="most of the excess for 'b': block_size"):
        Shampoo(1e-3, precondition_vectors=True, averaging="ema").init(params)
    assert "are the averages" in str(Shampoo(1e-3, averaging="ema").plan(params))

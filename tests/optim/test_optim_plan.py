"""Shapes of real networks: no root is larger than a block, no table has one, and the state stays within its bound."""

from __future__ import annotations

import math

import numpy as np
import pytest

from matroot_optim import Shampoo
from matroot_optim.layout import is_table

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
        assert row.treatment == "adam" or not is_table(row.matrix), row


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

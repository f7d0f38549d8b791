"""Merging, cutting and packing: round trips for any shape."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matroot_optim import Shampoo
from matroot_optim.checkpoint.reblock import reblock
from matroot_optim.layout.blocking import (
    as_matrix,
    assemble,
    block_sizes,
    merge_dims,
    regions,
    stack,
    unstack,
)
from matroot_optim.layout.layout import make_layout
from matroot_optim.step.statistics import gram, pack, packed_size, unpack

shapes = st.lists(st.integers(1, 9), max_size=4).map(tuple)


@pytest.mark.parametrize(
    ("shape", "limit", "merged"),
    [
        ([1, 2, 512, 1, 2048, 1, 3, 4], 1024, (1024, 2048, 12)),
        ([1, 2, 768, 1, 2048], 1024, (2, 768, 2048)),
        ([3, 3, 128, 128], 1024, (9, 128, 128)),
        ([1, 1, 1], 8, ()),
        ([], 8, ()),
        ([4096, 1, 2], 8, (4096, 2)),
        ([2, 0, 3], 8, (2, 0, 3)),
    ],
)
def test_merging(shape, limit, merged):
    assert merge_dims(shape, limit) == merged


@given(shapes, st.integers(1, 100))
def test_merging_keeps_the_size_and_the_limit(shape, limit):
    merged = merge_dims(shape, limit)
    assert math.prod(merged) == math.prod(shape)
    assert 1 not in merged
    assert all(n <= limit or n in shape for n in merged)
    assert all(a * b > limit for a, b in itertools.pairwise(merged))


@given(shapes)
def test_a_tensor_as_a_matrix(shape):
    matrix = as_matrix(shape)
    assert math.prod(matrix) == math.prod(shape)
    assert len(matrix) <= 2 or 0 in shape
    assert 1 not in matrix or 0 in shape
    if len(matrix) == 2 and 0 not in shape:  # no other cut is nearer to square
        cuts = [math.prod(shape[:k]) for k in range(1, len(shape))]
        squareness = [
            max(m, math.prod(shape) // m) / min(m, math.prod(shape) // m) for m in cuts if 1 < m < math.prod(shape)
        ]
        assert max(matrix) / min(matrix) == min(squareness)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 64))
def test_blocks_are_not_much_longer_than_wide(m, n, limit):
    size = block_sizes((m, n), limit, 2.0, (0, 1))
    assert max(size) <= limit
    blocks = [min(a, b) for a, b in zip((m, n), size, strict=True)]
    assert max(blocks) <= 2 * min(min(m, limit), min(n, limit))


@settings(deadline=None)
@given(shapes, st.integers(1, 5), st.sampled_from([None, 1.0, 2.0]), st.data())
def test_cutting_round_trip(shape, size, aspect, data):
    axes = data.draw(st.sets(st.integers(0, max(0, len(shape) - 1))).map(sorted)) if shape else []
    x = np.arange(math.prod(shape), dtype=float).reshape(shape)
    parts = regions(shape, block_sizes(shape, size, aspect, axes))
    assert len(parts) <= 2 ** len(axes)
    blocks = [stack(x, region, np) for region in parts]
    assert sum(b.size for b in blocks) == x.size
    for region, block in zip(parts, blocks, strict=True):
        assert all(block.shape[1 + i] <= size for i in axes)
        for origin, b in zip(region.origins(), block, strict=True):
            index = tuple(slice(o, o + n) for o, n in zip(origin, region.size, strict=True))
            np.testing.assert_array_equal(x[index], b)
    boxes = [unstack(b, region, np) for region, b in zip(parts, blocks, strict=True)]
    np.testing.assert_array_equal(assemble(boxes, parts, np), x)


@given(st.integers(0, 12), st.integers(0, 3))
def test_packing_round_trip(n, batch):
    A = np.random.default_rng(n).standard_normal((batch, n, n))
    A = A + A.swapaxes(1, 2)
    packed = pack(A)
    assert packed.shape == (batch, packed_size(n))
    np.testing.assert_array_equal(unpack(packed), A)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
def test_gram_of_unfoldings(shape):
    G = np.random.default_rng(0).standard_normal((2, *shape))
    for axis in range(len(shape)):
        U = np.moveaxis(G, axis + 1, 1).reshape(2, shape[axis], -1)
        np.testing.assert_allclose(unpack(gram(G, axis, np)), U @ U.swapaxes(1, 2), atol=1e-12)


def test_equal_blocks_of_all_parameters_are_one_stack():
    params = {"a": np.zeros((8, 12)), "b": np.zeros((4, 4)), "c": np.zeros((10, 4)), "d": np.zeros(7)}
    layout = make_layout(Shampoo(0.1, block_size=4), params)
    sizes = {s.shape: s.blocks for s in layout.stacks}
    assert sizes == {(4, 4): 6 + 1 + 2, (2, 4): 1}
    names = list(layout.block_names(layout.stacks[0]))
    assert names[:3] == ["a/block0", "a/block1", "a/block2"]
    assert names[6:] == ["b/block0", "c/block0", "c/block1"]
    assert list(layout.block_names(layout.stacks[1])) == ["c/block2"]


def energy(blocks, statistics, axis):
    return sum(np.trace(unpack(statistics[k, axis])) for k in range(len(blocks)))


@pytest.mark.parametrize(("old", "new"), [(4, 4), (8, 4), (4, 8), (3, 5), (100, 2)])
def test_reblocking(old, new):
    rng = np.random.default_rng(0)
    shape, axes = (8, 10), (0, 1)
    G = rng.standard_normal(shape)

    def cut(size):
        layout = make_layout(Shampoo(0.1, block_size=size, block_aspect=None), {"w": G})
        blocks = layout.leaves[0].blocks
        stats = {}
        for k, (origin, extent) in enumerate(blocks):
            g = G[tuple(slice(o, o + n) for o, n in zip(origin, extent, strict=True))]
            stats[k, 0], stats[k, 1] = pack(g @ g.T), pack(g.T @ g)
        return blocks, stats

    before, after = cut(old), cut(new)
    got = reblock(before[0], before[1], after[0], axes)
    for i in axes:
        np.testing.assert_allclose(energy(after[0], got, i), energy(*before, i), rtol=1e-12)
    for A in map(unpack, got.values()):
        assert np.linalg.eigvalsh(A)[0] > -1e-12
    if old == new:
        for key, value in got.items():
            np.testing.assert_allclose(value, before[1][key], rtol=1e-12)
    if (old, new) == (4, 8):  # coarser: exact on what one old block knew
        for key, value in got.items():
            A, want = unpack(value), unpack(after[1][key])
            np.testing.assert_allclose(A[:4, :4], want[:4, :4], rtol=1e-12)


@pytest.mark.parametrize("dims", ["auto", "all", "table", "none"])
@pytest.mark.parametrize("merge", [1, 100])
@pytest.mark.parametrize("shape", [(1, 1, 1), ()])
def test_a_parameter_of_one_number_has_no_parts(shape, merge, dims):
    """A split of all parameters reaches those whose dimensions are merged away, too."""
    opt = Shampoo(0.1, split=2, merge=merge, preconditioned_dims=dims)
    assert opt.plan({"one": np.ones(shape), "fused": np.ones((6, 4))}).rows[0].treatment == "adam"

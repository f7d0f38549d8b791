"""Tables: one root of the short side, and the graft's norm for every row."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import SOAP, InlineEngine, KLShampoo, Shampoo, apply_updates
from optim.oracle import Oracle

OPTIONS = {"refresh_every": 1, "schedule": "interval", "start_step": 1, "exponent": None, "refresh_growth": 0.0}
TALL, WIDE = (340, 32), (32, 340)


def gradients(shape, steps=5, dtype=np.float64):
    rng = np.random.default_rng(0)
    scale = np.geomspace(1e-3, 1.0, max(shape)).reshape((-1, 1) if shape[0] > shape[1] else (1, -1))
    return [(rng.standard_normal(shape) * scale).astype(dtype) for _ in range(steps)]


def train(opt, grads):
    """Parameters and the last update."""
    params = {"words": np.ones_like(grads[0])}
    state = opt.init(params)
    for g in grads:
        updates, state = opt.update({"words": g}, state, params)
        params = apply_updates(params, updates)
    return params["words"], updates["words"]


def treatment(opt, *shape):
    return opt.plan({"words": np.broadcast_to(np.float32(0), shape)}).rows[0].treatment


@pytest.mark.parametrize("graft", ["adam", "rmsprop", "adagrad", "sgd"])
@pytest.mark.parametrize("shape", [TALL, WIDE])
def test_every_row_has_the_norm_of_its_first_order_step(shape, graft):
    opt, axis = Shampoo(0.1, graft=graft, **OPTIONS), int(np.argmin(shape))
    oracle = Oracle(shape, graft=graft, axes=(axis,), by_row=True)
    W = np.ones(shape)
    for g in gradients(shape):
        W = W + oracle.step(g, W)
    got, last = train(opt, gradients(shape))
    np.testing.assert_allclose(got, W, rtol=1e-9, atol=1e-10)
    _, first = train(Shampoo(0.1, graft=graft, preconditioned_dims="none"), gradients(shape))
    np.testing.assert_allclose(np.linalg.norm(last, axis=axis), np.linalg.norm(first, axis=axis), rtol=1e-9)
    assert np.linalg.norm(last - first) > 0.1 * np.linalg.norm(first)


def test_a_row_that_nobody_has_seen_stays():
    grads = gradients(TALL)
    for g in grads:
        g[100:] = 0
    got, _ = train(Shampoo(0.1, **OPTIONS), grads)
    assert (got[100:] == 1).all()
    assert (got[:100] != 1).all()


def test_a_table_wider_than_a_block_is_several():
    options = {**OPTIONS, "preconditioned_dims": "table", "block_size": 32, "graft_epsilon": 0.0}
    grads = gradients((340, 64))
    row = Shampoo(0.1, **options).plan({"words": grads[0]}).rows[0]
    assert (row.treatment, row.blocks) == ("by row", "2 of 340 x 32")
    got, _ = train(Shampoo(0.1, **options), grads)
    want, _ = train(Shampoo(0.1, **options), [g[:, 32:] for g in grads])
    np.testing.assert_allclose(got[:, 32:], want, rtol=1e-12)


def test_kl_shampoo_has_the_same_direction():
    """The size of the one statistic has no effect on a table."""
    options = {**OPTIONS, "exponent": -0.5}
    got, _ = train(KLShampoo(0.1, **options), gradients(TALL))
    want, _ = train(Shampoo(0.1, **options), gradients(TALL))
    np.testing.assert_array_equal(got, want)


def test_which_tables_move_by_row():
    assert treatment(Shampoo(0.1), 321, 32) == treatment(KLShampoo(0.1), 32, 400) == "by row"
    assert treatment(Shampoo(0.1), 320, 32) == "both sides"
    assert treatment(Shampoo(0.1, preconditioned_dims="table"), 40, 32) == "by row"
    assert treatment(Shampoo(0.1, preconditioned_dims="table"), 4, 400) == "adam"
    assert treatment(SOAP(0.1), 4000, 96) == treatment(SOAP(0.1, statistics_of="whitened"), 4000, 96) == "by row"
    assert treatment(Shampoo(0.1, direction="spectral"), 4000, 96) == "adam"
    assert treatment(Shampoo(0.1, graft="sqrt_n"), 4000, 96) == "sqrt_n"
    assert treatment(Shampoo(0.1, graft="none"), 4000, 96) == "rmsprop"


def test_a_narrow_table_is_one_of_categories():
    """One root for the columns and one graft; classifiers have few columns too, but not so many rows for each."""
    assert treatment(Shampoo(0.1), 1985, 31) == treatment(KLShampoo(0.1), 513, 8) == "one side"
    assert (
        treatment(Shampoo(0.1), 1984, 31)
        == treatment(Shampoo(0.1), 512, 8)
        == treatment(Shampoo(0.1), 768, 2)
        == "adam"
    )
    assert treatment(Shampoo(0.1), 10, 4096) == "adam"  # a classifier in torch's order
    named = Shampoo(0.1, preconditioned_dims="table")
    assert treatment(named, 7, 16) == treatment(named, 100, 2) == "one side"
    assert treatment(named, 100, 1) == treatment(named, 6, 16) == "adam"
    for width in range(2, 32):  # no table has more than six numbers for each of its own
        plans = [named.plan({"words": np.zeros((rows, width), np.float32)}).rows[0] for rows in range(1, width)]
        assert all(row.numbers <= 6 for row in plans)
    assert treatment(SOAP(0.1), 4000, 16) == "one side"
    assert treatment(Shampoo(0.1, direction="spectral"), 4000, 16) == "adam"


def test_a_classifier_of_flax_or_keras_is_no_table_of_categories():
    """Its shape may be that of one; a name says what it is."""
    x = np.broadcast_to(np.float32(0), (784, 10))
    rows = Shampoo(0.1).plan({"Dense_0": {"kernel": x}, "Embed_0": {"embedding": x}, "kernel": x}).rows
    assert [row.treatment for row in rows] == ["adam", "one side", "adam"]
    rows = Shampoo(0.1, preconditioned_dims="table").plan({"kernel": x}).rows
    assert [row.treatment for row in rows] == ["one side"]


@pytest.mark.parametrize("shape", [TALL, (1100, 16)])
@pytest.mark.parametrize("statistics_of", ["gradient", "whitened"])
def test_soap_moves_tables_by_the_roots_of_the_step_before(shape, statistics_of):
    """Not by a basis, in which every entry is divided by a size of its own."""
    options = {"betas": (0.9, 0.99), "start_step": 5, "refresh_every": 3}
    got, last = train(SOAP(0.1, statistics_of=statistics_of, **options), gradients(shape, 14))
    want, _ = train(Shampoo(0.1, engine=InlineEngine(lag=1), **options), gradients(shape, 14))
    np.testing.assert_array_equal(got, want)
    adam, first = train(Shampoo(0.1, betas=(0.9, 0.99), preconditioned_dims="none"), gradients(shape, 14))
    assert np.linalg.norm(got - adam) > 0.1 * np.linalg.norm(adam - 1)
    assert np.linalg.norm(last) == pytest.approx(np.linalg.norm(first), rel=1e-9)


@pytest.mark.parametrize("shape", [(1100, 16), (7, 16)])
def test_categories_share_a_root_and_a_graft(shape):
    opt, oracle = Shampoo(0.1, preconditioned_dims="table", **OPTIONS), Oracle(shape, graft="adam", axes=(1,))
    W = np.ones(shape)
    for g in gradients(shape):
        W = W + oracle.step(g, W)
    got, last = train(opt, gradients(shape))
    np.testing.assert_allclose(got, W, rtol=1e-9, atol=1e-10)
    _, first = train(Shampoo(0.1, preconditioned_dims="none"), gradients(shape))
    assert np.linalg.norm(last) == pytest.approx(np.linalg.norm(first), rel=1e-9)
    if shape[0] > shape[1]:  # the rows' gradients are 1000 times apart
        ours, adam = (np.linalg.norm(u, axis=1) for u in (last, first))
        assert ours[-1] / ours[0] > 10 * adam[-1] / adam[0]


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_equal_tables_of_categories_are_as_each_alone(kind):
    """Large blocks of a stack are not joined in one array."""
    named = {"preconditioned_dims": "table", **OPTIONS}
    first, second = gradients((1100, 16), dtype=np.float32), gradients((1100, 16), dtype=np.float32)[::-1]
    alone = [train(Shampoo(0.1, **named), grads)[0] for grads in (first, second)]
    if kind == "numpy":
        opt, params = (
            Shampoo(0.1, **named),
            {"a": np.ones((1100, 16), np.float32), "b": np.ones((1100, 16), np.float32)},
        )
        state = opt.init(params)
        assert state.layout.stacks[0].apart
        for a, b in zip(first, second, strict=True):
            updates, state = opt.update({"a": a, "b": b}, state, params)
            params = apply_updates(params, updates)
        got = [params["a"], params["b"]]
    else:
        torch = pytest.importorskip("torch")
        from matroot_optim.torch import Shampoo as TorchShampoo

        words = [torch.nn.Parameter(torch.ones(1100, 16)) for _ in range(2)]
        opt = TorchShampoo(words, lr=0.1, **named)
        for grads in zip(first, second, strict=True):
            for p, g in zip(words, grads, strict=True):
                p.grad = torch.from_numpy(g)
            opt.step()
        got = [p.detach().numpy() for p in words]
    for x, want in zip(got, alone, strict=True):
        np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-5)


def test_the_same_in_torch():
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as TorchShampoo

    grads = gradients(TALL, dtype=np.float32)
    words = torch.nn.Parameter(torch.ones(TALL))
    opt = TorchShampoo([words], lr=0.1, **OPTIONS)
    for g in grads:
        words.grad = torch.from_numpy(g)
        opt.step()
    want, _ = train(Shampoo(0.1, **OPTIONS), grads)
    np.testing.assert_allclose(words.detach().numpy(), want, rtol=1e-3, atol=1e-4)


def test_moments_of_half_the_size_and_a_file_keep_the_run(tmp_path):
    grads = gradients(TALL, 8, np.float32)
    opt = Shampoo(0.1, state_dtype="bfloat16", **OPTIONS)
    params = {"words": np.ones(TALL, np.float32)}
    state = opt.init(params)
    for k, g in enumerate(grads):
        if k == 4:
            state.save(tmp_path / "state.npz")
            state = opt.load(tmp_path / "state.npz", params)
        updates, state = opt.update({"words": g}, state, params)
        params = apply_updates(params, updates)
    want, _ = train(Shampoo(0.1, state_dtype="bfloat16", **OPTIONS), grads)
    np.testing.assert_array_equal(params["words"], want)

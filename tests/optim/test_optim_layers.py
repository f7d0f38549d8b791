"""A layer left out, decay masked and rates per layer, as the documents do it: the same steps in every adapter."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import Shampoo, apply_updates

SHAPES = {"bias": (5,), "embedding": (9, 8), "kernel": (8, 5)}
RATE, SLOW, DECAY = 1e-2, 1e-3, 0.1


def gradients():
    rng = np.random.default_rng(0)
    return [{k: rng.standard_normal(shape).astype("f4") for k, shape in SHAPES.items()} for _ in range(8)]


def ones():
    return {k: np.ones(shape, "f4") for k, shape in SHAPES.items()}


def core():
    def layers(path):
        if path == "embedding":
            return {"preconditioned_dims": "none", "learning_rate": SLOW}
        return {"weight_decay": 0.0} if path == "bias" else None

    opt, params = Shampoo(RATE, weight_decay=DECAY, groups=layers), ones()
    state = opt.init(params)
    for g in gradients():
        updates, state = opt.update(g, state, params)
        params = apply_updates(params, updates)
    return params


def torch_groups():
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as TorchShampoo

    p = {k: torch.nn.Parameter(torch.from_numpy(x)) for k, x in ones().items()}
    groups = [
        {"params": [p["kernel"]]},
        {"params": [p["bias"]], "weight_decay": 0.0},
        {"params": [p["embedding"]], "preconditioned_dims": "none", "lr": SLOW},
    ]
    opt = TorchShampoo(groups, RATE, weight_decay=DECAY)
    for g in gradients():
        for k, x in g.items():
            p[k].grad = torch.from_numpy(x)
        opt.step()
    return {k: x.detach().numpy() for k, x in p.items()}


def torch_model():
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as TorchShampoo
    from matroot_optim.torch import parameter_groups

    model = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(9, 8), "dense": torch.nn.Linear(5, 8)})
    p = {"embedding": model["embedding"].weight, "kernel": model["dense"].weight}
    model["dense"].bias = torch.nn.Parameter(torch.ones(5))
    p["bias"] = model["dense"].bias
    for x in p.values():
        torch.nn.init.ones_(x)
    dense, tables = parameter_groups(model)
    tables |= {"preconditioned_dims": "none", "lr": SLOW}
    no_decay = {"params": [(name, x) for name, x in dense["params"] if x.ndim < 2], "weight_decay": 0.0}
    dense["params"] = [(name, x) for name, x in dense["params"] if x.ndim >= 2]
    opt = TorchShampoo([dense, no_decay, tables], RATE, weight_decay=DECAY)
    for g in gradients():
        for k, x in g.items():
            p[k].grad = torch.from_numpy(x)
        opt.step()
    return {k: x.detach().numpy() for k, x in p.items()}


def with_optax(tx):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    params = {k: jax.numpy.asarray(x) for k, x in ones().items()}
    state, update = tx.init(params), jax.jit(tx.update)
    for g in gradients():
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return {k: np.asarray(x) for k, x in params.items()}


def matrices(params):
    import jax

    return jax.tree.map(lambda x: x.ndim > 1, params)


def optax_rates():
    optax = pytest.importorskip("optax")
    from matroot_optim.optax import scale_by_shampoo

    return with_optax(
        optax.chain(
            scale_by_shampoo(groups=lambda path: {"preconditioned_dims": "none"} if path == "embedding" else None),
            optax.add_decayed_weights(DECAY, matrices),
            optax.multi_transform(
                {"slow": optax.scale(-SLOW), "usual": optax.scale(-RATE)},
                {"bias": "usual", "embedding": "slow", "kernel": "usual"},
            ),
        )
    )


def optax_others():
    """An embedding that optax's AdamW gets."""
    optax = pytest.importorskip("optax")
    from matroot_optim.optax import shampoo

    return with_optax(
        optax.multi_transform(
            {
                "table": optax.adamw(SLOW, eps=1e-12, weight_decay=DECAY),
                "rest": shampoo(RATE, weight_decay=DECAY, mask=matrices),
            },
            {"bias": "rest", "embedding": "table", "kernel": "rest"},
        )
    )


COMPILED = [pytest.param(way, marks=pytest.mark.slow) for way in (optax_rates, optax_others)]


@pytest.mark.parametrize("way", [torch_groups, torch_model, *COMPILED], ids=lambda way: way.__name__)
def test_every_adapter_does_the_same(way):
    got, want = way(), core()
    for k in SHAPES:
        np.testing.assert_allclose(got[k], want[k], rtol=2e-4, err_msg=k)


def test_it_is_what_was_asked_for():
    """The embedding has AdamW's steps at the slow rate, the bias no decay, and the kernel roots and decay."""
    got, usual = core(), Shampoo(RATE)
    params = ones()
    state = usual.init(params)
    for g in gradients():
        updates, state = usual.update(g, state, params)
        params = apply_updates(params, updates)
    np.testing.assert_array_equal(got["bias"], params["bias"])
    assert abs(got["kernel"] - params["kernel"] + 8 * RATE * DECAY).max() < 2e-3
    assert 0 < abs(got["embedding"] - 1).max() < 8 * SLOW * 3.2

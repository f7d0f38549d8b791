"""Spectral directions U S^s V^T against numpy's SVD and torch's Muon, in every adapter."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import SOAP, Shampoo
from optim.problems import assert_same, run

PLAIN = {"direction": "spectral", "graft": "none", "momentum": "none"}


def gradients(shape, steps, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(steps)]


def power(G, s):
    U, w, V = np.linalg.svd(G, full_matrices=False)
    return (U * w**s) @ V


def moves(opt, G):
    W = np.ones(G[0].shape, G[0].dtype)
    state, found = opt.init(W), []
    for g in G:
        update, state = opt.update(g, state, W)
        found.append(-update)
    return found


@pytest.mark.parametrize("s", [0, 0.5, -0.5, 1])
@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (30, 4)])
def test_it_is_the_power_of_the_singular_values(shape, s):
    opt = Shampoo(1.0, spectral_exponent=s, **PLAIN)
    for scale in (1.0, 1e-25, 1e25):
        G = [scale * g for g in gradients(shape, 3)]
        for D, g in zip(moves(opt, G), G, strict=True):
            np.testing.assert_allclose(D, power(g, s), rtol=1e-9, atol=1e-9 * scale**s)


@pytest.mark.parametrize("s", [0, 0.5, -0.5])
@pytest.mark.parametrize("shape", [(40, 40), (24, 70), (90, 30)])
def test_no_gradient_in_float32_takes_an_svd(shape, s, monkeypatch):
    """Of rank 3, or with a condition number of 1e12: what float32 does not resolve fades out, and the rest is exact."""
    rng, n = np.random.default_rng(0), min(shape)
    U, V = (np.linalg.qr(rng.standard_normal((m, n)))[0] for m in shape)
    for sigma in (np.geomspace(1, 1e-12, n), np.r_[1.0, 0.5, 0.2, np.zeros(n - 3)], np.geomspace(1, 1e-2, n)):
        G = ((U * sigma) @ V.T).astype(np.float32)
        kept, w, _ = np.linalg.svd(G.astype(np.float64), full_matrices=False)
        r = 16 * 2.0**-24 * n**0.5
        want = (kept * (w**2 + r**2) ** ((s - 1) / 2)) @ (kept.T @ G)
        with monkeypatch.context() as patch:
            patch.setattr(np.linalg, "svd", None)
            found = moves(Shampoo(1.0, spectral_exponent=s, **PLAIN), [np.float32(2.0**-66) * G])[0] * 2.0 ** (66 * s)
        size = np.linalg.norm(want, 2)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * size)
        clear = w > 1e-3
        exact = (kept[:, clear] * w[clear] ** (s - 1)) @ (kept[:, clear].T @ G)
        projected = kept[:, clear] @ (kept[:, clear].T @ found)
        np.testing.assert_allclose(projected, exact, rtol=0, atol=2e-3 * size)


def test_a_zero_matrix_beside_others():
    G = np.stack([np.zeros((8, 5)), gradients((8, 5), 1)[0]]).astype(np.float32)
    found = moves(Shampoo(1.0, batch_dims=1, **PLAIN), [G])[0]
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found[1], power(G[1], 0), rtol=0, atol=1e-5)


def test_it_is_muons_step():
    """torch's iteration is in bfloat16; with these coefficients it converges to the polar factor."""
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as Torch

    p, q = (torch.nn.Parameter(torch.ones(8, 5)) for _ in range(2))
    muon = torch.optim.Muon([p], 0.1, momentum=0.9, weight_decay=0.1, ns_coefficients=(1.5, -0.5, 0.0), ns_steps=30)
    ours = Torch(
        [q], 0.1 * (8 / 5) ** 0.5, momentum="nesterov", betas=(0.9, 0.99), weight_decay=0.1 / (8 / 5) ** 0.5,
        direction="spectral", graft="none",
    )  # fmt: skip
    for g in gradients((8, 5), 8, dtype=np.float32):
        before = q.detach().clone()
        for x, opt in ((p, muon), (q, ours)):
            x.grad = torch.from_numpy(g.copy())
            opt.step()
        assert (p - q).detach().norm() < 0.02 * (q - before).detach().norm()
        p.data.copy_(q.data)


def test_the_graft_gives_the_length():
    G = gradients((6, 4), 5)
    adam = moves(Shampoo(1.0, preconditioned_dims="none"), G)
    found = moves(Shampoo(1.0, direction="spectral"), G)
    M = np.zeros((6, 4))
    for D, A, g in zip(found, adam, G, strict=True):
        M = 0.9 * M + 0.1 * g
        U = power(M, 0)
        np.testing.assert_allclose(D, U * np.linalg.norm(A) / np.linalg.norm(U), rtol=1e-7)


def test_the_plan_and_the_parts():
    params = {"conv": np.zeros((8, 4, 3, 3)), "qkv": np.zeros((36, 9)), "table": np.zeros((500, 9)), "b": np.zeros(7)}
    opt = Shampoo(1e-3, groups={"qkv": {"split": 3}}, direction="spectral", block_size=4)
    rows = {row.path: row for row in opt.plan(params).rows}
    assert {name: row.treatment for name, row in rows.items()} == {
        "conv": "spectral", "qkv": "spectral", "table": "adam", "b": "adam"
    }  # fmt: skip
    assert (rows["conv"].blocks, rows["qkv"].blocks) == ("1 of 32 x 9", "3 of 12 x 9")
    assert rows["conv"].state_bytes == rows["conv"].adam_bytes
    assert rows["conv"].step_flops == 10 * 9**3 + 4 * 9**2 * 32
    assert opt.init(params).layout.factors == []
    G = gradients((12, 5), 2)
    parts = moves(Shampoo(1.0, split=3, **PLAIN), G)
    for D, g in zip(parts, G, strict=True):
        np.testing.assert_allclose(D[4:8], power(g[4:8], 0), rtol=1e-9, atol=1e-12)
    experts = moves(Shampoo(1.0, batch_dims=1, **PLAIN), gradients((3, 5, 4), 1))
    np.testing.assert_allclose(experts[0][1], power(gradients((3, 5, 4), 1)[0][1], 0), rtol=1e-9, atol=1e-12)


def test_a_zero_gradient_gives_a_zero_step():
    assert (moves(Shampoo(1.0, **PLAIN), [np.zeros((4, 3))])[0] == 0).all()


def test_a_resume_is_bit_exact(tmp_path):
    opt = Shampoo(0.05, direction="spectral", hyperball=True, averaging="ema", state_dtype="bfloat16")
    shapes = {"a": (6, 9), "c": (5,)}
    want, _ = run(opt, 8, shapes)
    params, state = run(opt, 4, shapes)
    state.save(tmp_path / "state.npz")
    got, _ = run(opt, 8, shapes, params=params, state=opt.load(tmp_path / "state.npz", params), skip=4)
    assert_same(got, want)
    with pytest.raises(ValueError, match="must have axes"):
        Shampoo(0.05).load(tmp_path / "state.npz", params)


def test_wrong_options():
    with pytest.raises(ValueError, match="direction must be 'roots' under SOAP and KL-Shampoo"):
        SOAP(0.1, direction="spectral")
    with pytest.raises(ValueError, match="precondition_vectors must be False for a spectral direction of ''"):
        Shampoo(0.1, direction="spectral", precondition_vectors=True).init(np.ones(4))
    with pytest.raises(ValueError, match=r"merge must be 'matrix' for a spectral direction of '', whose shape is"):
        Shampoo(0.1, direction="spectral", merge=None).init(np.ones((3, 3, 3)))


@pytest.mark.slow
def test_optax_and_torch_agree_with_the_core():
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_disable_most_optimizations", True)
    from matroot_optim.optax import shampoo
    from matroot_optim.torch import Shampoo as Torch

    W, core, tx = np.ones((3, 2), np.float32), Shampoo(0.05, direction="spectral"), shampoo(0.05, direction="spectral")
    p = torch.nn.Parameter(torch.ones(3, 2))
    theirs, y = Torch([p], 0.05, direction="spectral"), jax.numpy.ones((3, 2))
    state, other, update = core.init(W), tx.init(y), jax.jit(tx.update)
    for g in gradients((3, 2), 5, dtype=np.float32):
        state = core.step(W, g, state)
        updates, other = update(jax.numpy.asarray(g), other, y)
        y = optax.apply_updates(y, updates)
        p.grad = torch.from_numpy(g)
        theirs.step()
        np.testing.assert_allclose(y, W, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(p.detach(), W, rtol=1e-4, atol=1e-5)

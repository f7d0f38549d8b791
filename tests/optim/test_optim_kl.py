"""KL-Shampoo's statistics against a dense oracle, the covariance that they estimate, and in every framework."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import SOAP, InlineEngine, KLShampoo, Shampoo
from matroot_optim.step.statistics import unpack
from matroot_optim.step.whitening import share_of_units

PLAIN = {"refresh_every": 1, "refresh_growth": 0.0, "schedule": "interval", "start_step": 1, "block_aspect": None}
PLAIN |= {"graft": "none", "momentum": "none", "merge": None, "preconditioned_dims": "all", "ridge": 1e-8}


def inverse_root(A, ridge=1e-8):
    w, Q = np.linalg.eigh(A + ridge * np.linalg.eigvalsh(A)[-1] * np.eye(len(A)))
    return (Q / np.sqrt(w)) @ Q.T


def dense(G, beta, every=1):
    """The direction at every step, and the statistics, by einsum over whole tensors."""
    shape, S, X, found = G[0].shape, None, None, []
    letters = "abcd"[: len(shape)]
    for t, g in enumerate(G, 1):
        products = []
        for i, n in enumerate(shape):
            u = g
            for j in range(len(shape)):
                if j != i and X is not None:
                    out = letters.replace(letters[j], "z")
                    u = np.einsum(f"z{letters[j]},{letters}->{out}", X[j], u)
            P = np.einsum(f"{letters},{letters.replace(letters[i], 'z')}->{letters[i]}z", u, u) / (g.size // n)
            if X is None:  # a share of the gradient's size, and a multiple of I of the product's
                P = P * (g**2).mean() ** (-(len(shape) - 1) / len(shape))
                P = P + np.trace(P) / n * np.eye(n)
            products.append(P)
        S = [(beta * A if S is not None else 0) + (1 - beta) * P for A, P in zip(S or products, products, strict=True)]
        if (t - 1) % every == 0:
            X = [inverse_root(A / (1 - beta**t)) for A in S]
        D = g
        for j in range(len(shape)):
            out = letters.replace(letters[j], "z")
            D = np.einsum(f"z{letters[j]},{letters}->{out}", X[j], D)
        found.append(D)
    return found, S


def gradients(shape, steps, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(steps)]


def run(opt, G):
    W = np.zeros(G[0].shape, G[0].dtype)
    state, found = opt.init(W), []
    for g in G:
        update, state = opt.update(g, state, W)
        found.append(-update / opt.learning_rate)
    return found, state


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 5), (6, 1, 4)])
@pytest.mark.parametrize("every", [1, 4])
def test_matches_the_dense_oracle(shape, every):
    G = gradients(shape, 9)
    found, state = run(KLShampoo(0.1, **PLAIN | {"refresh_every": every, "betas": (0.0, 0.9)}), G)
    kept = tuple(n for n in shape if n > 1)
    want, S = dense([g.reshape(kept) for g in G], 0.9, every)
    for t, (D, expected) in enumerate(zip(found, want, strict=True)):
        np.testing.assert_allclose(D.reshape(kept), expected, rtol=1e-6, atol=1e-8, err_msg=str(t))
    axes = [i for i, n in enumerate(shape) if n > 1]
    for axis, A in zip(axes, S, strict=True):
        np.testing.assert_allclose(unpack(state[f"block0/axis{axis}/statistic"]), A, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e25])
def test_the_statistics_find_the_covariance(scale):
    """For G = A Z B with normal Z, the two together are A A^T and B^T B, and the direction is white: its RMS is 1."""
    rng = np.random.default_rng(0)
    A = np.linalg.qr(rng.standard_normal((6, 6)))[0] * np.logspace(0, -1, 6)
    B = np.linalg.qr(rng.standard_normal((9, 9)))[0] * np.logspace(0, -1.5, 9)
    G = [scale * A @ rng.standard_normal((6, 9)) @ B.T for _ in range(300)]
    found, state = run(KLShampoo(0.1, **PLAIN | {"betas": (0.0, 0.99), "refresh_every": 5}), G)
    L, R = (unpack(state[f"block0/axis{i}/statistic"]) for i in range(2))
    unit = scale * 2.0 ** -float(state["exponent"])
    truth = np.kron(A @ A.T, B @ B.T) * unit**2
    ratios = np.linalg.eigvals(np.linalg.solve(truth, np.kron(L, R))).real
    assert 0.6 < ratios.min() < ratios.max() < 1.5
    assert abs(np.sqrt(np.mean([D**2 for D in found[-50:]])) - 1) < 0.1
    plain = run(Shampoo(0.1, **PLAIN | {"betas": (0.0, 0.99), "refresh_every": 5}), G)[1]
    L, R = (unpack(plain[f"block0/axis{i}/statistic"]) for i in range(2))
    other = np.linalg.eigvals(np.linalg.solve(truth, np.kron(L, R))).real
    assert other.max() / other.min() > ratios.max() / ratios.min()  # Shampoo's own need more gradients


def test_blocks_and_stacks_of_several_parameters():
    G = gradients((8, 6), 6)
    options = PLAIN | {"betas": (0.9, 0.9), "momentum": "ema"}
    whole, _ = run(KLShampoo(0.1, block_size=4, **options), G)
    alone, _ = run(KLShampoo(0.1, **options), [g[4:, :4] for g in G])
    for D, want in zip(whole, alone, strict=True):
        np.testing.assert_allclose(D[4:, :4], want, rtol=1e-9)


def test_a_gradient_that_does_not_count_changes_nothing():
    G = gradients((4, 5), 5)
    opt = KLShampoo(0.1, refresh_every=1)
    W = np.zeros((4, 5))
    a = b = opt.init(W)
    for g in G:
        _, a = opt.update(g, a, W)
        _, b = opt.update(g, b, W)
        u, b = opt.update(np.full((4, 5), np.nan), b, W)
        assert not u.any()
        np.testing.assert_array_equal(a["block0/axis0/statistic"], b["block0/axis0/statistic"])
    zero = opt.init(W)
    for _ in range(3):
        u, zero = opt.update(W, zero, W)
        assert not u.any()
        assert not zero["block0/axis0/statistic"].any()


def test_units_are_shared_by_the_dimensions():
    """The product of the statistics changes by the square of the gradient, whatever the number of dimensions."""

    class Three:
        axes = (0, 1, 2)

    assert [share_of_units(Three, axis, 5) for axis in range(3)] == [-2, -4, -4]
    G = gradients((4, 5), 12)
    opt = KLShampoo(0.1, **PLAIN | {"betas": (0.0, 0.9)})
    jumping = [g * 2.0 ** (60 * (t >= 6)) for t, g in enumerate(G)]  # the units change at step 6
    found, state = run(opt, jumping)
    assert int(state["exponent"]) > 0
    want, _ = dense(jumping, 0.9)
    for t, (D, expected) in enumerate(zip(found, want, strict=True)):
        np.testing.assert_allclose(D, expected, rtol=1e-4, atol=1e-6 * abs(expected).max(), err_msg=str(t))


def test_frameworks_agree(tmp_path):
    torch = pytest.importorskip("torch")
    from matroot_optim import torch as adapter

    G = gradients((6, 5), 12, dtype=np.float32)
    want, _ = run(KLShampoo(0.1), G)
    p = torch.nn.Parameter(torch.zeros(6, 5))
    optimizer, before = adapter.KLShampoo([p], lr=0.1), np.zeros((6, 5), np.float32)
    for step, (g, D) in enumerate(zip(G, want, strict=True)):
        p.grad = torch.from_numpy(g)
        optimizer.step()
        np.testing.assert_allclose((before - p.detach().numpy()) / 0.1, D, rtol=1e-3, atol=1e-4)
        before = p.detach().numpy().copy()
        if step == 6:
            torch.save(optimizer.state_dict(), tmp_path / "state.pt")
            optimizer = adapter.KLShampoo([p], lr=0.1)
            optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


@pytest.mark.parametrize("roots", ["callback", "host"])
def test_optax_agrees(roots):
    jax = pytest.importorskip("jax")
    pytest.importorskip("optax")
    from matroot_optim.optax import diagnostics, kl_shampoo, refresh_roots

    G = gradients((6, 5), 12, dtype=np.float32)
    want, _ = run(KLShampoo(1.0, refresh_every=2), G)
    tx = kl_shampoo(1.0, roots=roots, refresh_every=2)
    W = jax.numpy.zeros((6, 5))
    state, update = tx.init(W), jax.jit(tx.update)
    for t, (g, D) in enumerate(zip(G, want, strict=True)):
        found, state = update(jax.numpy.asarray(g), state, W)
        if t == 10 and roots == "host":
            assert diagnostics(state).worst_residual < 1e-3
        if roots == "host":
            state = refresh_roots(state)
        else:
            np.testing.assert_allclose(-found, D, rtol=1e-2, atol=1e-3, err_msg=str(t))
        assert np.isfinite(found).all()


@pytest.mark.parametrize("lag", [0, 2])
def test_a_resumed_run_goes_on_to_the_bit(tmp_path, lag):
    G = gradients((6, 5), 16)
    opt, W = KLShampoo(0.1, engine=InlineEngine(lag)), np.zeros((6, 5))
    state = opt.init(W)
    for t, g in enumerate(G):
        if t == 8:
            state.save(tmp_path / "state.npz")
            again = opt.load(tmp_path / "state.npz", W)
        update, state = opt.update(g, state, W)
        if t >= 8:
            other, again = opt.update(g, again, W)
            np.testing.assert_array_equal(update, other)


def test_other_exponents_are_refused():
    with pytest.raises(ValueError, match=r"statistics_of must be 'gradient' for exponents .* for -1/3"):
        Shampoo(0.1, statistics_of="whitened")
    assert Shampoo(0.1, statistics_of="whitened", exponent=None).plan(np.zeros((3, 4))).rows[0].exponent == "-1/2"


class TestSOAP:
    """SOAP with whitened statistics; test_optim_soap compares it with a dense oracle."""

    def test_the_statistics_find_the_covariance(self):
        rng = np.random.default_rng(0)
        A = np.linalg.qr(rng.standard_normal((6, 6)))[0] * np.logspace(0, -1, 6)
        B = np.linalg.qr(rng.standard_normal((9, 9)))[0] * np.logspace(0, -1.5, 9)
        G = [A @ rng.standard_normal((6, 9)) @ B.T for _ in range(300)]
        state = run(SOAP(0.1, statistics_of="whitened", betas=(0.9, 0.99), block_aspect=None), G)[1]
        L, R = (unpack(state[f"block0/axis{i}/statistic"]) for i in range(2))
        ratios = np.linalg.eigvals(np.linalg.solve(np.kron(A @ A.T, B @ B.T), np.kron(L, R))).real
        assert 0.6 < ratios.min() < ratios.max() < 1.5

    def test_units_change(self):
        G = gradients((4, 5), 12)
        opt = SOAP(0.1, statistics_of="whitened", graft_epsilon=0.0)
        jumping = [g * 2.0 ** (60 * (t >= 6)) for t, g in enumerate(G)]
        found, state = run(opt, jumping)
        scaled, other = run(opt, [g * 2.0**40 for g in jumping])
        assert int(other["exponent"]) > int(state["exponent"]) > 0
        for a, b in zip(found, scaled, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)

    def test_in_place_in_torch_and_after_a_load(self):
        torch = pytest.importorskip("torch")
        from matroot_optim import torch as adapter

        G = gradients((6, 5), 12)
        want, _ = run(SOAP(1.0, statistics_of="whitened", refresh_every=3), G)
        p = torch.nn.Parameter(torch.zeros(6, 5, dtype=torch.float64))
        optimizer = adapter.SOAP([p], lr=1.0, statistics_of="whitened", refresh_every=3)
        for t, (g, D) in enumerate(zip(G, want, strict=True)):
            before, p.grad = p.detach().clone(), torch.from_numpy(g)
            optimizer.step()
            np.testing.assert_allclose(before - p.detach(), D, rtol=1e-6, atol=1e-9)
            if t == 6:
                saved = optimizer.state_dict()
                optimizer = adapter.SOAP([p], lr=1.0, statistics_of="whitened", refresh_every=3)
                optimizer.load_state_dict(saved)

    @pytest.mark.slow
    def test_optax_agrees(self):
        jax = pytest.importorskip("jax")
        pytest.importorskip("optax")
        from matroot_optim.optax import scale_by_soap

        jax.config.update("jax_disable_most_optimizations", True)
        G = gradients((3, 2), 8, dtype=np.float32)
        want, _ = run(SOAP(1.0, statistics_of="whitened", refresh_every=2), G)
        tx = scale_by_soap(statistics_of="whitened", refresh_every=2)
        state, update = tx.init(jax.numpy.zeros((3, 2))), jax.jit(tx.update)
        for t, (g, D) in enumerate(zip(G, want, strict=True)):
            found, state = update(jax.numpy.asarray(g), state)
            np.testing.assert_allclose(found, D, rtol=1e-2, atol=1e-3, err_msg=str(t))

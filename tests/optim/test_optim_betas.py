"""Decays that change in mid-run: corrected means stay, so steps keep their length."""

from dataclasses import replace

import numpy as np
import pytest

from matroot_optim import SOAP, KLShampoo, Shampoo

torch = pytest.importorskip("torch")

from matroot_optim import torch as ours  # noqa: E402

KINDS = {"shampoo": Shampoo, "none": Shampoo, "sqrt_n": Shampoo, "soap": SOAP, "kl": KLShampoo}
G = {
    "w": np.outer([1.0, 2, -3, 4], [3.0, -1, 2]) + np.eye(4, 3),
    "v": np.array([1.0, -2.0, 5.0]),
}
CHANGES = [
    ((0.9, 0.9), (0.9, 0.999)),
    ((0.9, 0.999), (0.9, 0.5)),
    ((0.5, 0.99), (0.999, 0.99)),
    ((0.99, 0.9), (0.0, 0.9)),
]


def make(kind, betas, **options):
    graft = {} if kind in ("shampoo", "soap", "kl") else {"graft": kind, "exponent": None}
    return KINDS[kind](0.1, betas=betas, refresh_every=1, ridge=1e-9, **{**graft, **options})


def steps(opt, state, count):
    found = []
    for _ in range(count):
        moves, state = opt.update(G, state)
        found.append(moves)
    return found, state


@pytest.mark.parametrize("before, after", CHANGES)
@pytest.mark.parametrize("kind", ["shampoo", "none", "sqrt_n"])
def test_equal_gradients_make_equal_steps_under_any_decays(tmp_path, kind, before, after):
    """Every mean of equal gradients is the gradient, so another decay, read from a file, changes nothing."""
    old, new = make(kind, before), make(kind, after)
    first, state = steps(old, old.init(G), 12)
    state.save(tmp_path / "state.npz")
    more, _ = steps(new, new.load(tmp_path / "state.npz", G), 6)
    for moves in more:
        for name in G:  # of roots to 1e-9, the ridge, and decays of 1 - 1e-3, whose sums of weights lose three digits
            np.testing.assert_allclose(moves[name], first[-1][name], rtol=1e-7)


@pytest.mark.parametrize("before, after", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_keeps_corrected_means(tmp_path, kind, before, after):
    old, new = make(kind, before), make(kind, after)
    rng, state = np.random.default_rng(0), old.init(G)
    for _ in range(12):
        _, state = old.update({name: rng.standard_normal(x.shape) for name, x in G.items()}, state)
    state.save(tmp_path / "state.npz")
    got = new.load(tmp_path / "state.npz", G)
    share = [(1 - b**12) / (1 - a**12) for a, b in zip(before, after, strict=True)]
    moment = share[1] if kind != "soap" else (1 - after[1] ** 11) / (1 - before[1] ** 11)  # whose first step is none
    assert got["w/count"] == 12 - (kind == "soap")
    for axis in (0, 1):
        name = f"w/block0/axis{axis}/statistic"
        np.testing.assert_allclose(got[name], share[1] * state[name], rtol=1e-12)
    if "w/moment" in state:
        np.testing.assert_allclose(got["w/moment"], moment * state["w/moment"], rtol=1e-12)
    np.testing.assert_allclose(got["v/moment"], share[1] * state["v/moment"], rtol=1e-12)
    np.testing.assert_array_equal(got["v/momentum"], state["v/momentum"])  # of the next step, which reads its decay


def test_a_sum_becomes_a_mean_of_its_gradients(tmp_path):
    opts = [make("none", betas, momentum="none") for betas in ((0.9, 0.99), (0.9, 1.0))]
    for old, new in (opts, opts[::-1]):
        _, state = steps(old, old.init(G), 12)
        _, want = steps(new, new.init(G), 13)
        state.save(tmp_path / "state.npz")
        _, got = steps(new, new.load(tmp_path / "state.npz", G), 1)
        for axis in (0, 1):
            name = f"w/block0/axis{axis}/statistic"
            np.testing.assert_allclose(got[name], want[name], rtol=1e-12)


def test_the_decay_of_the_momentum_may_change_at_every_step():
    rng = np.random.default_rng(0)
    opt = make("shampoo", (0.9, 0.99))
    (want, *_), state = steps(opt, opt.init(G), 12)
    want = {name: 0.1 * np.sign(x) for name, x in {"v": -G["v"]}.items()}
    for beta in rng.uniform(0, 0.999, 20):
        (got,), state = steps(replace(opt, betas=(beta, 0.99)), state, 1)
        np.testing.assert_allclose(got["v"], want["v"], rtol=1e-7)


def test_a_mean_of_directions_too():
    opt = make("none", (0.9, 0.99), momentum_of="direction", start_step=1)
    want, state = steps(opt, opt.init(G), 12)
    (got,), _ = steps(replace(opt, betas=(0.999, 0.99)), state, 1)
    np.testing.assert_allclose(got["w"], want[-1]["w"], rtol=1e-7)


@pytest.mark.parametrize("before, after", CHANGES)
def test_the_betas_of_a_torch_group(before, after):
    params = [torch.nn.Parameter(torch.zeros(*x.shape)) for x in G.values()]
    opt = ours.Shampoo(params, lr=0.1, betas=before)
    moves = []
    for t in range(24):
        opt.param_groups[0]["betas"] = before if t < 12 else after
        old = [p.detach().clone() for p in params]
        for p, g in zip(params, G.values(), strict=True):
            p.grad = torch.as_tensor(g, dtype=torch.float32)
        opt.step()
        moves.append(torch.cat([(p - x).flatten() for p, x in zip(params, old, strict=True)]))
    # Differences of weights of size 2.4, and moments whose sums of weights lose three digits.
    torch.testing.assert_close(moves[-1], moves[11], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(moves[12], moves[11], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_a_scheduler_that_cycles_the_momentum_goes_on_to_the_bit(state_dtype):
    """The scheduler has set the decay of the next step when the state is saved."""

    def make_all():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3))
        opt = ours.Shampoo(model, lr=0.01, state_dtype=state_dtype)
        return model, opt, torch.optim.lr_scheduler.OneCycleLR(opt, 0.02, total_steps=30)

    def train(model, opt, scheduler, first, last):
        for t in range(first, last):
            torch.manual_seed(t)
            x = torch.randn(16, 6)
            opt.zero_grad()
            (model(x) - x[:, :3]).square().mean().backward()
            opt.step()
            scheduler.step()

    one, other = make_all(), make_all()
    train(*one, 0, 20)
    train(*other, 0, 9)
    third = make_all()
    for new, old in zip(third, other, strict=True):
        new.load_state_dict(old.state_dict())
    train(*third, 9, 20)
    for p, q in zip(one[0].parameters(), third[0].parameters(), strict=True):
        assert torch.equal(p, q)
    assert one[1].param_groups[0]["betas"][0] != 0.9


def test_the_decays_of_a_state_are_seen_and_checked(tmp_path):
    opt = make("shampoo", (0.8, 0.99), graft_beta=0.95)
    _, state = steps(opt, opt.init(G), 1)
    assert [float(state[f"w/{name}"]) for name in ("beta1", "beta2", "graft_beta")] == [0.8, 0.99, 0.95]
    state.arrays["beta2"] = np.array([0.99, 1.5])
    state.save(tmp_path / "state.npz")
    with pytest.raises(ValueError, match=r"NaN or a number from 0 to 1 in 'v/beta2', got 1\.5"):
        opt.load(tmp_path / "state.npz", G)


def test_decays_of_jax_are_the_same_in_float32(tmp_path):
    jnp = pytest.importorskip("jax").numpy
    optax = pytest.importorskip("matroot_optim.optax")
    tx = optax.shampoo(0.1)
    params = {name: jnp.asarray(x, jnp.float32) for name, x in G.items()}
    found = tx.init(params)
    for _ in range(3):
        _, found = tx.update(params, found, params)
    core = found[0].core
    core.save(tmp_path / "state.npz")
    state = Shampoo(0.1).load(tmp_path / "state.npz", G)
    for name in ("v/momentum", "w/moment", "w/block0/axis0/statistic"):
        np.testing.assert_array_equal(np.asarray(state[name], np.float32), np.asarray(core[name]))

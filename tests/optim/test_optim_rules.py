"""Rules for singular statistics, and exponents of single dimensions, in the core and in every adapter."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from matroot import Floor, PseudoInverse, Ridge, Shift, TargetCondition
from matroot_optim import ExecutorEngine, Shampoo, WarmEngine
from matroot_optim.rules import as_plain, as_rule, in_units, stronger, with_cut
from optim.problems import run as run_problem

PLAIN = {"refresh_every": 1, "schedule": "interval", "refresh_growth": 0.0, "start_step": 1, "graft": "none"}
PLAIN |= {"momentum": "none", "betas": (0.0, 0.9), "block_aspect": None}
KAPPA = 50.0

# The rule, and what it does to the eigenvalues, written once more.
EIGENVALUES = {
    "number": (1e-3, lambda w: w + 1e-3 * w.max()),
    "none": (0.0, lambda w: w),
    "ridge": (Ridge(relative=1e-3, absolute=0.1), lambda w: w + 1e-3 * w.max() + 0.1),
    "floor": (Floor(0.2), lambda w: np.maximum(w, 0.2 * w.max())),
    "shift": (Shift(relative=0.3), lambda w: w + max(0.3 * w.max() - w.min(), 0)),
    "condition": (TargetCondition(KAPPA), lambda w: w + max((w.max() - KAPPA * w.min()) / (KAPPA - 1), 0)),
    "cut": (PseudoInverse(0.3), lambda w: np.where(w > 0.3 * w.max(), w, np.inf)),
}


def gradients(shape, rank, steps, seed=0, dtype=np.float64):
    """All in the same `rank` directions on both sides."""
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, shape[1]))
    return [(left @ rng.standard_normal((rank, rank)) @ right).astype(dtype) for _ in range(steps)]


def dense(G, change, exponents, beta=0.9):
    """The directions, by eigendecompositions."""
    L, R, found = 0.0, 0.0, []
    for t, g in enumerate(G, 1):
        L, R = beta * L + (1 - beta) * g @ g.T, beta * R + (1 - beta) * g.T @ g
        X = []
        for A, s in zip((L, R), exponents, strict=True):
            w, Q = np.linalg.eigh(A / (1 - beta**t))
            X.append((Q * change(w) ** s) @ Q.T)
        found.append(X[0] @ g @ X[1])
    return found


def directions(opt, G):
    state, found = opt.init(np.zeros(G[0].shape, G[0].dtype)), []
    for g in G:
        update, state = opt.update(g, state)
        found.append(-update / opt.learning_rate)
    return found, state


@pytest.mark.parametrize("name", EIGENVALUES)
def test_each_rule_does_to_the_eigenvalues_what_it_says(name):
    rule, change = EIGENVALUES[name]
    G = gradients((6, 6), 6, 5)
    got, _ = directions(Shampoo(0.1, regularization=rule, exponent=-1 / 3, **PLAIN), G)
    for D, want in zip(got, dense(G, change, (-1 / 3, -1 / 3)), strict=True):
        np.testing.assert_allclose(D, want, rtol=1e-6, atol=1e-7 * abs(want).max())


@pytest.mark.parametrize(
    ("exponents", "plain", "told"),
    [
        (("-1/2", "-1/4"), (-0.5, -0.25), "-1/2, -1/4"),
        ((None, -0.5), (-0.25, -0.5), "-1/4, -1/2"),
        ((-1, "-1/8"), (-1.0, -0.125), "-1, -1/8"),
    ],
)
def test_exponents_of_single_dimensions(exponents, plain, told):
    G = gradients((5, 7), 5, 4)
    opt = Shampoo(0.1, regularization=1e-3, exponent=exponents, **PLAIN)
    assert Shampoo.from_json(opt.to_json()) == opt
    for D, want in zip(directions(opt, G)[0], dense(G, EIGENVALUES["number"][1], plain), strict=True):
        np.testing.assert_allclose(D, want, rtol=1e-6, atol=1e-7 * abs(want).max())
    rows = opt.plan({"w": G[0], "bias": np.zeros(5)}).rows
    assert [row.exponent for row in rows] == [told, ""]


def test_exponents_must_fit_the_shape():
    with pytest.raises(ValueError, match=r"merged shape \(4, 5\) of 'w', got 3"):
        Shampoo(0.1, exponent=(-0.5, -0.5, -0.5)).init({"w": np.zeros((4, 5))})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.9, 0.999, 1.0])
def test_gradients_of_rank_3_in_64_dimensions(dtype, beta):
    """The pseudo-inverse finds the rank in rounded statistics: finite, certified and scale-invariant from step 1 on."""
    G = gradients((64, 64), 3, 60, dtype=dtype)
    options = PLAIN | {"betas": (0.9, beta), "refresh_every": 10, "momentum": "ema"}
    opt = Shampoo(0.1, regularization=PseudoInverse(), exponent=-1 / 3, **options)
    found, state = directions(opt, G)
    left = np.linalg.svd(G[0].astype(float))[0][:, 3:]
    for D in found:
        assert np.isfinite(D).all()
        assert np.linalg.norm(left.T @ D) < 1e-4 * np.linalg.norm(D)  # nothing of what is only rounding
    d = opt.diagnostics(state)
    assert d.worst_residual < 1e-4
    assert not d.roots["skipped"].any()
    assert not d.roots["status"].any()
    assert d.worst("cond")[1] < 1e4
    scaled, _ = directions(opt, [g * np.float32(2.0**-30) for g in G])
    for D, other in zip(found, scaled, strict=True):
        np.testing.assert_allclose(other * 2.0**-10, D, rtol=1e-3, atol=1e-4 * abs(D).max())


def test_the_cut_holds_the_rounding_of_many_gradients():
    """Of 10^4 gradients of rank 1 in 3 dimensions the float32 sum has eigenvalues above n eps that are rounding."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal(3).astype(np.float32)
    A = np.zeros((3, 3), np.float32)
    worst = 0.0
    for t in range(1, 10001):
        g = u * np.float32(rng.standard_normal())
        A = (np.float32(0.999) * A + np.float32(0.001) * np.outer(g, g)).astype(np.float32)
        if t % 100 == 0:
            w = np.linalg.eigvalsh(A.astype(float))
            worst = max(worst, abs(w[:2]).max() / w[2])
            assert abs(w[:2]).max() / w[2] < with_cut(PseudoInverse(), 3, "float32", min(t, 1000)).rtol
    assert worst > 3 * np.finfo(np.float32).eps / 4


def test_stronger():
    assert stronger(Floor(1e-3), 2) == Floor(0.1)
    assert stronger(Floor(1e-3), 50) == Floor(1.0)
    assert stronger(PseudoInverse(0.0), 1) == PseudoInverse(10 * np.finfo(float).eps)
    assert stronger(Shift(relative=1e-3, absolute=2.0), 1) == Shift(relative=1e-2, absolute=20.0)
    assert stronger(Ridge(relative=1e-3, retries=2), 1) == Ridge(relative=1e-2, retries=2)
    assert stronger(TargetCondition(30.0), 5) == TargetCondition(2.0)


def test_absolute_sizes_are_in_units_of_the_squared_gradient():
    """Although the statistics of gradients of 1e-15 are kept in other units."""
    assert in_units(Ridge(absolute=8.0), 4) == Ridge(absolute=0.5)
    G = [1e-15 * g for g in gradients((4, 4), 4, 3)]
    size = 1e-30
    got, _ = directions(Shampoo(0.1, regularization=Ridge(absolute=size), exponent=-0.25, **PLAIN), G)
    for D, want in zip(got, dense(G, lambda w: w + size, (-0.25, -0.25)), strict=True):
        np.testing.assert_allclose(D, want, rtol=1e-6)


@pytest.mark.parametrize("name", EIGENVALUES)
def test_plain_data_and_back(name):
    rule = EIGENVALUES[name][0]
    assert as_rule(json.loads(json.dumps(as_plain(rule)))) == rule
    opt = Shampoo(0.1, regularization=rule)
    assert Shampoo.from_json(opt.to_json()) == opt


def test_a_ridge_as_an_object_gives_the_same_bits():
    old, new = (run_problem(Shampoo(0.1, **o), 8)[0] for o in ({"ridge": 1e-4}, {"regularization": Ridge(1e-4)}))
    for k in old:
        np.testing.assert_array_equal(old[k], new[k])


def test_engines_give_the_same_numbers():
    from concurrent.futures import ThreadPoolExecutor

    rule = PseudoInverse()
    want = run_problem(Shampoo(0.1, regularization=rule), 8)[0]
    with ExecutorEngine(lambda: ThreadPoolExecutor(1)) as threads:
        for engine in (threads, WarmEngine(rtol=1e-6)):
            got = run_problem(Shampoo(0.1, regularization=rule, engine=engine), 8)[0]
            for k in want:
                np.testing.assert_allclose(got[k], want[k], rtol=1e-4)


def test_torch_has_rules_in_groups_and_state_dicts(tmp_path):
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as TorchShampoo

    G = gradients((6, 5), 2, 6, dtype=np.float32)
    core = Shampoo(0.1, regularization=PseudoInverse(1e-4), exponent=("-1/2", "-1/4"), start_step=1)
    state, W = core.init(np.zeros((6, 5), np.float32)), np.zeros((6, 5), np.float32)
    p = torch.nn.Parameter(torch.zeros(6, 5))
    options = {"regularization": PseudoInverse(1e-4), "exponent": ("-1/2", "-1/4")}
    optimizer = TorchShampoo([{"params": [p], **options}], lr=0.1, start_step=1)
    for step, g in enumerate(G):
        state = core.step(W, g, state)
        p.grad = torch.from_numpy(g)
        optimizer.step()
        np.testing.assert_allclose(p.detach().numpy(), W, rtol=1e-4, atol=1e-6)
        if step == 2:
            torch.save(optimizer.state_dict(), tmp_path / "state.pt")
            optimizer = TorchShampoo([p], lr=0.1, start_step=1)
            optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_optax_has_rules():
    jax = pytest.importorskip("jax")
    pytest.importorskip("optax")
    from matroot_optim.optax import scale_by_shampoo

    G = gradients((6, 5), 2, 6, dtype=np.float32)
    want, _ = directions(Shampoo(1.0, regularization=PseudoInverse(), start_step=1), G)
    with pytest.raises(ValueError, match="roots='graph'"):
        scale_by_shampoo(roots="graph", regularization=PseudoInverse())
    tx = scale_by_shampoo(regularization=PseudoInverse(), start_step=1)
    state = tx.init(jax.numpy.zeros((6, 5)))
    update = jax.jit(tx.update)
    for g, D in itertools.zip_longest(G, want):
        found, state = update(jax.numpy.asarray(g), state)
        np.testing.assert_allclose(found, D, rtol=2e-3, atol=1e-4 * abs(D).max())

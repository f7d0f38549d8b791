"""SOAP against a dense oracle of its own and against the published implementation, in every framework."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from matroot_optim import SOAP, ExecutorEngine, InlineEngine, Shampoo, WarmEngine, apply_updates
from matroot_optim.state import State
from optim.problems import SHAPES
from optim.problems import run as run_problem

BASE = {"refresh_every": 3, "refresh_growth": 0.0, "schedule": "interval", "block_aspect": None}
BASE |= {"preconditioned_dims": "all", "merge": None}


def gradients(shape, steps, seed=0, dtype=np.float64):
    """With dense covariances that differ from direction to direction: bases are well determined, and turn slowly."""
    rng = np.random.default_rng(seed)
    mixers = [rng.standard_normal((n, n)) * np.linspace(0.3, 2, n) for n in shape]
    found = []
    for _ in range(steps):
        G = rng.standard_normal(shape)
        for axis, A in enumerate(mixers):
            G = np.moveaxis(np.tensordot(A, G, (1, axis)), 0, axis)
        found.append(G.astype(dtype))
    return found


def run(opt, G, W=None):
    W = np.zeros(G[0].shape, G[0].dtype) if W is None else W
    state, found = opt.init(W), []
    for g in G:
        update, state = opt.update(g, state, W)
        found.append(update)
    return found, state


def test_blocks_are_soaps_of_their_own():
    G = gradients((8, 6), 8)
    found, state = run(SOAP(0.1, **BASE, block_size=4, graft_epsilon=0.0), G)
    assert {name.rsplit("/", 1)[0] for name in state if name.endswith("root")} == {
        f"block{k}/axis{i}" for k in range(4) for i in range(2)
    }
    for rows, columns in ((slice(0, 4), slice(0, 4)), (slice(4, 8), slice(0, 4))):
        alone, _ = run(SOAP(0.1, **BASE, graft_epsilon=0.0), [g[rows, columns] for g in G])
        for u, want in zip(found, alone, strict=True):
            np.testing.assert_allclose(u[rows, columns], want, rtol=1e-9, atol=1e-12)


def test_what_has_no_matrix_gets_adam_from_the_first_step():
    shapes = {"bias": (5,), "table": (200, 4)}
    rng = np.random.default_rng(0)
    G = [{k: rng.standard_normal(s) for k, s in shapes.items()} for _ in range(5)]
    W = {k: np.zeros(s) for k, s in shapes.items()}
    soap, adam = SOAP(0.1), Shampoo(0.1, betas=(0.95, 0.95), preconditioned_dims="none")
    a, b = soap.init(W), adam.init(W)
    for g in G:
        u, a = soap.update(g, a, W)
        v, b = adam.update(g, b, W)
        for k in shapes:
            np.testing.assert_array_equal(u[k], v[k])


def test_a_matrix_waits_for_the_basis_of_an_earlier_gradient():
    """In the basis of its own, a gradient is diagonal; what is divided by its own size elsewhere is rounding."""
    rng = np.random.default_rng(0)
    W, bad = np.ones((4, 5)), np.full((4, 5), np.nan)
    opt = SOAP(0.1)
    state = opt.init(W)
    moved = []
    for g in (bad, *(rng.standard_normal((4, 5)) for _ in range(2)), bad, rng.standard_normal((4, 5))):
        u, state = opt.update(g, state, W)
        moved.append(bool(u.any()))
    assert moved == [False, False, True, False, True]
    assert (int(state["count"]), int(state["accumulated"]), int(state["skipped"])) == (2, 3, 2)
    lagging = SOAP(0.1, engine=InlineEngine(lag=2))
    state, moved = lagging.init(W), []
    for _ in range(5):
        u, state = lagging.update(rng.standard_normal((4, 5)), state, W)
        moved.append(bool(u.any()))
    assert moved == [False, False, False, True, True]


@pytest.mark.parametrize("lag", [0, 2])
def test_engines_give_the_same_bits(lag):
    shapes = {**SHAPES, "table": (330, 32)}
    want = run_problem(SOAP(0.05, engine=InlineEngine(lag)), 12, shapes)[0]
    spawn = multiprocessing.get_context("spawn")
    pools = (lambda: ThreadPoolExecutor(1), lambda: ProcessPoolExecutor(1, mp_context=spawn))
    for pool in pools[: 1 + bool(lag)]:
        with ExecutorEngine(pool, lag=lag) as engine:
            got, _ = run_problem(SOAP(0.05, engine=engine), 12, shapes)
            assert engine.clock.failures == 0
        for k in want:
            np.testing.assert_array_equal(got[k], want[k])
    got = run_problem(SOAP(0.05, engine=WarmEngine(lag)), 12, shapes)[0]
    for k in want:
        np.testing.assert_array_equal(got[k], want[k])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("lag", [0, 3])
def test_a_resumed_run_goes_on_to_the_bit(tmp_path, suffix, lag):
    opt, shapes = SOAP(0.05, engine=InlineEngine(lag)), {**SHAPES, "table": (330, 32)}
    want, last = run_problem(opt, 24, shapes)
    params, state = run_problem(opt, 13, shapes)
    state.save(tmp_path / f"state{suffix}")
    again = opt.load(tmp_path / f"state{suffix}", params)
    got, end = run_problem(opt, 24, shapes, params=params, state=again, skip=13)
    for k in want:
        np.testing.assert_array_equal(got[k], want[k])
    assert str(opt.diagnostics(end)) == str(opt.diagnostics(last))


def test_a_checkpoint_says_what_it_holds(tmp_path):
    params, state = run_problem(SOAP(0.05), 6)
    state.save(tmp_path / "soap.npz")
    with pytest.raises(ValueError, match="must have roots, of Shampoo, for 'a', got the other"):
        Shampoo(0.05).load(tmp_path / "soap.npz", params)
    run_problem(Shampoo(0.05), 6)[1].save(tmp_path / "shampoo.npz")
    with pytest.raises(ValueError, match="must have eigenbases, of SOAP, for 'a', got the other"):
        SOAP(0.05).load(tmp_path / "shampoo.npz", params)
    with pytest.raises(ValueError, match="roots must be True under SOAP"):
        state.save(tmp_path / "without.npz", roots=False)


def test_another_block_size_takes_the_second_moment_along(tmp_path):
    """Through the original space: the next step is nearer to that of such blocks from the start than without it."""
    G, params = [{"w": g} for g in gradients((8, 8), 41)], {"w": np.zeros((8, 8))}
    options = {"refresh_every": 1, "graft_epsilon": 0.0, "basis": "eigh"}
    whole, halves = SOAP(0.05, **options), SOAP(0.05, block_size=4, **options)
    state, other = whole.init(params), halves.init(params)
    for g in G[:-1]:
        state, other = whole.update(g, state, params)[1], halves.update(g, other, params)[1]
    state.save(tmp_path / "state.npz")
    again = halves.load(tmp_path / "state.npz", params)
    np.testing.assert_allclose(again["w/moment"].sum(), state["w/moment"].sum())
    unmoved = State(again.layout, {**again.arrays, "w/moment": state["w/moment"]})
    want = halves.update(G[-1], other, params)[0]["w"]
    moves = [halves.update(G[-1], s, params)[0]["w"] for s in (again, unmoved)]
    cosines = [np.vdot(u, want) / np.linalg.norm(u) / np.linalg.norm(want) for u in moves]
    assert cosines[0] > 0.8 > cosines[1] + 0.1


def test_torch_follows_the_core_and_its_state_dict_resumes(tmp_path):
    torch = pytest.importorskip("torch")
    from matroot_optim import torch as adapter

    torch.manual_seed(0)
    shapes = [(6, 6), (5,), (4, 2, 2)]  # of full rank
    engine = InlineEngine(lag=2)
    core = SOAP(0.05, weight_decay=0.1, engine=engine)
    W = [np.random.default_rng(k).standard_normal(s).astype(np.float32) for k, s in enumerate(shapes)]
    params = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in W]
    state = core.init(W)
    optimizer = adapter.SOAP(params, lr=0.05, weight_decay=0.1, engine=engine)
    for step in range(16):
        G = [np.random.default_rng([step, k]).standard_normal(s).astype(np.float32) for k, s in enumerate(shapes)]
        state = core.step(W, G, state)
        for p, g in zip(params, G, strict=True):
            p.grad = torch.from_numpy(g)
        optimizer.step()
        for p, w in zip(params, W, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), w, rtol=2e-3, atol=2e-4)
        if step == 8:
            torch.save(optimizer.state_dict(), tmp_path / "state.pt")
            twin = [torch.nn.Parameter(p.detach().clone()) for p in params]
            loaded = adapter.SOAP(twin, lr=0.05, weight_decay=0.1, engine=engine)
            loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        if step > 8:
            for p, q in zip(params, twin, strict=True):
                q.grad = p.grad
            loaded.step()
            for p, q in zip(params, twin, strict=True):
                assert torch.equal(p, q)
    assert optimizer.diagnostics().worst_residual < 1e-5
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.95)


@pytest.mark.parametrize("roots", ["callback", pytest.param("graph", marks=pytest.mark.slow), "host"])
@pytest.mark.parametrize("basis", ["qr", pytest.param("eigh", marks=pytest.mark.slow)])
def test_optax_follows_the_core(roots, basis):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    from matroot_optim.optax import diagnostics, refresh_roots, soap

    each = [gradients(shape, 26, dtype=np.float32) for shape in ((6, 6), (81, 8))]
    opt = SOAP(0.1, basis=basis, refresh_every=4, groups={"table": {"preconditioned_dims": "table", "ridge": 1e-3}})
    params = {"matrix": np.zeros((6, 6), np.float32), "table": np.zeros((81, 8), np.float32)}
    tx, core = soap(0.1, roots=roots, basis=basis, refresh_every=4, groups=opt.groups), opt.init(params)
    state, update = tx.init(jax.tree.map(jax.numpy.asarray, params)), jax.jit(tx.update)
    for t, pair in enumerate(zip(*each, strict=True)):
        G = dict(zip(params, pair, strict=True))
        found, state = update(G, state, params)
        if roots == "host":
            state = refresh_roots(state)
        want, core = opt.update(G, core, params)
        for name in params:
            np.testing.assert_allclose(found[name], want[name], rtol=1e-2, atol=2e-3, err_msg=f"{name} {t}")
    d, of_core = diagnostics(state), opt.diagnostics(core)
    assert d.worst_residual < 1e-4
    assert d.roots["refreshes"].tolist() == of_core.roots["refreshes"].tolist()
    assert isinstance(optax.apply_updates(params, found)["matrix"], jax.Array)


@pytest.mark.parametrize("name", ["graft", "momentum_of", "schedule"])
def test_options_without_meaning_are_refused(name):
    wrong = {"graft": "sgd", "momentum_of": "direction", "schedule": "residual"}[name]
    with pytest.raises(ValueError, match=f"^{name} must be one of .* under SOAP, got '{wrong}'"):
        SOAP(0.1, **{name: wrong})


def test_plan_and_json():
    opt = SOAP(1e-3)
    rows = opt.plan({"w": np.zeros((6, 5)), "b": np.zeros(5)}).rows
    assert [(row.treatment, row.exponent) for row in rows] == [("both sides", "basis"), ("adam", "")]
    assert rows[0].step_flops == 4 * Shampoo(1e-3).plan({"w": np.zeros((6, 5))}).rows[0].step_flops / 2
    assert SOAP.from_json(opt.to_json()) == opt
    measured = opt.plan({"w": np.zeros((6, 5))}, measure=True).rows[0]
    assert measured.root_seconds > 0


def test_in_place_and_pure_agree():
    G = gradients((6, 5), 8)
    opt, a, b = SOAP(0.1), np.zeros((6, 5)), np.zeros((6, 5))
    pure, placed = opt.init(a), opt.init(b)
    for g in G:
        kept = {name: np.array(x) for name, x in pure.arrays.items()}
        update, after = opt.update(g, pure, a)
        for name, x in kept.items():
            np.testing.assert_array_equal(x, pure.arrays[name])
        a, pure = apply_updates(a, update), after
        placed = opt.step(b, g, placed)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", [SOAP, Shampoo])
def test_units_that_fall_at_once_leave_a_finite_state(kind, tmp_path):
    """Without a memory of squares the unit follows the last gradient, and 0 times infinity is no number."""
    opt, W = kind(1e-2, betas=(0.5, 0.0), refresh_every=1), {"w": np.ones((3, 4), np.float32)}
    state = opt.init(W)
    for size in (1, 1e30, 1e-30, 1, 1e25, 1):
        G = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32) * np.float32(size)
        updates, state = opt.update({"w": G}, state, W)
        assert np.isfinite(updates["w"]).all()
        state.save(tmp_path / "state.npz")
        state = opt.load(tmp_path / "state.npz", W)

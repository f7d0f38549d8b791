"""Roots that take two steps, where there are too few for the phases: half of the work in each, used one step later."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest

from matroot import solve
from matroot_optim import SOAP, InlineEngine, RankEngine, Shampoo
from matroot_optim.layout.layout import make_layout
from matroot_optim.refresh.due import steps_to_use
from matroot_optim.refresh.jobs import RootJob, stack_jobs
from matroot_optim.refresh.phases import WHOLE, cost, deal, takes_two_steps
from matroot_optim.step.statistics import unpack
from optim.problems import assert_same, gradients, run, weights
from optim.test_optim_ranks import on_ranks

SHAPES = {"a": (70, 66), "b": (66, 66), "c": (5,)}
FEW = {"refresh_growth": 0.0, "start_step": 2, "ridge": 1e-3}
NETWORKS = {
    "64-128-128-10": [(64, 128), (128, 128), (128, 10)],
    "784-512-512-10": [(784, 512), (512, 512), (512, 10)],
    "512-512-512-512": [(512, 512)] * 3,
}


@pytest.mark.parametrize("network", NETWORKS)
def test_no_step_is_felt(network):
    """A step without roots takes a third of all roots on these networks, as measured."""
    shapes = {str(k): np.empty(shape) for k, shape in enumerate(NETWORKS[network])}
    layout = make_layout(Shampoo(1e-3), shapes)
    orders, phases = list(layout.orders), deal(layout.orders, 10)
    two = takes_two_steps(orders, 10)
    assert two == (network != "512-512-512-512")
    work = np.zeros(10)
    for n, phase in zip(orders, phases, strict=True):
        for part, share in enumerate((0.5, 0.5) if two and n > WHOLE else (1.0,)):
            work[(phase + part) % 10] += share * cost(n)
    assert np.isclose(work.sum(), sum(map(cost, orders)))
    beside = work.sum() / 3
    assert (work.max() + beside) / (np.median(work) + beside) < 1.5


class Watched(InlineEngine):
    """Counts the halves of a step."""

    def __init__(self):
        super().__init__()
        self.begun = self.finished = 0

    def begin(self, batch):
        self.begun += 1
        rest = super().begin(batch)

        def finish():
            self.finished += 1
            return rest()

        return finish


def test_a_step_has_a_half_of_a_root_and_no_more():
    engine = Watched()
    opt = Shampoo(1e-3, engine=engine, **FEW)
    _, state = run(opt, 21, SHAPES)
    halves = []
    for t in range(22, 42):
        before = engine.begun, engine.finished
        _, state = run(opt, t, SHAPES, state=state, skip=t - 1)
        halves.append((engine.begun - before[0], engine.finished - before[1]))
    assert sum(begun for begun, _ in halves) == sum(finished for _, finished in halves) == 8
    assert max(map(sum, halves)) == 1


def test_the_statistics_of_a_step_give_the_root_of_the_next():
    opt = Shampoo(1e-3, **FEW)
    params = weights(SHAPES)
    state, seen = opt.init(params), 0
    for t, g in enumerate(gradients(SHAPES, 45), 1):
        old = state
        state = opt.update(g, state, params)[1]
        for name in (f"{leaf}/block0/axis{axis}" for leaf in "ab" for axis in (0, 1)):
            taken = int(state[f"{name}/taken"])
            assert taken <= t
            if taken == int(old[f"{name}/taken"]) or t < 14:
                continue
            assert taken == t - 1
            A = unpack(old[f"{name}/statistic"]) / (1 - 0.999 ** (t - 1))
            want = solve(A[None], 3, regularization=1e-3).x[0]
            np.testing.assert_allclose(state[f"{name}/root"], want, rtol=1e-9, atol=1e-12 * abs(want).max())
            seen += 1
    assert seen >= 12


@pytest.mark.parametrize(
    "options", [{"schedule": "interval"}, {"graft": "none"}, {"root_device": "device"}, {"statistics_of": "whitened"}]
)
def test_roots_whose_units_or_steps_matter_are_used_at_once(options):
    more = {"exponent": None} if "statistics_of" in options else {}
    opt = Shampoo(1e-3, **{**FEW, **options, **more})
    layout = make_layout(opt, weights(SHAPES))
    assert [steps_to_use(opt, layout, stack, 40) for stack in layout.stacks] == [0] * len(layout.stacks)
    usual = Shampoo(1e-3, **FEW)
    assert [steps_to_use(usual, layout, stack, 40) for stack in make_layout(usual, weights(SHAPES)).stacks] == [1, 1]
    assert [steps_to_use(usual, layout, stack, 11) for stack in make_layout(usual, weights(SHAPES)).stacks] == [0, 0]
    assert not run(SOAP(1e-3), 25, SHAPES)[1].pending


def test_a_save_between_the_halves_resumes_to_the_bit(tmp_path):
    opt = Shampoo(1e-3, **FEW)
    params, state = run(opt, 21, SHAPES)
    assert state.pending
    state.save(tmp_path / "s.npz")
    again = opt.load(tmp_path / "s.npz", params)
    want, got = (run(opt, 30, SHAPES, params=params, state=s, skip=21) for s in (state, again))
    assert_same(want[0], got[0])
    assert_same(want[1], got[1])


def test_ranks_give_the_same_bits():
    want, _ = run(Shampoo(1e-3, **FEW), 26, SHAPES)

    def train(rank, ranks):
        return run(Shampoo(1e-3, **FEW, engine=RankEngine(ranks)), 26, SHAPES)[0]

    for got in on_ranks(2, train):
        assert_same(got, want)


class Broken(InlineEngine):
    def begin(self, batch):
        def finish():
            raise MemoryError("no room")

        return finish


def test_a_second_half_that_raises_on_one_rank_is_a_failure_of_all():
    def train(rank, ranks):
        engine = RankEngine(ranks, Broken() if rank else None)
        _, state = run(Shampoo(1e-3, **FEW, engine=engine), 15, SHAPES)
        return engine.clock.failures, [int(state[k]) for k in state if "axis" in k and k.endswith("/skipped")]

    first, second = on_ranks(2, train)
    assert first == second
    assert first[0] > 0


@pytest.mark.slow
def test_torch_and_jax_take_the_same_steps(tmp_path):
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    from matroot_optim.optax import scale_by_shampoo
    from matroot_optim.torch import Shampoo as TorchShampoo

    grads = [{k: x.astype(np.float32) for k, x in g.items()} for g in gradients(SHAPES, 24)]
    params = {k: x.astype(np.float32) for k, x in weights(SHAPES).items()}
    opt, tensors = Shampoo(1.0, **FEW), [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in params.values()]
    state, theirs = opt.init(params), TorchShampoo(tensors, lr=1.0, **FEW)
    tx = scale_by_shampoo(**FEW)
    compiled, of_jax = jax.jit(tx.update), tx.init({k: jax.numpy.asarray(x) for k, x in params.items()})
    for t, g in enumerate(grads, 1):
        moves, state = opt.update(g, state, params)
        before = [p.detach().clone() for p in tensors]
        for p, x in zip(tensors, g.values(), strict=True):
            p.grad = torch.from_numpy(x.copy())
        theirs.step()
        for p, old, move in zip(tensors, before, moves.values(), strict=True):
            np.testing.assert_allclose((p.detach() - old).numpy(), move, atol=1e-4)
        directions, of_jax = compiled(g, of_jax)
        for k in params if t >= 12 else ():  # roots of one or two gradients keep few of float32's digits
            np.testing.assert_allclose(np.asarray(directions[k]), -moves[k], atol=1e-3)
        if t == 21:  # between two halves
            file = io.BytesIO()
            torch.save(theirs.state_dict(), file)
            file.seek(0)
            theirs = TorchShampoo(tensors, lr=1.0, **FEW)
            theirs.load_state_dict(torch.load(file, weights_only=True))
    taken = {k: int(state[k]) for k in state if k.endswith("/taken")}
    assert taken == {k: int(x) for k, x in of_jax.core.items() if k.endswith("/taken")}
    assert any(t == 23 for t in taken.values())


def test_a_root_that_is_needed_at_once_does_not_wait_for_another():
    """Of two roots of one step, the first of a matrix is used in this step and that of another in the next."""
    index, matrix = np.array([0]), np.eye(2)[:1, :1]
    jobs = [RootJob("stack0/axis0", index, matrix, Fraction(-1, 3), 0.0, due) for due in (8, 7, 8)]
    assert [(batch.due, len(batch.matrix)) for batch, _ in stack_jobs(jobs)] == [(8, 2), (7, 1)]

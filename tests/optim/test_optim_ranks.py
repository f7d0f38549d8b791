"""Roots once over the ranks: the same bits for any number of them, and errors that name the rank that differs.

Here ranks are threads; tests/optim/test_optim_ranks_torch.py and _mpi.py have processes.
"""

from __future__ import annotations

import copy
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from matroot_optim import SOAP, ExecutorEngine, InlineEngine, KLShampoo, RankEngine, RankError, Shampoo, WarmEngine
from matroot_optim.ranks.base import Alone
from matroot_optim.ranks.wire import FACT_BYTES, HEAD_BYTES
from optim.problems import SHAPES, assert_same, run

OPTIONS = {"learning_rate": 0.05, "block_size": 4, "ridge": 1e-4, "refresh_every": 4, "start_step": 4}
LIMIT = 60
STEPS = 14


class Threads:
    """Ranks that are threads of this process."""

    def __init__(self, rank, size, meeting):
        self.rank, self.size = rank, size
        self._barrier, self._given = meeting
        self.sent = []

    @classmethod
    def of(cls, size, timeout=LIMIT):
        meeting = threading.Barrier(size, timeout=timeout), {}
        return [cls(rank, size, meeting) for rank in range(size)]

    def gather(self, mine, sizes):
        self.sent.append(len(mine))
        self._given[self.rank] = np.array(mine)
        try:
            self._barrier.wait()
            found = [self._given[rank] for rank in range(self.size)]
            self._barrier.wait()
        except threading.BrokenBarrierError as error:
            raise RankError("a rank did not come") from error
        assert [len(x) for x in found] == list(sizes)
        return found


def on_ranks(size, work, timeout=LIMIT):
    """Results of `work(rank, ranks)`, or its error, of every rank."""

    def one(ranks):
        try:
            return work(ranks.rank, ranks)
        except RankError as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, Threads.of(size, timeout)))


@pytest.mark.parametrize(
    ("schedule", "lag", "block_size"),
    [("staggered", 0, 4), ("staggered", 5, 1024), ("interval", 0, 1024), ("interval", 5, 4), ("residual", 3, 4)],
)
def test_any_number_of_ranks_gives_the_bits_of_one(schedule, lag, block_size):
    options = {**OPTIONS, "schedule": schedule, "block_size": block_size}
    want, alone = run(Shampoo(**options, engine=InlineEngine(lag)), STEPS)
    one = RankEngine(Alone(), InlineEngine(lag))
    assert_same(run(Shampoo(**options, engine=one), STEPS)[0], want)
    for size in (2, 5) if (schedule, lag) == ("staggered", 0) else (3,):
        engines = {}

        def train(rank, ranks, engines=engines):
            engines[rank] = RankEngine(ranks, InlineEngine(lag), timeout=LIMIT)
            return run(Shampoo(**options, engine=engines[rank]), STEPS)

        for params, state in on_ranks(size, train):
            assert_same(params, want)
            assert all((np.asarray(state[k]) == np.asarray(alone[k])).all() for k in state)
        assert sum(engine.clock.roots for engine in engines.values()) == one.clock.roots  # each once


def test_large_roots_of_which_auto_takes_another_method_when_there_are_few():
    rng = np.random.default_rng(0)
    shapes = {k: (200, 140) for k in "abcde"}
    grads = [{k: rng.standard_normal(s) for k, s in shapes.items()} for _ in range(3)]

    def train(engine):
        opt = Shampoo(0.1, block_size=256, refresh_every=2, start_step=2, schedule="interval", engine=engine)
        params = {k: np.zeros(s) for k, s in shapes.items()}
        state = opt.init(params)
        for g in grads:
            moves, state = opt.update(g, state, params)
            params = {k: params[k] + moves[k] for k in params}
        return params

    want = train(InlineEngine())
    for got in on_ranks(3, lambda rank, ranks: train(RankEngine(ranks))):
        assert_same(got, want)


@pytest.mark.parametrize("kind", [SOAP, KLShampoo])
def test_bases_and_other_rules(kind):
    options = {**OPTIONS, "refresh_every": 2, "start_step": None}
    want, alone = run(kind(**options), STEPS)
    for got, state in on_ranks(3, lambda rank, ranks: run(kind(**options, engine=RankEngine(ranks)), STEPS)):
        assert_same(got, want)
        assert all((np.asarray(state[k]) == np.asarray(alone[k])).all() for k in state)


def test_what_is_sent_and_when():
    """Nothing on a step without due roots; a head, and the packed roots with their facts, on one with."""

    def train(rank, ranks):
        engine = RankEngine(ranks, InlineEngine(2))
        opt = Shampoo(**{**OPTIONS, "refresh_growth": 0.0, "schedule": "interval"}, engine=engine)
        counts = []
        params, state = None, None
        for t in range(1, 13):
            params, state = run(opt, t, params=params, state=state, skip=t - 1)
            counts.append(engine.clock.exchanges)
            assert sum(ranks.sent) == engine.clock.bytes_sent
        return counts, sum(ranks.sent), engine.clock.roots, state

    found = on_ranks(2, train)
    assert found[0][0] == found[1][0] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]  # sent at 1, 5, 9, used two steps later
    state = found[0][3]
    packed = 3 * sum(state[k].nbytes for k in state if k.endswith("/statistic"))
    roots = sum(f[2] for f in found)
    assert sum(f[1] for f in found) == packed + roots * FACT_BYTES + 2 * 3 * HEAD_BYTES
    assert FACT_BYTES <= 64


def test_a_pool_of_threads_inside():
    want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(3)), STEPS)

    def train(rank, ranks):
        with RankEngine(ranks, ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=3, timeout=LIMIT)) as engine:
            return run(Shampoo(**OPTIONS, engine=engine), STEPS)[0]

    for got in on_ranks(2, train):
        assert_same(got, want)


class Failing(InlineEngine):
    """Loses every answer, or raises, from the fifth batch on."""

    def __init__(self, way):
        super().__init__(2)
        self.way, self.count = way, 0

    def submit(self, batch):
        self.count += 1
        if self.count > 4 and self.way == "raises":
            raise MemoryError("no room")
        return super().submit(batch)

    def collect(self, handle):
        from matroot_optim.refresh.jobs import Failure

        return Failure("lost") if self.count > 4 and self.way == "loses" else super().collect(handle)


@pytest.mark.parametrize("way", ["raises", "loses"])
def test_a_failure_of_one_rank_is_a_failure_of_all(way):
    def train(rank, ranks):
        engine = RankEngine(ranks, Failing(way) if rank == 1 else InlineEngine(2))
        params, state = run(Shampoo(**OPTIONS, engine=engine), STEPS)
        return params, state, engine.clock

    (a, s, clock), (b, other, _) = on_ranks(2, train)
    assert_same(a, b)
    assert all((np.asarray(s[k]) == np.asarray(other[k])).all() for k in s)
    assert clock.failures > 2
    assert sum(int(s[k]) for k in s if "axis" in k and k.endswith("/skipped")) > 2
    assert all(np.isfinite(x).all() for x in a.values())


DIFFERENT = {
    "shape": "rank 1 has 36 roots due, of other parameters, options or gradients",
    "order": "rank 1 has .* roots due, of other parameters or options",
    "option": "rank 1 has .* roots due, of other parameters or options",
    "gradient": "rank 1 has statistics of size .*: its gradients are not those of the others",
    "extra": "rank 1 has .* roots due, .*or dealt in another order",
    "step": "rank 1 has roots for step 2; rank 0 has roots for step 1",
    "missing": "rank 1 has .* roots due",
    "nan": "rank 1 has .* roots due",
    "rate": "rank 1 has another learning rate, weight decay or momentum$",
    "without roots": "rank 1 has taken other gradients, of which one is missing or not finite",
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_a_rank_that_differs_is_named_on_all_ranks(kind):
    def train(rank, ranks):
        wrong = rank == 1
        options = {**OPTIONS, "refresh_every": 1, "start_step": 1}
        if kind == "option" and wrong:
            options["ridge"] = 1e-3
        if kind == "rate" and wrong:
            options["learning_rate"] = lambda step: 0.05 if step < 2 else 0.04
        shapes = dict(SHAPES)
        if wrong and kind == "shape":
            del shapes["d"]
        elif wrong and kind == "order":
            shapes["a"], shapes["b"] = (6, 10), (10, 6)
        opt = Shampoo(**options, engine=RankEngine(ranks, InlineEngine(2 * (kind == "extra"))))
        rng = np.random.default_rng(0)
        params = {k: rng.standard_normal(s) for k, s in shapes.items()}
        state = opt.init(params)
        for t in range(5):
            g = {k: np.full(s, 1.0 + t) + np.cos(np.arange(np.prod(s)).reshape(s)) for k, s in shapes.items()}
            if wrong and kind == "gradient":
                g["a"] = 1.01 * g["a"]
            if wrong and kind == "missing":
                g["a"] = None
            if wrong and kind == "nan":
                g["a"][0, 0] = np.nan
            if wrong and kind == "without roots" and t == 2:
                g["c"][0] = np.nan
            if wrong and kind == "extra" and t == 1:
                opt.update(g, state, params)  # a step that is thrown away, whose roots were dealt
            if wrong and kind == "step" and t == 0:
                state = opt.update(dict.fromkeys(g), state, params)[1]
            _, state = opt.update(g, state, params)
        return None

    found = on_ranks(3, train, timeout=5)
    assert len({str(error) for error in found}) == 1, found
    assert isinstance(found[0], RankError)
    assert re.search(DIFFERENT[kind], str(found[0])), found[0]
    assert "rank 2" not in str(found[0])


def test_a_rank_that_does_not_come_is_an_error_and_stays_one():
    def train(rank, ranks):
        engine = RankEngine(ranks)
        opt = Shampoo(**{**OPTIONS, "start_step": 1}, engine=engine)
        if rank == 1:
            return None
        params, state = {"a": np.ones((3, 3))}, opt.init({"a": np.ones((3, 3))})
        with pytest.raises(RankError, match="did not come"):
            opt.update(params, state, params)
        opt.update(params, state, params)

    assert isinstance(on_ranks(2, train, timeout=0.5)[0], RankError)


def test_a_save_copy_or_pickle_on_one_rank_returns_and_loads_to_the_same_bits(tmp_path):
    want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(5)), steps=18)

    def train(rank, ranks):
        opt = Shampoo(**OPTIONS, engine=RankEngine(ranks, InlineEngine(5)))
        params, state = run(opt, steps=11)
        assert state.pending
        if rank == 0:
            state.save(tmp_path / "state.npz")
            again = copy.deepcopy(state)
            assert again.pending
            pickle.loads(pickle.dumps(state))
        got, _ = run(opt, steps=18, params=params, state=state, skip=11)
        if rank == 0:
            alone = Shampoo(**OPTIONS, engine=InlineEngine(5))
            loaded = alone.load(tmp_path / "state.npz", params)
            assert_same(run(alone, steps=18, params=params, state=loaded, skip=11)[0], got)
        return got

    for got in on_ranks(2, train):
        assert_same(got, want)


def test_copies_and_pickles_of_the_engine():
    engine = RankEngine(engine=InlineEngine(3), timeout=5)
    for other in (copy.copy(engine), copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert repr(other) == repr(engine) == "RankEngine(lag=3, timeout=5.0)"
    assert copy.deepcopy(RankEngine(Alone())).ranks.size == 1
    with pytest.raises(TypeError, match="must have the group None to be pickled"):
        pickle.dumps(RankEngine(Alone()))


def test_wrong_arguments(monkeypatch):
    with pytest.raises(TypeError, match="group must be None, 'jax', a process group"):
        RankEngine(3)
    with pytest.raises(TypeError, match="engine must be an InlineEngine or an ExecutorEngine, got WarmEngine"):
        RankEngine(engine=WarmEngine())
    with pytest.raises(TypeError, match="engine must be"):
        RankEngine(engine=RankEngine())
    with pytest.raises(ValueError, match="timeout must be"):
        RankEngine(timeout=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"WORLD_SIZE says that there are 2 processes.*init_process_group"):
        run(Shampoo(**OPTIONS, engine=RankEngine()))

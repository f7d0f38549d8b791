"""Answers of workers that are no roots."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matroot_optim import ExecutorEngine, Shampoo
from matroot_optim.refresh.jobs import Failure, RootAnswer
from optim.problems import run
from optim.test_optim_engines import OPTIONS
from optim.test_optim_executors import UnspeakableError
from optim.test_optim_workers import Inline, linux, one_root

pytestmark = pytest.mark.slow  # processes started, stopped and killed


def raised(error):
    raise error


def with_fact(name, change):
    return lambda a: replace(a, facts={**a.facts, name: change(a.facts[name])})


WRONG = {
    "nothing": lambda a: None,
    "tuple": lambda a: (a.root, a.facts, a.seconds),
    "one root too few": lambda a: replace(a, root=a.root[1:]),
    "one root too many": lambda a: replace(a, root=np.concatenate([a.root, a.root[:1]])),
    "full matrices": lambda a: replace(a, root=np.zeros((2, 3, 3))),
    "no root": lambda a: replace(a, root=None),
    "list": lambda a: replace(a, root=a.root.tolist()),
    "float32": lambda a: replace(a, root=a.root.astype(np.float32)),
    "complex": lambda a: replace(a, root=a.root.astype(complex)),
    "objects": lambda a: replace(a, root=a.root.astype(object)),
    "no facts": lambda a: replace(a, facts={}),
    "facts are None": lambda a: replace(a, facts=None),
    "a fact more": lambda a: replace(a, facts={**a.facts, "more": a.facts["cond"]}),
    "a scalar": with_fact("residual", lambda x: float(x[0])),
    "a column": with_fact("cond", lambda x: x[:, None]),
    "too long": with_fact("status", lambda x: np.concatenate([x, x])),
    "int64": with_fact("status", lambda x: x.astype(np.int64)),
    "strings": with_fact("ridge", lambda x: x.astype(str)),
    "seconds NaN": lambda a: replace(a, seconds=float("nan")),
    "seconds None": lambda a: replace(a, seconds=None),
    "SystemExit": lambda a: raised(SystemExit(3)),
    "KeyboardInterrupt": lambda a: raised(KeyboardInterrupt()),
    "GeneratorExit": lambda a: raised(GeneratorExit()),
    "UnspeakableError": lambda a: raised(UnspeakableError()),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_a_failure(wrong):
    engine = ExecutorEngine(Inline(WRONG[wrong]))
    answer = one_root(engine)
    assert isinstance(answer, Failure)
    assert answer.reason
    assert (engine.clock.answers, engine.clock.failures, engine.clock.root_seconds) == (0, 1, 0.0)


@linux
@pytest.mark.parametrize("wrong", [name for name in WRONG if name.startswith(("no f", "seconds", "a ", "too"))])
def test_a_wrong_answer_through_shared_memory_is_a_failure(wrong):
    assert isinstance(one_root(ExecutorEngine(Inline(WRONG[wrong]), shared_memory=True)), Failure)
    assert isinstance(one_root(ExecutorEngine(Inline(lambda a: a), shared_memory=True)), RootAnswer)


def test_wrong_answers_keep_the_roots_of_a_run():
    engine = ExecutorEngine(Inline(WRONG["one root too few"]), lag=2)
    params, state = run(Shampoo(**OPTIONS, engine=engine))
    assert engine.clock.answers == 0
    assert all(np.isfinite(x).all() for x in params.values())
    assert all(int(state[name]) <= 0 for name in state if name.endswith("/taken"))

"""The comparison of the ranks before they send their roots."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median_low
from typing import Any

from matroot_optim.ranks.base import RankError
from matroot_optim.ranks.wire import Head

#: Largest relative difference of the statistics of two ranks; sums in another order differ by less.
SAME = 1e-4


def check(heads: Sequence[Head]) -> None:
    """Raise if the ranks do not have the same roots to compute; the error names those that differ from most.

    Raises
    ------
    RankError
    """
    for what, value, apart in _ALIKE:
        values = [value(head) for head in heads]
        usual = median_low(values) if apart is not operator.ne else Counter(values).most_common(1)[0][0]
        wrong = [rank for rank, mine in enumerate(values) if apart(mine, usual)]
        if wrong:
            right = what.format(heads[values.index(usual)])
            others = [what.format(heads[rank]) for rank in wrong[:8]]
            named = ", ".join(f"rank {rank} {text}" for rank, text in zip(wrong, others, strict=False))
            usually = "" if right == others[0] else f"; rank {values.index(usual)} {right}"
            raise RankError(f"all ranks must take the same steps: {named}{usually}")


def _apart(a: float, b: float) -> bool:
    return not (a == b or abs(a - b) <= SAME * abs(b) or (math.isnan(a) and math.isnan(b)))


#: What is compared: in words, the value in a head, and the test.
_ALIKE: tuple[tuple[str, Callable[[Head], Any], Callable[[Any, Any], bool]], ...] = (
    ("has roots for step {0.due}", lambda head: head.due, operator.ne),
    (
        "has {0.roots} roots due, of other parameters, options or gradients",
        lambda head: head.roots,
        operator.ne,
    ),
    (
        "has {0.roots} roots due, of other parameters or options, or dealt in another order",
        lambda head: head.digest,
        operator.ne,
    ),
    (
        "has taken other gradients, of which one is missing or not finite on some ranks only",
        lambda head: head.counted,
        operator.ne,
    ),
    (
        "has another learning rate, weight decay or momentum",
        lambda head: head.rates,
        operator.ne,
    ),
    (
        "has statistics of size {0.mass:.6g}: its gradients are not those of the others",
        lambda head: head.mass,
        _apart,
    ),
)

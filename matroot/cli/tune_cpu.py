"""Measure on this machine where one method overtakes another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from matroot import gallery
from matroot._solve import solve
from matroot.backends.profile import Limits

ALONE = (32, 48, 64, 96, 128, 160, 192, 256, 320, 512, 1024)
BATCH = (64, 96, 128, 160, 192, 256, 320, 384, 512)
WHOLE = (32, 64, 96, 128, 160, 192, 256, 320, 512, 768)
#: In a batch of as many as have this many numbers in all, at least eight.
NUMBERS = 1 << 18
ROUNDS = 7


def measure(say: Callable[[str], None] = lambda line: None) -> Limits:
    """Measure the limits of this machine by the median of seven rounds in which the methods take turns.

    `say` gets a line for every size measured.
    """
    alone = last_win(((n, race(n, 1, 4, ("tridiagonal", "eigen"), say)) for n in ALONE), 32)
    batch = last_win(((n, race(n, max(8, NUMBERS // n**2), 4, ("tridiagonal", "eigen"), say)) for n in BATCH), alone)
    # What wins at the largest size, wins beyond.
    alone = Limits().tridiagonal_alone if alone == ALONE[-1] else alone
    batch = Limits().tridiagonal_batch if batch >= BATCH[-1] else batch
    rival = {n: "tridiagonal" if n <= alone else "eigen" for n in WHOLE}
    losing = last_win(((n, 1 / race(n, 1, 1, ("minimax", rival[n]), say)) for n in WHOLE), 0)
    beyond = [n for n in WHOLE if n > losing]
    return Limits(alone, batch, beyond[0] if beyond else 2 * WHOLE[-1])


def race(n: int, batch: int, p: int, methods: tuple[str, str], say: Callable[[str], None]) -> float:
    """Time of the first method over the second's."""
    A, _ = gallery.spd(n, 1e4, batch=(batch,), rng=0)
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    for round_ in range(ROUNDS + 1):
        for method in methods:
            start = time.perf_counter()
            solve(A, p, method=method)
            if round_:  # the first warms up
                seconds[method].append(time.perf_counter() - start)
    ratio = float(np.median(seconds[methods[0]]) / np.median(seconds[methods[1]]))
    say(f"n = {n:3}, {batch:3} at once, p = {p}: {methods[0]} takes {ratio:.2f} of {methods[1]}'s time")
    return ratio


def last_win(ratios: Iterator[tuple[int, float]], start: int) -> int:
    """Return the last size before two losses in a row: one alone may be noise."""
    won, lost = start, 0
    for n, ratio in ratios:
        if ratio < 1:
            won, lost = n, 0
        else:
            lost += 1
        if lost == 2:
            break
    return won

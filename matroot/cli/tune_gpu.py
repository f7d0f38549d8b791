"""Measure which shortcuts of the GPU path are right and faster on this machine's cards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from matroot import gallery
from matroot._bars import forward_error_bound
from matroot._solve import solve
from matroot.backends.cuda import limits as gpu_limits
from matroot.backends.cuda.gpu import GPU, gpu
from matroot.backends.cuda.limits import GPULimits
from matroot.cli.tune_cpu import last_win

Array = Any
Say = Callable[[str], None]

KAPPA, P = 1e3, 4
#: Sizes and batches of every comparison, in the order in which they are measured.
SMALL, MANY = (4, 8, 16, 32, 48, 64), 4096
JACOBI = (16, 24, 32, 48, 64, 96, 128)
BATCHED = (48, 64, 96, 128, 256, 512)
SHAPES = ((1024, 32), (256, 128), (64, 512))
HALVES, NUMBERS = (2048, 1024, 512, 256), 1 << 26
BYTES = tuple(1 << k for k in range(16, 29, 2))
ROUNDS = 7


def tune(say: Say, where: Path | None = None) -> None:
    """Measure every card and save the limits; do nothing without a card."""
    try:
        import cupy
    except ImportError:
        return
    where = where or gpu_limits.path()
    for device in range(cupy.cuda.runtime.getDeviceCount() if cupy.is_available() else 0):
        name = gpu_limits.card(cupy, device)
        say(f"{name}:")
        with cupy.cuda.Device(device):
            found = measure(gpu(device), say)
        gpu_limits.save(name, found, where)
        say(f"{where}: {', '.join(f'{key} {value}' for key, value in asdict(found).items())}")
    gpu.cache_clear()
    gpu_limits.limits.cache_clear()


def measure(backend: GPU, say: Say) -> GPULimits:
    """Measure the limits of one card; the limits of `backend` are unchanged at the end."""
    before, best = backend.limits, GPULimits()
    try:
        ask = partial(race, backend, say)
        won = [ask(f"{B} of n = {n}: stack.cu", B, n, replace(best, kernels=1), best) < 1 for B, n in SHAPES]
        best = replace(best, kernels=int(all(won)))
        best = replace(best, graphs=last_win(_graphs(ask, best), 0))
        tries = ((n, ask(f"n = {n}: small.cu", MANY, n, replace(best, fused=n), best)) for n in SMALL)
        best = replace(best, fused=last_win(tries, 0))
        one_by_one = replace(best, jacobi=0)
        ask_eigen = partial(ask, method="eigen")
        tries = ((n, ask_eigen(f"n = {n}: Jacobi", 64, n, replace(best, jacobi=n), one_by_one)) for n in JACOBI)
        best = replace(best, jacobi=last_win(tries, 0))
        large = [n for n in BATCHED if n > best.jacobi]
        tries = ((n, ask_eigen(f"n = {n}: XsyevBatched", 64, n, replace(best, batched=n), best)) for n in large)
        best = replace(best, batched=last_win(tries, 0))
        tries = ((n, ask(f"n = {n}: eigen", MANY, n, best, best, method="eigen")) for n in SMALL if n <= best.jacobi)
        best = replace(best, eigen=last_win(tries, 0))
        ask = partial(ask, dtype="float32")
        tries = ((n, ask(f"n = {n}: halves", NUMBERS // n**2, n, replace(best, halves=n), best)) for n in HALVES)
        return replace(best, halves=last_win(tries, 0))
    finally:
        backend.limits = before


def _graphs(ask: Callable[..., float], best: GPULimits) -> Iterator[tuple[int, float]]:
    for size in BYTES:
        n = 64 if size < 1 << 22 else 256
        B = max(1, size // (8 * n * n))
        yield 8 * n * n * B, ask(f"{size >> 10} KiB: a graph", B, n, replace(best, graphs=8 * n * n * B), best)


def race(
    backend: GPU,
    say: Say,
    what: str,
    B: int,
    n: int,
    one: GPULimits,
    other: GPULimits,
    method: str = "minimax",
    dtype: str = "float64",
) -> float:
    """Return the time with the limits `one` over the time with `other`; infinite if it fails or the roots differ.

    `method` runs with `one`. With `other` the method is "minimax", or `method` too if the limits differ. The arithmetic
    is float64, whatever the `dtype` of input and output.
    """
    xp = backend.xp
    A, _ = gallery.spd(n, KAPPA, rng=0)
    stack = xp.asarray(np.broadcast_to(A, (B, n, n)).astype(dtype))
    rival = "minimax" if one == other else method
    try:
        X = at(backend, one, method, stack).x
    except Exception as error:  # any failure of a shortcut keeps the default
        say(f"{what} fails: {type(error).__name__}: {error}")
        return float("inf")
    Y = at(backend, other, rival, stack).x
    distance = xp.sqrt(((X - Y) ** 2).sum((-1, -2)).max() / (Y**2).sum((-1, -2)).min())
    rounding = 20 * n * 2.0**-53 + 2 * float(np.finfo(dtype).eps)
    bound = 20 * float(forward_error_bound(np.array(KAPPA), -1 / P, 2.0**-53)) + rounding
    if not float(distance) <= bound:
        say(f"{what} is off by {float(distance):.1e}")
        return float("inf")
    seconds: list[list[float]] = [[], []]
    for round_ in range(ROUNDS + 1):
        for mine, limits, name in zip(seconds, (one, other), (method, rival), strict=True):
            taken = milliseconds(xp, partial(at, backend, limits, name, stack))
            if round_:  # the first round is a warm-up
                mine.append(taken)
    ratio = float(np.median(seconds[0]) / np.median(seconds[1]))
    say(f"{what} takes {ratio:.2f} of the time")
    return ratio


def at(backend: GPU, limits: GPULimits, method: str, stack: Array) -> Any:
    """Solve with these limits."""
    backend.limits = limits
    return solve(stack, P, method=method, compute_dtype="float64")


def milliseconds(xp: Any, work: Callable[[], Any]) -> float:
    """Measure the card's time of `work`, by CUDA events on the current stream."""
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(xp.cuda.get_elapsed_time(start, end))

"""Compile the kernels now, so that no first root has to wait for them; they are kept on disk for later processes."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from matroot.cli.progress import Progress

#: Seconds after which a compilation in the background is given up.
LONGEST = 1800


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of ``matroot warm-up``."""
    parser.add_argument(
        "--background",
        action="store_true",
        help="at the lowest priority and for half an hour at most, as the first root of an installation starts it",
    )


def run(options: argparse.Namespace) -> int:
    """Compile what is not on disk yet."""
    import matroot

    if options.background:
        _step_back()
    matroot.use_kernels()
    start = time.perf_counter()
    tasks = list(_tasks())
    with Progress(len(tasks), "compiling") as progress:
        for task in tasks:
            task()
            progress.step()
    print(f"kernels are ready after {time.perf_counter() - start:.1f} s")
    return 0


def _tasks() -> Iterator[Callable[[], Any]]:
    """Small problems, one for each kernel and kind of number; last, the mark that all are compiled."""
    import numpy as np

    from matroot import PseudoInverse, frechet_derivative, gallery, polar, solve, spectral_power
    from matroot.backends.loading import deferred

    large, general = np.diag(np.arange(1.0, 257.0)), gallery.general(96, 100.0, rng=0)[0]
    yield partial(solve, np.diag(np.arange(1.0, 5.0)), 4)
    yield partial(solve, np.diag(np.arange(0.0, 4.0)), 2, regularization=PseudoInverse())
    for double, single in ((np.float64, np.float32), (np.complex128, np.complex64)):
        yield partial(solve, large.astype(double), 4)
        yield partial(solve, large.astype(single), 4)
        yield partial(solve, large.astype(single), 4, rtol=1e-3, regularization=1e-2)
    yield partial(polar, large, method="products")
    yield partial(polar, large.astype(np.float32), method="products")
    yield partial(spectral_power, large, 0.5, method="products")
    yield partial(solve, general, 6, assume_a="gen")
    yield partial(solve, general.astype(np.complex128), 6, assume_a="gen")
    yield partial(frechet_derivative, np.eye(4), np.eye(4), 2)
    for n in (20, 70):
        for kind in (np.float32, np.float64):
            A = np.diag(np.arange(1.0, n + 1)).astype(kind)
            yield partial(frechet_derivative, A, A, 2)
    with suppress(Exception):  # without numba, there is nothing to mark
        yield deferred("matroot.backends.cpu.mark").finish


def _step_back() -> None:
    """Let all else go first: the processor, and memory when it is short."""
    with suppress(OSError, AttributeError):
        os.nice(19)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if hasattr(signal, "alarm"):
        signal.alarm(LONGEST)

"""Minimax on the GPU with one schedule for the whole stack, in arrays that are allocated once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matroot.methods.base import Array, Problem, Raw
from matroot.methods.minimax_schedule import schedule
from matroot.methods.minimax_steps import coupled, largest_between, spectrum, status_of, target_error

if TYPE_CHECKING:
    from matroot.backends.cuda.gpu import GPU
    from matroot.methods.minimax import Minimax

#: If the output is this many times coarser than the arithmetic, the extra error of symmetric products does not show.
SPARE = 2**20


def run(method: Minimax, A: Array, problem: Problem, backend: GPU) -> Raw:
    """Compute A^{-a/p} like `Minimax.apply`, with one schedule for all matrices; A is overwritten.

    The spectra are not read from the device, so all matrices get the same schedule.
    """
    xp = backend.xp
    B = len(A)
    p, a = problem.p, -problem.rational.numerator
    lower, _ = spectrum(A, None, None, problem, backend)
    eps = float(np.finfo(A.dtype).eps)
    plan = schedule(p, float(lower[0]), target=target_error(problem, eps), a=a, accurate=method.accurate)
    steps = plan.steps[: problem.max_iter]
    A2 = backend.matmul(A, A)
    top, _ = largest_between(A, A2, backend)
    A /= top.astype(A.real.dtype)[:, None, None]
    A2 /= (top * top).astype(A.real.dtype)[:, None, None]
    spare = problem.out_eps >= SPARE * eps

    def work(backend: GPU, *stacks: Array) -> tuple[Array, Array]:
        return coupled(plan, steps, backend.symmetric_matmul if spare else backend.matmul, backend, *stacks)

    X, M = backend.replayed((plan, len(steps), spare), work, (A, A2))
    status = status_of(M, plan, len(steps), backend).astype(xp.int8)
    X *= (top ** (-a / p)).astype(X.real.dtype)[:, None, None]
    return Raw(X, status, xp.full(B, len(steps)), plan.products)

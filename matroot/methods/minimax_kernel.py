"""Minimax for small matrices on the GPU, with the whole schedule in one launch of ``backends/cuda/small.cu``."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from matroot.backends.cuda.stacks import kernel
from matroot.methods.base import Array, Problem, Raw
from matroot.methods.minimax_schedule import Schedule, schedule
from matroot.methods.minimax_steps import factors, spectrum, status_from, target_error

if TYPE_CHECKING:
    from matroot.backends.cuda.gpu import GPU
    from matroot.methods.minimax import Minimax

#: Threads along each side of a block; thread (i, j) owns the elements EDGE apart from (i, j).
EDGE = 16
#: Elements along each side that a thread can own: n up to 64.
TILES = 4


def fits(A: Array, backend: GPU) -> bool:
    """Return True if one block can hold each matrix, and the tuned limits choose this kernel."""
    n = A.shape[-1]
    return bool(
        A.dtype.kind == "f" and n <= min(backend.limits.fused, EDGE * TILES) and shared(A) <= backend.shared_bytes
    )


def run(method: Minimax, A: Array, problem: Problem, backend: GPU) -> Raw:
    """Compute A^{-a/p} like `Minimax.apply`; A is not written to."""
    xp = backend.xp
    B, n, _ = A.shape
    p, a = problem.p, -problem.rational.numerator
    eps = float(np.finfo(A.dtype).eps)
    lower, _ = spectrum(A, None, None, problem, backend)
    plan = schedule(p, float(lower[0]), target=target_error(problem, eps), a=a, accurate=method.accurate)
    steps = len(plan.steps[: problem.max_iter])
    coefficients, program = on_device(backend, xp.cuda.get_current_stream().ptr, plan, steps)
    A, X = xp.ascontiguousarray(A), xp.empty((B, n, n), A.dtype)
    top, off = xp.empty(B, A.dtype), xp.empty(B, A.dtype)
    arguments = (A, X, top, off, np.int32(n), np.int32(steps), coefficients, program)
    name = f"coupled<{'double' if A.dtype.name == 'float64' else 'float'}, {tiles(n)}>"
    launch = kernel(backend, "small.cu", name, shared(A))
    launch((B,), (EDGE, EDGE), (*arguments, np.float64(eps)), shared_mem=shared(A))
    X *= (top.astype(xp.float64) ** (-a / p)).astype(A.dtype)[:, None, None]
    status = status_from(off, plan, steps, n, eps, xp).astype(xp.int8)
    return Raw(X, status, np.full(B, steps), plan.products)


def tiles(n: int) -> int:
    """Return the number of elements along each side that a thread owns."""
    return max(1, -(-n // EDGE))


def shared(A: Array) -> int:
    """Return the bytes of shared memory of a block: four padded matrices."""
    m = EDGE * tiles(A.shape[-1])
    return int(4 * m * (m + 1) * A.dtype.itemsize)


@lru_cache(maxsize=256)
def on_device(backend: GPU, stream: int, plan: Schedule, steps: int) -> tuple[Array, Array]:
    """Copy the first `steps` of a schedule to the device in the kernel's format: coefficients, degrees with factors.

    The copy is ordered with the current stream, whose address is `stream`. The address is part of the cache's key,
    since another stream would have to wait for the copy.
    """
    program: list[int] = []
    for i, c in enumerate(plan.steps[:steps]):
        plan_of_factors = factors(plan.a, 0 if i == steps - 1 else plan.p)
        program += [len(c) - 1, len(plan_of_factors)]
        for to_X, left, right in plan_of_factors:
            program += [to_X, left, right]
    xp = backend.xp
    return xp.asarray(plan.table()[:steps]), xp.asarray(np.array(program, np.int32))

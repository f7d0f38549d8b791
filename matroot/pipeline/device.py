"""Solves on the GPU, whose results the host has not read: their arrays may still be being computed."""

from __future__ import annotations

import math
from typing import Any

from matroot._result import RootResult
from matroot.pipeline.call import Job, Output
from matroot.pipeline.retries import solve_chunk

Array = Any


def solve_stack(values: Array, job: Job) -> RootResult[Any]:
    """Solve a planned job for arrays on a device; return before the device is done."""
    backend = job.backend
    batch, n = values.shape[:-2], values.shape[-1]
    B = math.prod(batch)
    wide = 16 if job.dtype.kind == "c" else 8
    with backend.here(job.origin):
        stack = backend.xp.ascontiguousarray(values.reshape(B, n, n))
        out = _output(B, n, job)
        if stack.size:
            backend.run_chunks(lambda part: solve_chunk(stack[part], part, job, out), B, n, wide)
        return out.result(batch, job)


def _output(B: int, n: int, job: Job) -> Output:
    backend: Any = job.backend  # a GPU
    try:
        return Output.room(B, n, job)
    except backend.xp.cuda.memory.OutOfMemoryError as full:
        need = B * n * n * job.out_dtype.itemsize * (2 if job.method.gives_companion else 1)
        raise MemoryError(
            f"the result alone needs {need / 2**30:.2f} GiB on CUDA device {backend.device}, where "
            f"{backend.free_bytes() / 2**30:.2f} GiB are free; pass the batch in parts, or arrays on the CPU"
        ) from full

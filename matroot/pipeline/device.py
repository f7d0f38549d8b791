"""The result of a solve on the GPU, whose values the host has not read."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from matroot._result import RootResult, on_host
from matroot.pipeline.call import Job, Output
from matroot.pipeline.retries import solve_chunk
from matroot.pipeline.scaling import asymmetry_bar

Array = Any


@dataclass(frozen=True, repr=False)
class DeviceResult(RootResult[Any]):
    """A `RootResult` whose arrays may still be being computed; reading a value waits for the device.

    Attributes
    ----------
    asymmetry : array of float64, (...)
        ``max|A - A^H| / max|A|``. Raising an error would have to wait for the device. Instead, a matrix that is not
        symmetric up to rounding gets NaN, the status NOT_POSITIVE, and a sentence of its own.
    tolerance : float
        Largest asymmetry that counts as rounding.
    """

    asymmetry: Array
    tolerance: float

    def sentence(self, index: int) -> str:
        """Return the status sentence of one matrix of the flattened batch, with its numbers."""
        gap = float(on_host(self.asymmetry).ravel()[index])
        if gap > self.tolerance:
            return (
                f"is not symmetric (Hermitian): max|A - A^H| is {gap:.1e} of max|A|; for a general matrix pass an "
                "array on the CPU and assume_a='gen'"
            )
        return super().sentence(index)


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
        result = out.result(batch, job)
        gap = job.origin.give_back(out.asymmetry.reshape(batch), as_input=False)
    known = {f.name: getattr(result, f.name) for f in fields(RootResult)}
    return DeviceResult(**known, asymmetry=gap, tolerance=asymmetry_bar(job.origin))


def _output(B: int, n: int, job: Job) -> Output:
    backend: Any = job.backend  # a GPU
    try:
        return Output(B, n, job)
    except backend.xp.cuda.memory.OutOfMemoryError as full:
        need = B * n * n * job.out_dtype.itemsize * (2 if job.method.gives_companion else 1)
        raise MemoryError(
            f"the result alone needs {need / 2**30:.2f} GiB on CUDA device {backend.device}, where "
            f"{backend.free_bytes() / 2**30:.2f} GiB are free; pass the batch in parts, or arrays on the CPU"
        ) from full

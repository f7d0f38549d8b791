"""A CUDA device through cupy: batched products by cuBLAS, eigenvalues by cuSOLVER, work sized from free memory.

Nothing here waits for the device. cupy is imported by whoever makes an array of it, or by `gpu`, never at the top.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import Any

from matroot.engines import gpu_limits, graphs
from matroot.engines.arrays import Origin

Array = Any

#: n x n stacks that a chunk holds at its peak, beside the input and the root: six of the iteration, with room for
#: temporaries of elementwise work and for the blocks that cupy's pool rounds up.
WORK_STACKS = 10
#: Share of the free memory that a chunk may plan for; cuBLAS and cuSOLVER keep workspaces of their own.
PLANNED = 0.8
#: A card whose float32 rate is at most this many times its float64 rate computes float32 input in float64.
FAST_FLOAT64 = 4


@cache
def gpu(device: int = 0) -> GPU:
    """The engine of a CUDA device.

    Raises
    ------
    RuntimeError
        cupy is not installed, or sees no such device.
    """
    try:
        import cupy
    except ImportError as missing:
        raise RuntimeError("the GPU engine needs cupy: pip install 'matroot[cuda13]' (or cuda12)") from missing
    found = cupy.cuda.runtime.getDeviceCount() if cupy.is_available() else 0
    if not 0 <= device < found:
        raise RuntimeError(f"CUDA device {device} was asked for, and cupy sees {found or 'none'}; use CPU arrays")
    return GPU(cupy, device)


class GPU:
    """Products and factorizations on the arrays of one device.

    Parameters
    ----------
    cupy : module
    device : int
        Its number.
    """

    name = "gpu"

    def __init__(self, cupy: Any, device: int) -> None:
        self.xp = cupy
        self.device = device
        #: which shortcuts are taken where
        self.limits = gpu_limits.limits(gpu_limits.card(cupy, device))
        attributes = cupy.cuda.Device(device).attributes
        ratio = attributes.get("SingleToDoublePrecisionPerfRatio", 1)
        #: whether float64 costs about what float32 does: A100, H100, H200, B200, and no card made for games
        self.fast_float64 = ratio <= FAST_FLOAT64
        #: bytes of shared memory that one block can have
        self.shared_bytes = attributes.get("MaxSharedMemoryPerBlockOptin", 48 << 10)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Product of stacks, into `out` if given: one strided batched GEMM."""
        return self.xp.matmul(a, b, out=out)

    def rank_k(self, a: Array) -> Array:
        """``a @ a^H``, Hermitian to the last bit; cuBLAS has no batched syrk."""
        return hermitian_part(self.xp.matmul(a, a.conj().swapaxes(-1, -2)))

    def eigh(self, A: Array) -> tuple[Array, Array]:
        """Eigenvalues ascending (B, n) and eigenvectors (B, n, n); NaN in, NaN out."""
        xp = self.xp
        if A.shape[-1] <= self.limits.jacobi:
            w, Q = xp.linalg.eigh(A)
            return w, Q
        w, Q = xp.empty(A.shape[:-1], A.real.dtype), xp.empty_like(A)
        for i in range(len(A)):
            w[i], Q[i] = xp.linalg.eigh(A[i])
        return w, Q

    def eigvalsh(self, A: Array) -> Array:
        """Eigenvalues ascending (B, n)."""
        xp = self.xp
        if A.shape[-1] <= self.limits.jacobi:
            return xp.linalg.eigvalsh(A)
        w = xp.empty(A.shape[:-1], A.real.dtype)
        for i in range(len(A)):
            w[i] = xp.linalg.eigvalsh(A[i])
        return w

    def run_chunks(self, work: Callable[[slice], None], B: int, n: int, itemsize: int) -> None:
        """Call `work` on slices of the batch that cover it, each small enough for the free memory.

        `itemsize` is that of the certificate's dtype, the widest there is.

        Raises
        ------
        MemoryError
            Not even one matrix fits, or the device ran out on the way; says what would fit. Inputs are as they were.
        """
        cupy = self.xp
        each = WORK_STACKS * n * n * itemsize
        free = self.free_bytes()
        size = min(B, int(PLANNED * free) // each)
        if size == 0:
            raise MemoryError(self.too_large(n, each, free))
        for i in range(0, B, size):
            try:
                work(slice(i, min(i + size, B)))
            except cupy.cuda.memory.OutOfMemoryError as full:
                raise MemoryError(self.too_large(n, each, self.free_bytes(), min(size, B - i))) from full

    def free_bytes(self) -> int:
        """What can still be allocated: the device's free memory and what cupy's pool holds unused."""
        cupy = self.xp
        free, _ = cupy.cuda.Device(self.device).mem_info
        pool = cupy.get_default_memory_pool()
        free += pool.free_bytes()
        limit = pool.get_limit()
        return int(min(free, limit - pool.used_bytes()) if limit else free)

    def too_large(self, n: int, each: int, free: int, tried: int = 1) -> str:
        """What did not fit on the device, and what would."""
        fitting = int(PLANNED * free) // each
        largest = int((PLANNED * free * n * n / each) ** 0.5)
        what_fits = f"{fitting} at a time would fit" if fitting else f"n = {largest} would fit"
        return (
            f"{tried} of n = {n} need {tried * each / 2**30:.2f} GiB of work space on CUDA device {self.device}, "
            f"where {free / 2**30:.2f} GiB are free; {what_fits}, or free memory, or pass arrays on the CPU"
        )

    @contextmanager
    def here(self, origin: Origin) -> Iterator[None]:
        """On this device and the caller's current stream, with products in the full precision of their dtype."""
        cupy = self.xp
        with ExitStack() as stack:
            stack.enter_context(cupy.cuda.Device(self.device))
            torch = sys.modules.get("torch")
            if origin.library == "torch" and torch is not None:
                stream = torch.cuda.current_stream(self.device).cuda_stream
                if stream:  # torch's default is the device's default stream, and so is cupy's
                    stack.enter_context(cupy.cuda.ExternalStream(stream, self.device))
            stack.enter_context(_full_float32(cupy))
            yield

    def replayed(self, key: Any, work: Callable[..., Any], given: tuple[Array, ...]) -> Any:
        """``work(*given, T, P, X)``, three more stacks like the first: from a CUDA graph where it is to be captured.

        `work` writes into these stacks only, and returns some of them; `key` tells one `work` from another.
        """
        first = given[0]
        if first.nbytes <= self.limits.graphs:
            found = graphs.replay(self, key, work, given)
            if found is not None:
                return found
        return work(*given, *(self.xp.empty_like(first) for _ in range(3)))

    def sync_free(self) -> bool:
        """Whether loops must avoid reading values on the host: always here."""
        return True


#: cupy's COMPUTE_TYPE_DEFAULT: float32 products in float32 proper.
FULL = 1
_inside = Lock()
_solves: list[int] = []


@contextmanager
def _full_float32(cupy: Any) -> Iterator[None]:
    """Keep CUPY_TF32 from rounding float32 products to 11 bits while the block runs.

    The switch is the whole process's: what the first solve found, the last of those that overlap puts back.
    """
    core = cupy._core
    with _inside:
        _solves.append(core.get_compute_type("f") if not _solves else _solves[0])
        core.set_compute_type("f", FULL)
    try:
        yield
    finally:
        with _inside:
            before = _solves.pop()
            if not _solves:
                core.set_compute_type("f", before)


def hermitian_part(A: Array) -> Array:
    """(A + A^H) / 2, Hermitian to the last bit."""
    other = A.swapaxes(-1, -2)
    H = A + (other.conj() if A.dtype.kind == "c" else other)
    H *= 0.5
    return H

"""A CUDA device through cupy: batched products by cuBLAS, eigenvalues by cuSOLVER, work sized from free memory.

Nothing here waits for the device, except that cuSOLVER may do so internally. cupy is imported by the caller who creates
its arrays, or by `gpu`, never at the top.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

from matroot.backends.arrays import Origin, unit_roundoff
from matroot.backends.cuda import cublas, cusolver, graphs, stacks
from matroot.backends.cuda import limits as gpu_limits
from matroot.backends.cuda.recording import Recording
from matroot.backends.holds import Setting, held
from matroot.backends.linalg import combine, hermitian_part

Array = Any

#: n x n stacks that a chunk holds at its peak, in addition to the input and the root: six of the iteration, with a
#: margin for temporaries of elementwise work and for the rounding of block sizes by cupy's pool.
WORK_STACKS = 10
#: Share of the free memory planned for a chunk; cuBLAS and cuSOLVER need workspaces too.
PLANNED = 0.8
#: A card whose float32 rate is at most this many times its float64 rate computes float32 input in float64.
FAST_FLOAT64 = 4


@cache
def gpu(device: int = 0, rounding: str = "") -> GPU:
    """Return the backend of a CUDA device; RuntimeError if cupy is not installed, or sees no such device."""
    try:
        import cupy
    except ImportError as missing:
        raise RuntimeError("the GPU backend needs cupy: pip install 'matroot[cuda13]' (or cuda12)") from missing
    found = cupy.cuda.runtime.getDeviceCount() if cupy.is_available() else 0
    if not 0 <= device < found:
        raise RuntimeError(f"CUDA device {device} was asked for, and cupy sees {found or 'none'}; use CPU arrays")
    return GPU(cupy, device, rounding)


class GPU:
    """Products and factorizations on the arrays of one device, given by its number.

    `rounding`, ``"tf32"`` or ``"bfloat16"``, is the precision to which factors of single precision products are
    rounded.
    """

    name = "gpu"

    def __init__(self, cupy: Any, device: int, rounding: str = "") -> None:
        self.xp = cupy
        self.device = device
        self.rounding = rounding
        #: the cuBLAS handle used while a graph is captured, else None
        self.recording: Recording | None = None
        #: tuned limits of the shortcuts
        self.limits = gpu_limits.limits(gpu_limits.card(cupy, device))
        attributes = cupy.cuda.Device(device).attributes
        ratio = attributes.get("SingleToDoublePrecisionPerfRatio", 1)
        #: True if float64 is about as fast as float32: A100, H100, H200, B200, but not consumer cards
        self.fast_float64 = ratio <= FAST_FLOAT64
        #: maximum bytes of shared memory of one block
        self.shared_bytes = attributes.get("MaxSharedMemoryPerBlockOptin", 48 << 10)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Multiply stacks, into `out` if given, by one strided batched GEMM."""
        rounding = self.rounding if a.shape == b.shape and a.dtype.name in ("float32", "complex64") else ""
        if not rounding and self.recording is None:
            return self.xp.matmul(a, b, out=out)
        out = self.xp.empty_like(a) if out is None else out
        a, b = (x if x.strides[-1] == x.dtype.itemsize else self.xp.ascontiguousarray(x) for x in (a, b))
        cublas.gemm(a, b, out, self, rounding)
        return out

    def symmetric_matmul(self, a: Array, b: Array, out: Array) -> Array:
        """Compute ``matmul(a, b, out)`` for symmetric stacks that commute, for large n at 5/8 of the work.

        The result is symmetric to the last bit. In a coupled iteration this carries errors of large eigenvalues to
        small eigenvalues (n = 128, float64, cond 1e6, p from 1 to 8: forward errors grow up to 4 times, residuals
        2 to 14 times). Use it only if the arithmetic has digits to spare.
        """
        halves = self.limits.halves
        if not halves or a.shape[-1] < halves or a.dtype.kind == "c":
            return self.matmul(a, b, out=out)
        cublas.symmetric_gemm(a, b, out, self)
        return out

    def combine(self, s: float, S: Array, m: float, M: Array, d: float, out: Array, scratch: Array) -> None:
        if self.limits.kernels and out.dtype.kind == "f":
            stacks.combine(s, S, m, M, d, out, self)
        else:
            combine(s, S, m, M, d, out, scratch, self.xp)

    def eps(self, dtype: Any) -> float:
        single = dtype.name in ("float32", "complex64")
        return 2 * unit_roundoff(self.rounding if self.rounding and single else dtype.name)

    def rounded(self, rounding: str) -> GPU:
        """Return a backend of the same device with rounded single precision products."""
        backend = gpu(self.device, rounding)
        backend.limits = replace(self.limits, fused=0, eigen=0)
        return backend

    def rank_k(self, a: Array) -> Array:
        """Compute ``a @ a^H``, Hermitian to the last bit; cuBLAS has no batched syrk."""
        return hermitian_part(self.xp.matmul(a, a.conj().swapaxes(-1, -2)))

    def eigh(self, A: Array) -> tuple[Array, Array]:
        """Compute ascending eigenvalues (B, n) and eigenvectors (B, n, n); NaN for matrices that hold NaN."""
        xp = self.xp
        if A.shape[-1] <= self.limits.jacobi:
            w, Q = xp.linalg.eigh(A)
            return w, Q
        if self._batched(A):
            return cusolver.eigh(A, xp)
        w, Q = xp.empty(A.shape[:-1], A.real.dtype), xp.empty_like(A)
        for i in range(len(A)):
            w[i], Q[i] = xp.linalg.eigh(A[i])
        return w, Q

    def eigvalsh(self, A: Array) -> Array:
        xp = self.xp
        if A.shape[-1] <= self.limits.jacobi:
            return xp.linalg.eigvalsh(A)
        if self._batched(A):
            return cusolver.eigvalsh(A, xp)
        w = xp.empty(A.shape[:-1], A.real.dtype)
        for i in range(len(A)):
            w[i] = xp.linalg.eigvalsh(A[i])
        return w

    def _batched(self, A: Array) -> bool:
        return len(A) > 1 and A.shape[-1] <= self.limits.batched

    def run_chunks(self, work: Callable[[slice], None], B: int, n: int, itemsize: int) -> None:
        """Call `work` on slices of the batch that cover it, each small enough for the free memory.

        `itemsize` is that of the certificate's dtype, the widest in use. MemoryError if a single matrix does not fit,
        or memory ran out later: the message says what would fit. Inputs are intact.
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
        """Return the bytes that can be allocated: the device's free memory and the unused blocks of cupy's pool."""
        cupy = self.xp
        free, _ = cupy.cuda.Device(self.device).mem_info
        pool = cupy.get_default_memory_pool()
        free += pool.free_bytes()
        limit = pool.get_limit()
        return int(min(free, limit - pool.used_bytes()) if limit else free)

    def too_large(self, n: int, each: int, free: int, tried: int = 1) -> str:
        """Return an error message that says what did not fit on the device, and what would."""
        fitting = int(PLANNED * free) // each
        largest = int((PLANNED * free * n * n / each) ** 0.5)
        what_fits = f"{fitting} at a time would fit" if fitting else f"n = {largest} would fit"
        return (
            f"{tried} of n = {n} need {tried * each / 2**30:.2f} GiB of work space on CUDA device {self.device}, "
            f"where {free / 2**30:.2f} GiB are free; {what_fits}, or free memory, or pass arrays on the CPU"
        )

    @contextmanager
    def here(self, origin: Origin) -> Iterator[None]:
        """Enter this device and the caller's current stream, with products in the full precision of their dtype."""
        cupy = self.xp
        with ExitStack() as stack:
            stack.enter_context(cupy.cuda.Device(self.device))
            torch = sys.modules.get("torch")
            if origin.library == "torch" and torch is not None:
                stream = torch.cuda.current_stream(self.device)
                if stream.cuda_stream:  # torch's and cupy's default streams are the same
                    stack.enter_context(cupy.cuda.Stream.from_external(_Torchs(stream)))
            stack.enter_context(held([_float32_products(cupy)], FULL))
            yield

    def replayed(self, key: Any, work: Callable[..., Any], given: tuple[Array, ...]) -> Any:
        """Run ``work(backend, *given, T, P, X)``, with three more stacks like the first; by a CUDA graph if small.

        `work` writes only to these stacks, and returns some of them. `key` identifies `work`.
        """
        first = given[0]
        if first.nbytes <= self.limits.graphs:
            found = graphs.replay(self, key, work, given)
            if found is not None:
                return found
        return work(self, *given, *(self.xp.empty_like(first) for _ in range(3)))

    @cached_property
    def recorder(self) -> GPU:
        """Copy of the backend for work that is captured; for one thread at a time."""
        backend = copy(self)
        backend.recording = Recording(self.xp)
        return backend

    def any(self, mask: Array) -> bool:
        """Return True: values are not read on the host."""
        return True

    def sync_free(self) -> bool:
        return True


class _Torchs(NamedTuple):
    """A torch stream with the CUDA stream protocol, which older versions of torch lack."""

    stream: Any

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, int(self.stream.cuda_stream)


#: cupy's COMPUTE_TYPE_DEFAULT: float32 products in full float32.
FULL = 1


@cache
def _float32_products(cupy: Any) -> Setting:
    """Return the process-wide setting of CUPY_TF32, which rounds the factors of float32 products to 11 bits."""
    core = cupy._core
    return Setting([partial(core.get_compute_type, "f")], [partial(core.set_compute_type, "f")])

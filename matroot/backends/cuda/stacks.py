"""The kernels of ``stack.cu`` for the work on whole stacks between products, each in one launch.

Every function has a slower counterpart in cupy; `GPULimits.kernels` chooses between them.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

Array = Any

#: As in stack.cu: threads of a block of `ritz`, its steps, and the largest n for which all Lanczos vectors are kept.
THREADS, STEPS, BASIS = 512, 16, 256
#: Edge of the tiles of `mirror`.
TILE = 32
#: Up to this n one block per matrix is fast enough; for larger n there have to be at least this many matrices.
ALONE, TOGETHER = 512, 32
#: Maximum number of blocks of a grid in the dimension of the stack.
GRID_Y = 65535


def fits_lanczos(A: Array, backend: Any) -> bool:
    """Return True if `extreme_ritz` supports these matrices, and the tuned limits choose it."""
    B, n, _ = A.shape
    return bool(
        backend.limits.kernels
        and A.dtype.kind == "f"
        and (n <= ALONE or B >= TOGETHER)
        and vectors(n) + 1024 <= backend.shared_bytes
    )


def vectors(n: int) -> int:
    """Return the bytes of shared memory of a block of `ritz`."""
    scratch = 2 * STEPS + max(THREADS + 32, STEPS * 33)
    return 8 * (3 * n + scratch + (STEPS * n if n <= BASIS else 0))


def extreme_ritz(A: Array, start: np.ndarray, steps: int, backend: Any) -> tuple[Array, Array]:
    """Compute the largest and smallest Ritz value (B,) of each real symmetric matrix, NaN where it is not finite.

    `start` is the start vector of Lanczos on the host, of norm 1; at most `STEPS` steps.
    """
    xp = backend.xp
    B, n, _ = A.shape
    A, ends = xp.ascontiguousarray(A), xp.empty((B, 2))
    launch = kernel(backend, "stack.cu", f"ritz<{_real(A)}>", backend.shared_bytes - 1024)
    numbers = (np.int32(n), np.int32(min(steps, n)))
    launch((B,), (THREADS,), (A, xp.asarray(start), ends, *numbers), shared_mem=vectors(n))
    return ends[:, 0], ends[:, 1]


def combine(s: float, S: Array, m: float, M: Array, d: float, out: Array, backend: Any) -> None:
    """Compute out = s S + m M + d I, for C-ordered stacks (B, n, n); `out` may be S or M."""
    B, n, _ = S.shape
    grid = (max(1, min(-(-n * n // (4 * 256)), 1024)), min(B, GRID_Y))
    numbers = (np.float64(s), np.float64(m), np.float64(d), np.int32(B), np.int32(n))
    kernel(backend, "stack.cu", f"combine<{_real(S)}>")(grid, (256,), (out, S, M, *numbers))


def mirror(A: Array, backend: Any) -> None:
    """Copy the lower triangles of real C-ordered stacks (B, n, n) to the upper triangles."""
    B, n, _ = A.shape
    tiles = -(-n // TILE)
    grid = (tiles * (tiles + 1) // 2, min(B, GRID_Y))
    launch = kernel(backend, "stack.cu", f"mirror<{_real(A)}>")
    launch(grid, (TILE, TILE // 4), (A, np.int32(B), np.int32(n)), shared_mem=TILE * (TILE + 1) * A.dtype.itemsize)


def _real(A: Array) -> str:
    return "double" if A.dtype.name == "float64" else "float"


@cache
def kernel(backend: Any, file: str, name: str, shared: int = 0) -> Any:
    """Return a kernel by its C++ name, allowed `shared` bytes of dynamic shared memory.

    The kernel is compiled at the first launch on a device; cupy caches it on disk.
    """
    code = files("matroot.backends.cuda").joinpath(file).read_text()
    launch = backend.xp.RawModule(code=code, options=("-std=c++17",), name_expressions=(name,)).get_function(name)
    if shared > 48 << 10:  # every kernel may have this much without the attribute
        launch.max_dynamic_shared_size_bytes = shared
    return launch

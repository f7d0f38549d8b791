"""The kernels of ``stack.cu``: what happens to whole stacks between products, each in one launch.

Every function has a longer way round through cupy; `GPULimits.kernels` says which is taken.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

Array = Any

#: As in stack.cu: threads of a block of `ritz`, its steps, the largest n whose Lanczos vectors are all kept.
THREADS, STEPS, BASIS = 512, 16, 256
#: Edge of the tiles of `mirror`.
TILE = 32
#: Up to this n one block goes through a matrix fast enough; above it, there have to be as many matrices as this.
ALONE, TOGETHER = 512, 32
#: Blocks side by side in a stack: the most that a grid can have.
GRID_Y = 65535


def fits_lanczos(A: Array, backend: Any) -> bool:
    """Whether `extreme_ritz` takes these matrices, and the backend wants it to."""
    B, n, _ = A.shape
    return bool(
        backend.limits.kernels
        and A.dtype.kind == "f"
        and (n <= ALONE or B >= TOGETHER)
        and vectors(n) + 1024 <= backend.shared_bytes
    )


def vectors(n: int) -> int:
    """Bytes of shared memory of a block of `ritz`."""
    scratch = 2 * STEPS + max(THREADS + 32, STEPS * 33)
    return 8 * (3 * n + scratch + (STEPS * n if n <= BASIS else 0))


def extreme_ritz(A: Array, start: np.ndarray, steps: int, backend: Any) -> tuple[Array, Array]:
    """Largest and smallest Ritz value (B,) of each symmetric matrix, NaN where it is not finite.

    Parameters
    ----------
    A : array (B, n, n), float32 or float64
    start : numpy array (n,)
        Where Lanczos starts, of norm 1.
    steps : int
        `STEPS` at most.
    backend : GPU
    """
    xp = backend.xp
    B, n, _ = A.shape
    A, ends = xp.ascontiguousarray(A), xp.empty((B, 2))
    launch = kernel(backend, "stack.cu", f"ritz<{_real(A)}>", backend.shared_bytes - 1024)
    numbers = (np.int32(n), np.int32(min(steps, n)))
    launch((B,), (THREADS,), (A, xp.asarray(start), ends, *numbers), shared_mem=vectors(n))
    return ends[:, 0], ends[:, 1]


def combine(s: float, S: Array, m: float, M: Array, d: float, out: Array, backend: Any) -> None:
    """out = s S + m M + d I, for C-ordered stacks (B, n, n); `out` may be S or M."""
    B, n, _ = S.shape
    grid = (max(1, min(-(-n * n // (4 * 256)), 1024)), min(B, GRID_Y))
    numbers = (np.float64(s), np.float64(m), np.float64(d), np.int32(B), np.int32(n))
    kernel(backend, "stack.cu", f"combine<{_real(S)}>")(grid, (256,), (out, S, M, *numbers))


def mirror(A: Array, backend: Any) -> None:
    """Copy what lies below the diagonal of real C-ordered stacks (B, n, n) to above it."""
    B, n, _ = A.shape
    tiles = -(-n // TILE)
    grid = (tiles * (tiles + 1) // 2, min(B, GRID_Y))
    launch = kernel(backend, "stack.cu", f"mirror<{_real(A)}>")
    launch(grid, (TILE, TILE // 4), (A, np.int32(B), np.int32(n)), shared_mem=TILE * (TILE + 1) * A.dtype.itemsize)


def _real(A: Array) -> str:
    return "double" if A.dtype.name == "float64" else "float"


@cache
def kernel(backend: Any, file: str, name: str, shared: int = 0) -> Any:
    """A kernel by its C++ name, allowed `shared` bytes of dynamic shared memory.

    Compiled at the first launch on a device, and kept on disk by cupy.
    """
    code = files("matroot.backends.cuda").joinpath(file).read_text()
    launch = backend.xp.RawModule(code=code, options=("-std=c++17",), name_expressions=(name,)).get_function(name)
    if shared > 48 << 10:  # what every kernel may have without asking
        launch.max_dynamic_shared_size_bytes = shared
    return launch

"""The interface of a backend, the only operations of a machine that methods use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

Array = Any


class Backend(Protocol):
    """Products and factorizations of stacks of matrices: `cpu.cpu.CPU` and `cuda.gpu.GPU`.

    Attributes
    ----------
    xp : module
        numpy or cupy.
    name : str
        "cpu" or "gpu".
    rounding : str
        Format to which matrices are rounded when they are multiplied, "tf32" or "bfloat16"; empty for none.
    fast_float64 : bool
        Double precision takes at most twice as long as single.
    """

    xp: Any
    name: str
    rounding: str
    fast_float64: bool

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Multiply stacks, into `out` if given."""

    def rank_k(self, a: Array) -> Array:
        """Compute ``a @ a^H``, exactly Hermitian."""

    def eigh(self, A: Array) -> tuple[Array, Array]:
        """Compute ascending eigenvalues (B, n) and eigenvectors (B, n, n); NaN on failure. A is overwritten."""

    def eigvalsh(self, A: Array) -> Array:
        """Compute ascending eigenvalues (B, n)."""

    def combine(self, s: float, S: Array, m: float, M: Array, d: float, out: Array, scratch: Array) -> None:
        """Set out = s S + m M + d I; see `matroot.backends.linalg.combine`."""

    def eps(self, dtype: Any) -> float:
        """Return the machine epsilon of products in a dtype: twice their unit roundoff."""

    def run_chunks(self, work: Callable[[slice], None], B: int, n: int, itemsize: int) -> None:
        """Call `work` on slices that cover a batch of B matrices of order n."""

    def here(self, origin: Any) -> AbstractContextManager[Any]:
        """Return a block in which work is done where the caller's arrays are: device, stream, BLAS threads."""

    def any(self, mask: Array) -> bool:
        """Return True if `mask` has a True, or if it must not be read on the host, so that no work can be left out."""

    def sync_free(self) -> bool:
        """Return True if reading values on the host must be avoided, as on a GPU."""

"""What one would write without matroot on a GPU, beside which `gpu_report.py` measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Array = Any


def cupy_eigh(cupy: Any, A: Array, p: int) -> Array:
    """cupy.linalg.eigh and recombination."""
    w, Q = cupy.linalg.eigh(A)
    return (Q * cupy.maximum(w, 1e-7)[..., None, :] ** (-1 / p)) @ Q.swapaxes(-1, -2)


def torch_eigh(torch: Any, A: Array, p: int) -> Array:
    """torch.linalg.eigh and recombination, on the default stream, which is cupy's too."""
    w, Q = torch.linalg.eigh(A)
    return (Q * w.clamp(min=1e-7)[:, None, :] ** (-1 / p)) @ Q.mT


def looped_newton(cupy: Any, torch: Any, A: Array, p: int) -> Callable[[], Any]:
    """Coupled Newton a matrix at a time, its error read on the host in every step, as optimizers write it.

    In torch, as they are; in cupy where torch sees no card.
    """
    n = A.shape[-1]
    if torch is not None:
        A, xp = torch.from_dlpack(A), torch
        eye = torch.eye(n, dtype=A.dtype, device=A.device)
    else:
        xp, eye = cupy, cupy.eye(n, dtype=A.dtype)
    power, norm = xp.linalg.matrix_power, xp.linalg.norm

    def root(a: Array) -> Array:
        a = a + 1e-6 * float(norm(a)) * eye
        z = (1 + p) / (2 * float(norm(a)))
        M, X, error = z * a, z ** (1 / p) * eye, float("inf")
        for _ in range(100):
            T = ((p + 1) * eye - M) / p
            X_next = X @ T
            M = power(T, p) @ M
            new = float(abs(M - eye).max())  # the wait
            if new > 1.2 * error:
                break
            X, error = X_next, new
            if error <= 1e-6:
                break
        return X

    return lambda: [root(a) for a in A]

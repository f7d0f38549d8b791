"""Powers of singular values that torch differentiates, of first and second order, in reverse and forward mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch

from matroot.autodiff.forms import Power
from matroot.autodiff.torch import Call, product, recorded
from matroot.backends.arrays import has_values
from matroot.rectangular.lifted import lifted
from matroot.rectangular.result import OrthogonalizerResult, PolarResult, SpectralResult

Tensor = Any

#: Fields of a result that are no tensors.
PLAIN = ("method", "certificate", "exponent")


def polar(a: Tensor, power: Power, compute: Callable[[Tensor], PolarResult[Tensor]]) -> PolarResult[Tensor]:
    """Return the result of `compute`, with factors that torch can differentiate in `a`."""
    result: PolarResult[Tensor] = recorded(a, Call(power, compute, "u", _facts(PolarResult, "u")))
    h = product(result.u.mH, a)
    h = (h + h.mH) / 2
    return replace(result, h=result.h + (h - h.detach()))  # the value is that of `compute`


def spectral_power(
    a: Tensor, power: Power, compute: Callable[[Tensor], SpectralResult[Tensor]]
) -> SpectralResult[Tensor]:
    """Return the result of `compute`, with an x that torch can differentiate in `a`."""
    result: SpectralResult[Tensor] = recorded(a, Call(power, compute, "x", _facts(SpectralResult, "x")))
    return result


def orthogonalizer(
    a: Tensor, compute: Callable[[Tensor], OrthogonalizerResult[Tensor]]
) -> OrthogonalizerResult[Tensor]:
    """Return the result of `compute`, with an x that torch can differentiate in `a` as far as X X^H tells it."""
    if not has_values(a):
        raise TypeError(
            "orthogonalizer needs values, which torch.func and vmap hide, since its number of columns depends on them; "
            "tensors with requires_grad are differentiated"
        )
    result = compute(a.detach())
    wide = torch.complex128 if a.is_complex() else torch.float64
    X, A = result.x.detach().to(wide), a.to(wide)
    A = (A + A.mH) / 2
    least, most = result.kept_least.to(torch.float64), result.dropped_most.to(torch.float64).clamp(min=0)
    cut = (least + most.nan_to_num(0)) / 2
    cut = torch.where(result.rank > 0, cut, 0.5)[..., None, None]
    x = lifted(A, X, cut, torch.eye(A.shape[-1], dtype=wide, device=X.device))
    x = result.x + (x - x.detach()).to(result.x.dtype)  # the value is that of `compute`
    if x.requires_grad:
        _refuse_columns(x, X)
    return replace(result, x=x)


def _refuse_columns(x: Tensor, X: Tensor) -> None:
    """Let the first gradient of x raise if it is that of a function that differs between X and X U, U unitary."""
    tolerance = torch.finfo(x.dtype).eps ** 0.5

    def check(gradient: Tensor | None) -> None:
        handle.remove()  # in a second pass, for second derivatives, x is one of several ways to A
        if gradient is None:
            return
        G = gradient.detach().to(X.dtype)
        T = X.mH @ G
        sizes = torch.linalg.vector_norm(X, dim=-2)[..., None] * torch.linalg.vector_norm(G, dim=-2)[..., None, :]
        if bool((abs(T - T.mH) > tolerance * (sizes + sizes.mT)).any()):
            raise RuntimeError(
                "the columns of an orthogonalizer are known up to signs and rotations, and what is differentiated "
                "depends on them: use x @ x.mH, or eigenvalues of x.mH @ F @ x; for single eigenvectors use "
                "torch.linalg.eigh"
            )

    handle = x.register_hook(check)


def _facts(kind: type, x: str) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.name != x and f.name not in PLAIN)

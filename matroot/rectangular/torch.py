"""Powers of singular values that torch differentiates, of first and second order, in reverse and forward mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from matroot.autodiff.forms import Power
from matroot.autodiff.torch import Call, recorded
from matroot.rectangular.result import PolarResult, SpectralResult

Tensor = Any

#: Fields of a result that are no tensors.
PLAIN = ("method", "certificate", "exponent")


def polar(a: Tensor, power: Power, compute: Callable[[Tensor], PolarResult[Tensor]]) -> PolarResult[Tensor]:
    """Return the result of `compute`, with factors that torch can differentiate in `a`."""
    result: PolarResult[Tensor] = recorded(a, Call(power, compute, "u", _facts(PolarResult, "u")))
    h = result.u.mH @ a.to(result.u.dtype)
    h = (h + h.mH) / 2
    return replace(result, h=result.h + (h - h.detach()))  # the value is that of `compute`


def spectral_power(
    a: Tensor, power: Power, compute: Callable[[Tensor], SpectralResult[Tensor]]
) -> SpectralResult[Tensor]:
    """Return the result of `compute`, with an x that torch can differentiate in `a`."""
    result: SpectralResult[Tensor] = recorded(a, Call(power, compute, "x", _facts(SpectralResult, "x")))
    return result


def _facts(kind: type, x: str) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.name != x and f.name not in PLAIN)

"""Steps on a layer of a Transformer, as wide as those of larger models: ours beside AdamW, Muon and SOAP.

``python -m benchmarks.bench_layers [WIDTH ...]``, in asv_benchmarks/, prints the figures of docs/guide/optimizer.rst.
SOAP needs ``pip install --no-deps pytorch_optimizer``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from .bench_optim import EVERY, interval_of, theirs
from .common import core, in_turn, unit

#: By width: the layers of GPT-2 have 768 (small), 1024 (medium).
WIDTHS = (128, 256, 512, 1024)
#: Its bases are of whole dimensions: at 512 they take 30 seconds.
SOAP_UP_TO = 256


def layer(width: int) -> list[Any]:
    """The weights of a layer: attention (q, k and v in one, and the output) and two dense ones, biases, two norms."""
    import torch

    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    shapes += [(3 * width,), (width,), (4 * width,), (width,), *[(width,)] * 4]
    return [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]


def kl(params: Any) -> Any:
    from matroot_optim.torch import KLShampoo

    return KLShampoo(params, lr=1e-3, refresh_every=EVERY, refresh_growth=0.0)


def shampoo(params: Any, **options: Any) -> Any:
    from matroot_optim.torch import Shampoo

    return Shampoo(params, lr=1e-3, refresh_every=EVERY, refresh_growth=0.0, **options)


class Both:
    """torch's Muon on matrices and AdamW on vectors, as its author advises."""

    def __init__(self, params: list[Any]) -> None:
        import torch

        self.parts = (
            torch.optim.Muon([p for p in params if p.ndim == 2], lr=1e-3),
            torch.optim.AdamW([p for p in params if p.ndim < 2]),
        )

    def step(self) -> None:
        for part in self.parts:
            part.step()


def adamw(params: Any) -> Any:
    import torch

    return torch.optim.AdamW(params, foreach=True)


#: Ours first; `SOAP` is pytorch_optimizer's.
MAKERS: dict[str, Callable[[Any], Any]] = {
    "Shampoo": shampoo,
    "Shampoo, block_aspect=1": partial(shampoo, block_aspect=1.0),
    "Shampoo, direction='spectral'": partial(shampoo, direction="spectral"),
    "KLShampoo": kl,
    "AdamW": adamw,
    "Muon": Both,
    "SOAP": lambda params: theirs("SOAP")(params),
}


def intervals(names: list[str], width: int) -> list[Callable[[], None]]:
    """An interval of steps of each of these."""
    return [interval_of(MAKERS[name], layer(width)) for name in names]


@core(["Muon"], [256])
class Layer:
    """Seconds of our defaults over those of a peer, roots included."""

    params = (["AdamW", "Muon", "SOAP"], list(WIDTHS[:-1]))
    param_names = ("peer", "width")
    timeout = 1200

    def setup(self, peer: str, width: int) -> None:
        if peer == "SOAP" and (width > SOAP_UP_TO or find_spec("pytorch_optimizer") is None):
            raise NotImplementedError
        self.ours, self.peer = intervals(["Shampoo", peer], width)

    @unit("times the peer's seconds")
    def track_over_peer(self, peer: str, width: int) -> float:
        mine, other = in_turn(self.ours, self.peer, rounds=3)
        return mine / other


def main() -> None:
    """Print milliseconds of a step, for these widths or all."""
    print(", ".join(["width", *MAKERS]))
    for width in map(int, sys.argv[1:] or WIDTHS):
        names = [name for name in MAKERS if name != "SOAP" or width <= SOAP_UP_TO]
        seconds = in_turn(*intervals(names, width), rounds=3)
        found = {name: f"{1e3 * s / EVERY:.1f}" for name, s in zip(names, seconds, strict=True)}
        print(", ".join([str(width), *(found.get(name, "") for name in MAKERS)]), flush=True)


if __name__ == "__main__":
    main()

"""The compared optimizers by name; each is made from a model, the names of its tables, and a rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from matroot import PseudoInverse

from . import peers
from .peers import WEIGHT_DECAY

#: Grids of rates: the default of each in the middle, and factors of about 2 to 3 around it.
RATES = {
    "adamw": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "sgd": (0.03, 0.06, 0.12, 0.25, 0.5),
    "adagrad": (5e-3, 1e-2, 2e-2, 4e-2, 8e-2),
    "adamw_schedule_free": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "muon": (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2),
    "soap": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "distributed_shampoo": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "distributed_soap": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "kron": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "shampoo": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "shampoo_adagrad": (8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128),
    "our_soap": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "kl_shampoo": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "kl_soap": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "spectral": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "pseudo_inverse": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "anil2026": (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2),
    "schedule_free": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "ema": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "cautious": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "hyperball": (5e-3, 1e-2, 2e-2, 4e-2, 8e-2),
    "kl_hyperball": (5e-3, 1e-2, 2e-2, 4e-2, 8e-2),
}
TITLES = {
    "adamw": "AdamW",
    "sgd": "SGD",
    "adagrad": "Adagrad",
    "adamw_schedule_free": "AdamW, schedule-free, of pytorch_optimizer",
    "muon": "Muon",
    "soap": "SOAP of pytorch_optimizer",
    "distributed_shampoo": "Meta's DistributedShampoo",
    "distributed_soap": "Meta's DistributedShampoo, SOAP",
    "kron": "PSGD Kron of pytorch_optimizer",
    "shampoo": "**Shampoo**",
    "shampoo_adagrad": 'Shampoo, ``graft="adagrad"``',
    "our_soap": "SOAP",
    "kl_shampoo": "KL-Shampoo",
    "kl_soap": 'SOAP, ``statistics_of="whitened"``',
    "spectral": 'Shampoo, ``direction="spectral"``',
    "pseudo_inverse": "Shampoo, ``regularization=PseudoInverse()``",
    "anil2026": 'Shampoo, ``preset="anil2026"``',
    "schedule_free": 'Shampoo, ``averaging="schedule_free"``',
    "ema": 'Shampoo, ``averaging="ema"``',
    "cautious": "Shampoo, ``cautious_update=True``",
    "hyperball": "Shampoo, ``hyperball=True``",
    "kl_hyperball": "KL-Shampoo, ``hyperball=True``",
}
FIRST_ORDER = ("adamw", "sgd", "adagrad")
#: Class and options of each that is ours. An average over 1,000 steps, the default, is longer than the trainings.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "shampoo": ("Shampoo", {}),
    "shampoo_adagrad": ("Shampoo", {"graft": "adagrad"}),
    "our_soap": ("SOAP", {}),
    "kl_shampoo": ("KLShampoo", {}),
    "kl_soap": ("SOAP", {"statistics_of": "whitened"}),
    "spectral": ("Shampoo", {"direction": "spectral"}),
    "pseudo_inverse": ("Shampoo", {"regularization": PseudoInverse()}),
    "schedule_free": ("Shampoo", {"averaging": "schedule_free"}),
    "ema": ("Shampoo", {"averaging": "ema", "averaging_beta": 0.95}),
    "cautious": ("Shampoo", {"cautious_update": True}),
    "hyperball": ("Shampoo", {"hyperball": True}),
    "kl_hyperball": ("KLShampoo", {"hyperball": True}),
}
#: Those that are evaluated at the average of the weights, and those whose rate does not fall at the end.
AVERAGED, CONSTANT = ("schedule_free", "ema", "adamw_schedule_free"), ("schedule_free", "adamw_schedule_free")


def make(name: str, model: torch.nn.Module, tables: list[str], rate: float, options: dict[str, Any]) -> Any:
    """The optimizer of that name; `options` go to its constructor."""
    return OPTIMIZERS[name](model, tables, rate, options)


def _adamw(model: Any, tables: Any, rate: float, options: Any) -> Any:
    return torch.optim.AdamW(model.parameters(), rate, weight_decay=WEIGHT_DECAY, **options)


def _sgd(model: Any, tables: Any, rate: float, options: Any) -> Any:
    return torch.optim.SGD(model.parameters(), rate, **{"momentum": 0.9, "nesterov": True, **options})


def _adagrad(model: Any, tables: Any, rate: float, options: Any) -> Any:
    return torch.optim.Adagrad(model.parameters(), rate, **options)


def _anil2026(model: Any, tables: Any, rate: float, options: Any) -> Any:
    from matroot_optim.torch import Shampoo

    return Shampoo.preset("anil2026", model, **{"lr": rate, "weight_decay": WEIGHT_DECAY, **options})


def _ours(name: str) -> Callable[..., Any]:
    """The maker of one of `OURS`."""
    kind, fixed = OURS[name]

    def maker(model: Any, tables: Any, rate: float, options: Any) -> Any:
        import matroot_optim.torch

        made = getattr(matroot_optim.torch, kind)
        return made(model, rate, **{"weight_decay": WEIGHT_DECAY, **fixed, **options})

    return maker


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adamw": _adamw,
    "sgd": _sgd,
    "adagrad": _adagrad,
    "adamw_schedule_free": peers.adamw_schedule_free,
    "muon": peers.muon,
    "soap": peers.soap,
    "distributed_shampoo": peers.distributed_shampoo,
    "distributed_soap": peers.distributed_soap,
    "kron": peers.kron,
    "anil2026": _anil2026,
    **{name: _ours(name) for name in OURS},
}

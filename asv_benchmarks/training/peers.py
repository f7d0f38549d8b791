"""Optimizers that are not ours and not of first order with a falling rate, as their authors advise to use them."""

from __future__ import annotations

from typing import Any

import torch

WEIGHT_DECAY = 0.0
#: Kron has no triangle above this, as pytorch_optimizer's SOAP in the results has no basis (`max_precondition_dim`).
LARGEST = 1024


class Several:
    """Optimizers of different parameters of one model, as one."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()


def adamw_schedule_free(model: Any, tables: Any, rate: float, options: Any) -> Any:
    import pytorch_optimizer

    optimizer = pytorch_optimizer.ScheduleFreeAdamW(model.parameters(), rate, **options)
    optimizer.train()
    return optimizer


def muon(model: Any, tables: Any, rate: float, options: Any) -> Any:
    """Muon on dense matrices and on flat convolutions, AdamW on all else, as its author advises.

    torch's takes matrices alone; a convolution is given as its view (out, in * kernel). The rate is that of the
    AdamW part, and `adjust_lr_fn="match_rms_adamw"` lets Muon use the same.
    """
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim >= 2 and name not in tables]
    rest = [p for name, p in named.items() if p.ndim < 2 or name in tables]
    flat = [Flat(p) if p.ndim > 2 else p for p in matrices]
    muon = torch.optim.Muon(
        [f.view if isinstance(f, Flat) else f for f in flat],
        rate,
        **{"weight_decay": WEIGHT_DECAY, "adjust_lr_fn": "match_rms_adamw", **options},
    )
    return Several(
        Viewed(muon, [f for f in flat if isinstance(f, Flat)]), torch.optim.AdamW(rest, rate, weight_decay=0)
    )


class Flat:
    """A convolution's weight, and a matrix that shares its memory."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight
        self.view = torch.nn.Parameter(weight.detach().flatten(1))

    def send(self) -> None:
        self.view.grad = self.weight.grad.flatten(1)


class Viewed:
    """An optimizer of views, which get their gradients before each step."""

    def __init__(self, optimizer: Any, flat: list[Flat]) -> None:
        self.optimizer, self.flat, self.param_groups = optimizer, flat, optimizer.param_groups

    def step(self) -> None:
        for part in self.flat:
            part.send()
        self.optimizer.step()


def soap(model: Any, tables: Any, rate: float, options: Any) -> Any:
    import pytorch_optimizer

    return pytorch_optimizer.SOAP(model.parameters(), rate, **{"weight_decay": WEIGHT_DECAY, **options})


def distributed_shampoo(model: Any, tables: Any, rate: float, options: Any) -> Any:
    """Meta's, with AdamW's graft as in its README, roots every tenth step as SOAP's bases, blocks of its default.

    It is no package of the index: ``pip install git+https://github.com/facebookresearch/optimizers@f606606``.
    """
    from distributed_shampoo import AdamPreconditionerConfig, DistributedShampoo

    graft = AdamPreconditionerConfig(beta2=0.999, epsilon=1e-8)
    fixed = {"betas": (0.9, 0.999), "precondition_frequency": 10, "grafting_config": graft}
    return DistributedShampoo(model.parameters(), rate, **{"weight_decay": WEIGHT_DECAY, **fixed, **options})


def distributed_soap(model: Any, tables: Any, rate: float, options: Any) -> Any:
    """Meta's, as in its README, bases by QR every tenth step."""
    from distributed_shampoo import DefaultSOAPConfig, DistributedShampoo

    fixed = {"betas": (0.9, 0.999), "precondition_frequency": 10, "preconditioner_config": DefaultSOAPConfig}
    return DistributedShampoo(model.parameters(), rate, **{"weight_decay": WEIGHT_DECAY, **fixed, **options})


def kron(model: Any, tables: Any, rate: float, options: Any) -> Any:
    """PSGD of pytorch_optimizer, triangular factors up to the dimension where SOAP's bases end."""
    import pytorch_optimizer

    fixed = {"weight_decay": WEIGHT_DECAY, "max_size_triangular": LARGEST}
    return pytorch_optimizer.Kron(model.parameters(), rate, **{**fixed, **options})

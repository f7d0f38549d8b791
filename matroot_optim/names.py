"""Advice on option names that are not ours: misspellings, and the options of AdamW, of other Shampoos and of SOAP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_EPSILON = "graft_epsilon is the nearest one, and relative to the gradients: the default serves gradients of any size"
_SPEED = "leave it out, tensors of equal shape are processed together"
#: Options of torch's and optax's optimizers, and of published Shampoos and SOAPs, and what to do instead.
FOREIGN = {
    "lr": "learning_rate is the option, and the parameters go to init; matroot_optim.torch has torch's optimizers",
    "eps": _EPSILON,
    "eps_root": _EPSILON,
    "foreach": _SPEED,
    "fused": _SPEED,
    "capturable": "leave it out, a step is not captured in a CUDA graph",
    "differentiable": "leave it out, a step has no gradient",
    "maximize": "negate the loss",
    "amsgrad": "leave it out, the second moment has no maximum",
    "nesterov": "momentum='nesterov' is the option",
    "dampening": "leave it out, momentum='ema' is a mean",
    "b1": "betas=(b1, b2) is the option",
    "b2": "betas=(b1, b2) is the option",
    "mu_dtype": "leave it out, the momentum is float32 for parameters of any dtype",
    "precondition_frequency": "refresh_every is the option",
    "update_freq": "refresh_every is the option",
    "preconditioning_compute_steps": "refresh_every is the option",
    "start_preconditioning_step": "start_step is the option",
    "max_preconditioner_dim": "block_size is the option",
    "max_precond_dim": "block_size is the option, and max_preconditioned_dim leaves long dimensions alone",
    "epsilon": "ridge is the option, relative to the largest eigenvalue",
    "shampoo_beta": "betas is the option, and holds it as the second",
    "precondition_1d": "precondition_vectors is the option",
    "merge_dims": "merge is the option",
    "grafting_config": "graft is the option",
    "inv_root_override": "exponent is the option",
}

#: Of these, those that change no number.
HARMLESS = frozenset({"foreach", "fused", "capturable", "differentiable"})


def advice(name: str, ours: Mapping[str, str]) -> str:
    """Return what to do about a name that is no option; `ours` maps what a user may write to the option meant."""
    if name in FOREIGN:
        return FOREIGN[name]
    near = get_close_matches(name, ours, 1)
    return f"did you mean {ours[near[0]]!r}?" if near else f"the options are {', '.join(sorted(set(ours.values())))}"


def check_options(names: Iterable[str], ours: Iterable[str]) -> None:
    """Raise TypeError, with advice, for the first name that is no option."""
    known = {name: name for name in ours}
    for name in names:
        if name not in known:
            raise TypeError(f"there is no option {name!r}; {advice(name, known)}")

"""Options that reproduce published Shampoo implementations, where their settings are documented.

docs/guide/published.rst compares each setting with its source and lists the settings that have no equivalent here.
"""

from __future__ import annotations

from typing import Any

from matroot import PseudoInverse

#: Options that turn off what the published versions lack: the rules for shapes and for statistics of few gradients.
PLAIN: dict[str, Any] = {
    "momentum_of": "direction",
    "exponent": None,
    "block_aspect": None,
    "preconditioned_dims": "all",
    "refresh_growth": 0.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    # Anil et al., arXiv 2002.09018, and the authors' code in Lingvo: sums, AdaGrad graft, decayed means without bias
    # correction, roots every 100 steps on the host.
    "anil2020": {
        "learning_rate": 0.1,
        "betas": (0.9, 1.0),
        "momentum": "ema",
        "bias_correction": False,
        "block_size": 1024,
        "merge": 1024,
        "max_preconditioned_dim": 4096,
        "ridge": 1e-6,
        **PLAIN,
        "refresh_every": 100,
        "graft": "adagrad",
    },
    # Google's optax version: EMA, SGD graft, Nesterov, roots of every block on the same step. Its
    # start_preconditioning_step of 5 counts from 0.
    "google": {
        "learning_rate": 0.1,
        "betas": (0.9, 0.999),
        "momentum": "nesterov",
        "bias_correction": False,
        "block_size": 128,
        "merge": 4096,
        "max_preconditioned_dim": 4096,
        "ridge": 1e-6,
        "root_tolerance": 0.1,
        **PLAIN,
        "refresh_every": 1,
        "schedule": "interval",
        "precondition_vectors": True,
        "graft": "sgd",
        "start_step": 6,
    },
    # Meta's PyTorch version: sums, no graft, preconditions the EMA of the gradients.
    "meta": {
        "learning_rate": 1e-2,
        "betas": (0.9, 1.0),
        "momentum": "ema",
        "block_size": 1024,
        "merge": 1024,
        "max_preconditioned_dim": None,
        "ridge": 1e-12,
        **PLAIN,
        "momentum_of": "gradient",
        "refresh_every": 1,
        "schedule": "interval",
        "precondition_vectors": True,
        "graft": "none",
        "graft_per_block": True,
        "start_step": 1,
    },
    # The paper's first author in June 2026, facebookresearch/optimizers issue 265: pseudo-inverse roots at every step,
    # as in the program logged as result 35 of modded-nanogpt's optimization track.
    "anil2026": {
        "learning_rate": 1e-2,
        "betas": (0.9, 0.9),
        "weight_decay": 0.1,
        "block_size": 8192,
        "block_aspect": None,
        "regularization": PseudoInverse(),
        "exponent": None,
        "refresh_every": 1,
        "graft": "adam",
        "graft_epsilon": 1e-15,
        "start_step": 1,
    },
}


def preset_options(name: str) -> dict[str, Any]:
    """Return the options of a preset; ValueError if there is none of this name."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(map(repr, PRESETS))}, got {name!r}")
    return dict(PRESETS[name])

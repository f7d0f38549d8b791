"""Options by which the published optimizers are met, as far as they are published.

docs/guide/published.rst compares them with their sources, setting by setting, and says what cannot be met.
"""

from __future__ import annotations

from typing import Any

#: What the published versions do without: rules of ours for shapes and for young statistics.
PLAIN: dict[str, Any] = {
    "momentum_of": "direction",
    "exponent": None,
    "block_aspect": None,
    "preconditioned_dims": "all",
    "refresh_growth": 0.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    # Anil et al., arXiv 2002.09018, and the authors' code in Lingvo: sums, AdaGrad graft, decayed means that are not
    # corrected, roots now and then on the host.
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
    # The optax version from Google: EMA, SGD graft, Nesterov, roots of every block on the same step. Its
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
    # The PyTorch version from Meta: sums, no graft, the EMA of the gradients is preconditioned.
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
}


def preset_options(name: str) -> dict[str, Any]:
    """The options of a preset.

    Raises
    ------
    ValueError
        There is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(map(repr, PRESETS))}, got {name!r}")
    return dict(PRESETS[name])

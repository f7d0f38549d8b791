"""Options by which the published optimizers are met, as far as they are published.

Ridges are relative here; a peer's absolute epsilon is given as the same number.
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
    # Anil et al., arXiv 2002.09018: sums, AdaGrad graft, roots now and then on the host.
    "anil2020": {
        "learning_rate": 0.1,
        "betas": (0.9, 1.0),
        "momentum": "heavy_ball",
        "block_size": 1024,
        "merge": 1024,
        "max_preconditioned_dim": 8192,
        "ridge": 1e-6,
        **PLAIN,
        "refresh_every": 100,
        "graft": "adagrad",
    },
    # The JAX version from Google: EMA, SGD graft, Nesterov, roots of every block on the same step.
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
        "graft": "sgd",
        "start_step": 5,
    },
    # The PyTorch version from Meta: sums, no graft, EMA of the direction.
    "meta": {
        "learning_rate": 1e-2,
        "betas": (0.9, 1.0),
        "momentum": "ema",
        "block_size": 1024,
        "merge": 1024,
        "max_preconditioned_dim": None,
        "ridge": 1e-12,
        **PLAIN,
        "refresh_every": 1,
        "schedule": "interval",
        "graft": "none",
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

"""Random calls of the functions beside the roots: ``python -m tests.fuzz --relatives --seconds 120 --seed 0``.

`draws` makes matrices, `reference` knows their powers and derivatives in 120 digits, `trial` is what every call has to
stand (inputs unwritten, alone as in a batch, numpy as torch and jax), and the other files know some functions each.
`optimizers` are short trainings, over a save and without: ``python -m tests.fuzz --optimizers --seconds 120``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import applied, optimizers, others, singular, symmetric

#: What `draw` chooses from.
FAMILIES = (singular, symmetric, applied, others)


def draw(seed: int, index: int) -> Any:
    """The trial of this seed and index, whatever was drawn before."""
    rng = np.random.default_rng([13, seed, index])
    return FAMILIES[rng.integers(len(FAMILIES))].draw(rng)


def draw_training(seed: int, index: int) -> Any:
    """The training, or life of an optimizer, of this seed and index."""
    return optimizers.draw(np.random.default_rng([17, seed, index]))

"""Compilation of one step of the optax optimizer, and of `optax.adamw`, for transformers of equal layers.

``python -m benchmarks.bench_compile``, in asv_benchmarks/, prints the numbers of docs/guide/optimizer.rst.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .common import core, unit  # pins the process first

LAYERS = (2, 12)
#: Where roots are computed, and the optimizer to compare with.
WAYS = ("callback", "graph", "host", "adamw")
WIDTH = 64


def transformer(layers: int, width: int = WIDTH) -> Any:
    """Weights of `layers` layers, 16 arrays each, and of two tables."""
    import jax.numpy as jnp

    def layer() -> dict[str, Any]:
        shapes = {name: (width, width) for name in "qkvo"} | {"up": (width, 4 * width), "down": (4 * width, width)}
        found = {name: jnp.ones(shape) for name, shape in shapes.items()}
        found |= {f"{name}_bias": jnp.zeros(shape[1]) for name, shape in shapes.items()}
        return found | {f"norm{k}_{part}": jnp.ones(width) for k in range(2) for part in ("scale", "bias")}

    tables = {"embedding": jnp.ones((256, width)), "output": jnp.ones((width, 256))}
    return tables | {f"layer{k}": layer() for k in range(layers)}


def seconds(way: str, layers: int, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds from the function to the compiled step."""
    import jax
    import optax

    from matroot_optim.optax import shampoo

    tx = optax.adamw(1e-3) if way == "adamw" else shampoo(1e-3, roots=way)
    params = transformer(layers)
    state = tx.init(params)
    step = jax.jit(tx.update)
    start = clock()
    step.lower(params, state, params).compile()
    return clock() - start


@core(["callback"], list(LAYERS))
class Compilation:
    """Seconds of the processor; wanted: nearly the same for 12 layers as for 2."""

    params = (list(WAYS), list(LAYERS))
    param_names = ("way", "layers")
    timeout = 600

    def setup(self, way: str, layers: int) -> None:
        seconds("adamw", 1)  # imports, and what jax does once

    @unit("seconds of the processor")
    def track_compilation(self, way: str, layers: int) -> float:
        return seconds(way, layers)


if __name__ == "__main__":
    seconds("adamw", 1)
    for way in WAYS:
        found = (f"{layers} layers: {seconds(way, layers):.1f} s" for layers in LAYERS)
        print(f"{way:>8}", *found, sep="  ", flush=True)

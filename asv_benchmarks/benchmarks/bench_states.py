"""State dicts of many small tensors: a save and a load, beside those of torch's AdamW.

``python -m benchmarks.bench_states``, in asv_benchmarks/, prints the figures of docs/guide/optimizer.rst.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from .common import core  # pins the process first

import torch  # isort: skip

from matroot_optim.torch import Shampoo

KINDS: dict[str, Callable[..., Any]] = {"Shampoo": Shampoo, "AdamW": torch.optim.AdamW}
TENSORS = (5_500, 11_000, 22_000)


def optimizer(kind: str, tensors: int) -> Any:
    """Return an optimizer of matrices of 8 x 8 and as many biases, after two steps."""
    params = [torch.nn.Parameter(torch.randn((8, 8) if k % 2 else (8,))) for k in range(tensors)]
    found = KINDS[kind](params, lr=1e-3)
    for _ in range(2):
        for p in params:
            p.grad = torch.randn_like(p)
        found.step()
    return found


@core(list(KINDS), [11_000])
class States:
    """A save, and a load into an optimizer that has a state."""

    params = (list(KINDS), list(TENSORS))
    param_names = ("optimizer", "tensors")
    timeout = 600

    def setup(self, kind: str, tensors: int) -> None:
        torch.set_num_threads(1)
        self.optimizer, self.other = optimizer(kind, tensors), optimizer(kind, tensors)
        self.saved = self.optimizer.state_dict()

    def time_save(self, kind: str, tensors: int) -> None:
        self.optimizer.state_dict()

    def time_load(self, kind: str, tensors: int) -> None:
        self.other.load_state_dict(self.saved)

    def seconds(self, kind: str, tensors: int, rounds: int = 7) -> list[float]:
        """Median seconds of processor time of a save and of a load, in turn."""
        found: tuple[list[float], ...] = ([], [])
        for _ in range(rounds):
            for act, mine in zip((self.time_save, self.time_load), found, strict=True):
                start = time.process_time()
                act(kind, tensors)
                mine.append(time.process_time() - start)
        return [median(mine) for mine in found]


def main() -> None:
    """Print the table."""
    print('.. csv-table::\n   :header-rows: 1\n\n   "tensors", "optimizer", "save, s", "load, s"')
    for tensors in TENSORS:
        for kind in KINDS:
            one = States()
            one.setup(kind, tensors)
            save, load = one.seconds(kind, tensors)
            print(f"   {tensors}, {kind}, {save:.2f}, {load:.2f}", flush=True)


if __name__ == "__main__":
    main()

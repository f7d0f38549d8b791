"""The options that `groups` may set where other transformations of optax apply rates and decays."""

from __future__ import annotations

from collections.abc import Iterable

from matroot_optim.options import Options

#: Options that need the rate or the weights of a whole optimizer.
OF_WEIGHTS = frozenset({"cautious_decay", "hyperball", "averaging"})


def check_groups(config: Options, paths: Iterable[str]) -> None:
    """Raise if `groups` sets a rate, because other optax transformations apply the rates."""
    for path in paths:
        changes = config.changes_for(path)
        coupled = changes.get("decay", config.decay) == "l2"
        mine = sorted((OF_WEIGHTS | {"learning_rate"}) & changes.keys())
        if mine:
            raise ValueError(f"groups({path!r}) must not set {mine[0]} under optax; use optax.multi_transform")
        if "weight_decay" in changes and not coupled:
            raise ValueError(f"groups({path!r}) must not set weight_decay under optax; give shampoo a mask")

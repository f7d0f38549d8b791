"""The options that a state was made with: those of single parameters are in its layout, and make the steps."""

from __future__ import annotations

import dataclasses

from matroot_optim.layout.layout import Layout
from matroot_optim.options import SHARED, Options

#: Options that every step reads anew, where they are those of all parameters; of `betas` the first.
OF_STEPS = ("learning_rate", "weight_decay")
_NAMES = {field.name for field in dataclasses.fields(Options)}
_OF_LAYOUT = ["algorithm", *sorted(_NAMES - SHARED - {*OF_STEPS, "betas"})]


def check_origin(layout: Layout, options: Options) -> None:
    """Raise if a layout was made with other options of single parameters; two functions are not compared.

    Raises
    ------
    ValueError
    """
    for leaf in {(id(leaf.options), leaf.table): leaf for leaf in layout.leaves}.values():
        old, changes = leaf.options, options.changes_for(leaf.path)
        pairs = {name: (getattr(old, name), getattr(options, name)) for name in _OF_LAYOUT}
        if leaf.table and options.algorithm == "soap":  # as `Options.of_tables`
            del pairs["algorithm"], pairs["statistics_of"]
        if options.groups is None:
            pairs["betas[1]"] = old.betas[1], options.betas[1]
        else:
            pairs.update({name: (getattr(old, name), getattr(options, name)) for name in (*OF_STEPS, "betas")})
        found = [
            f"{name}={a!r:.200}, not {b!r:.200}"
            for name, (a, b) in pairs.items()
            if a != b and name not in changes and not (callable(a) and callable(b))
        ]
        if found:
            raise ValueError(
                f"the state must come from the same options, for {leaf.path!r} it has {'; '.join(found)}; save it, and "
                "load it with the other options"
            )

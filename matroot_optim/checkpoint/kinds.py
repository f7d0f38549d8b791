"""Arrays of a checkpoint whose kind the options have changed: a sum for a mean, directions for gradients.

Read as another kind, they would give steps of any size, so they begin afresh. A step divides the momentum by the root
of the second moment: without the latter, the former begins afresh with it, and so does the count that corrects both.
"""

from __future__ import annotations

from collections.abc import Mapping

from matroot_optim.checkpoint.columns import Entries
from matroot_optim.checkpoint.metadata import Saved
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf


def of_another(leaf: Leaf, kinds: Mapping[str, str]) -> set[str]:
    """Return the names of the leaf's arrays that are of another kind here."""
    return {part for part, kind in leaf.kinds.items() if kinds.get(part, kind) != kind}


def of_kinds(layout: Layout, saved: Saved, entries: Entries) -> tuple[Entries, list[int]]:
    """Return the entries without arrays of another kind, and the numbers of leaves without a second moment."""
    found, afresh = dict(entries), []
    alike: dict[int, tuple[set[str], bool]] = {}  # metadata that many parameters share are compared once
    for i, leaf in enumerate(layout.leaves):
        given, cut = entries[leaf.path], saved.leaves[leaf.path]
        if id(cut) not in alike:
            alike[id(cut)] = of_another(leaf, cut.kinds), leaf.has_moment
        other, moment = alike[id(cut)]
        if moment and ("moment" in other or "moment" not in given):
            other = other | {"moment", "momentum"}
            afresh.append(i)
        if other:
            found[leaf.path] = {name: x for name, x in given.items() if name not in other}
    return found, afresh

"""Reading of state dicts: the records of the parameters, and the cuts of their blocks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from matroot_optim._torch.groups import META
from matroot_optim._torch.records import Record
from matroot_optim.checkpoint.metadata import FORMAT, since_format_1
from matroot_optim.entries import UNITS
from matroot_optim.step.betas import BETAS

#: Cuts of parameters, by shape, each with the names of its entries of pending root jobs.
Cuts = dict[tuple[int, ...], tuple[dict[str, Any], list[str]]]

#: What stands for entries that older dicts lack: gradients were not divided, and the decays are not known.
_LATER = {part: np.zeros((), kind) for part, kind in UNITS.items()} | {part: np.full((), np.nan) for part in BETAS}
#: By the format of the dict.
_LACKING = {
    version: {part: x for part, x in _LATER.items() if part not in since_format_1(version)}
    for version in range(1, FORMAT + 1)
}


def records_of(
    loaded: Mapping[str, Any], texts: Sequence[Any], params: Mapping[str, Any], *, whole: bool
) -> list[Record | None] | None:
    """Return the records of all parameters in a dict, None for a missing one; None if the dict has no state.

    Parameters
    ----------
    loaded : mapping
        The dict.
    texts : sequence
        The metadata of its groups; None: there are none.
    params : mapping
        Parameters by path.
    whole : bool
        Every parameter has all of its blocks.

    Raises
    ------
    ValueError
        The dict does not fit the parameters.
    """
    saved, old = loaded["state"], loaded.get(META)  # older dicts have the cuts at the top level
    if old is None and None in texts:  # another optimizer's: its groups would replace the options of these
        raise ValueError("state_dict must come from matroot_optim.torch.Shampoo, got one without its metadata")
    if not saved:
        return None
    if old is not None:
        cuts = cuts_from_leaves(old, len(texts))
        versions = [old["format"]] * len(texts)
    else:
        cuts = [cuts_from_text(text) for text in texts]
        versions = [json.loads(text)["format"] if text else FORMAT for text in texts]
    numbers = [n for group in loaded["param_groups"] for n in group["params"]]
    groups = [int(path.partition("/")[0]) for path in params]
    extra = sorted(map(str, saved.keys() - set(numbers)))
    if extra:
        raise ValueError(f"the state_dict must have state of its parameters alone, got {', '.join(extra)}")
    records = [
        record_of(path, p.shape, saved.get(number), cuts[g], version=versions[g], whole=whole)
        for number, g, (path, p) in zip(numbers, groups, params.items(), strict=True)
    ]
    new = {path for path, record in zip(params, records, strict=True) if record is None or not record.own}
    new -= {f"{g}/{i}" for g, text in enumerate(texts) for i in _without(text)} if new else set()
    if new and not any(isinstance(number, str) for number in numbers):
        raise ValueError(
            f"the state_dict must have the state of all parameters, it lacks {', '.join(map(repr, sorted(new)))}"
        )
    return records


def cuts_from_text(text: Any) -> Cuts | None:
    """Read the cuts of a group's parameters, by shape; None if they were not written.

    Raises
    ------
    ValueError
        The text is not what `cuts_to_text` writes.
    """
    if text == "":
        return None
    try:
        found = json.loads(text)
        cuts = {tuple(cut["shape"]): _read_cut(cut) for cut in found["leaves"]}
    except (TypeError, ValueError, LookupError) as wrong:
        raise ValueError(f"{META!r} of a group must be what state_dict wrote there, got {text!r:.200}") from wrong
    _check_format(found)
    return cuts


def _without(text: Any) -> list[int]:
    """Return the numbers of a group's parameters that had no state, as frozen ones have none."""
    found = json.loads(text).get("without", []) if text else []
    return found if isinstance(found, list) else []


def cuts_from_leaves(meta: Any, groups: int) -> list[Cuts | None]:
    """Read the cuts of every group from metadata that name the parameters.

    Raises
    ------
    ValueError
        The metadata are not those of `matroot_optim.checkpoint.exchange.export`.
    """
    found: list[Cuts] = [{} for _ in range(groups)]
    try:
        for path, cut in meta["leaves"].items():
            found[int(path.partition("/")[0])][tuple(cut["shape"])] = _read_cut(cut)
    except (TypeError, ValueError, LookupError, AttributeError) as wrong:
        raise ValueError(f"{META!r} must be what state_dict wrote there, got {meta!r:.200}") from wrong
    _check_format(meta)
    return [*found]


def _check_format(meta: Any) -> None:
    if type(meta.get("format")) is not int or not 1 <= meta["format"] <= FORMAT:
        raise ValueError(f"the state_dict must be of format 1 to {FORMAT}, got {meta.get('format')!r}")


def record_of(
    path: str, shape: Iterable[int], entries: Any, cuts: Cuts | None, *, version: int, whole: bool = True
) -> Record | None:
    """Return the record of a parameter from its entries in a dict; None without entries.

    `version` is the format of the dict. Without `whole`, blocks may be missing.

    Raises
    ------
    ValueError
        The dict does not fit the parameter.
    """
    if not entries:
        return None
    if not isinstance(entries, Mapping):
        raise ValueError(f"the state of parameter {path!r} must be a dict, got {type(entries).__name__}")
    if not Record({**entries}).own:  # of other code alone
        return Record({**entries})
    shape = tuple(shape)
    part = "momentum" if "momentum" in entries else "moment"
    try:
        saved = entries[part].shape
    except (KeyError, AttributeError):
        saved = None
    if (cuts is not None and shape not in cuts) or (whole and saved not in (None, shape)):
        got = list(cuts or ()) if saved is None else f"{tuple(saved)} as its {part}"
        raise ValueError(f"the state_dict must have shape {shape} for parameter {path!r}, got {got}")
    cut, pending = cuts[shape] if cuts is not None else (None, [])
    for name in pending if whole else ():
        if name not in entries:
            raise ValueError(f"the state of parameter {path!r} must have the entry {name!r}")
    return Record({**_LACKING[version], **entries}, cut)


def _read_cut(saved: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the metadata of a parameter, and the names of its entries of pending root jobs."""
    cut = dict(saved)
    if cut.pop("pending", False) is not True:
        return cut, []
    try:
        return cut, [f"block{k}/axis{axis}/pending" for k in range(len(cut["blocks"])) for axis in cut["axes"]]
    except (TypeError, KeyError):
        return cut, []  # `restore` raises for wrong metadata


def check_outline(found: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> None:
    """Raise if a dict lacks the containers of an optimizer's state dict, or its groups have other sizes than `own`.

    Raises
    ------
    ValueError
    """
    if not isinstance(found.get("state"), Mapping):
        raise ValueError(f"the state_dict must have a dict as 'state', got {found.get('state')!r:.200}")
    groups = found.get("param_groups")
    if not isinstance(groups, list) or not all(
        isinstance(group, dict) and isinstance(group.get("params"), list) and "lr" in group for group in groups
    ):
        raise ValueError(f"the state_dict must have dicts with params and lr as 'param_groups', got {groups!r:.200}")
    theirs, ours = ([len(group["params"]) for group in of] for of in (groups, own))
    if theirs != ours:
        named = any("name" in group for group in groups)
        names = f", named {', '.join(repr(group.get('name')) for group in groups)}" if named else ""
        raise ValueError(
            f"the state_dict has groups of {_listed(theirs)} parameters{names}, and this optimizer of {_listed(ours)}; "
            "make the optimizer as the saved one was made; Shampoo(model) and Shampoo(model.parameters()) differ"
        )


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) or "no"

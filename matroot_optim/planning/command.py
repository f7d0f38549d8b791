"""``python -m matroot_optim plan CONFIG --ranks N``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from matroot_optim.layout.layout import make_layout
from matroot_optim.planning.deal import plan_ranks
from matroot_optim.planning.networks import NETWORKS
from matroot_optim.planning.shapes import parameters_of
from matroot_optim.planning.table import table
from matroot_optim.refresh.engines import InlineEngine
from matroot_optim.shampoo import Shampoo
from matroot_optim.soap import SOAP

KINDS: dict[str, Any] = {"shampoo": Shampoo, "soap": SOAP}


def main(arguments: Sequence[str]) -> int:
    """Print what every rank computes, sends and holds with RankEngine and with owned blocks; nothing is computed."""
    parser = argparse.ArgumentParser(
        prog="python -m matroot_optim plan", description=main.__doc__, epilog="Costs are counted as in the schedules."
    )
    parser.add_argument(
        "config", metavar="CONFIG", help=f"{', '.join(NETWORKS)}; a .safetensors file; or JSON with shapes"
    )
    parser.add_argument(
        "--ranks", type=_positive, nargs="+", default=[1], help="numbers of ranks, a column for each; 1"
    )
    parser.add_argument("--lag", type=_not_negative, default=0, help="lag of the inner engine")
    parser.add_argument("--optimizer", choices=KINDS, default="shampoo")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for name, kind in (("block_size", int), ("refresh_every", int), ("schedule", str), ("max_preconditioned_dim", int)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="option of the optimizer")
    parser.add_argument("--preconditioned-dims", choices=("auto", "all", "one_sided", "none"))
    given = parser.parse_args(arguments)
    names = {field.name for field in dataclasses.fields(Shampoo)}
    options = {name: value for name, value in vars(given).items() if name in names and value is not None}
    try:
        opt = KINDS[given.optimizer](1e-3, engine=InlineEngine(given.lag), **options)
        layout = make_layout(opt, parameters_of(given.config))
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    plans = [plan_ranks(opt, layout, ranks, given.lag) for ranks in given.ranks]
    print(json.dumps([plan.to_dict() for plan in plans]) if given.json else table(plans))
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"an integer from 1 to 100000 is wanted, not {text!r}")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"an integer >= 0 is wanted, not {text!r}")
    return int(text)

"""``python -m training run|tune|freeze|time|report``: see ``--help`` of each."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from . import times
from .optimizers import OPTIMIZERS
from .report import pictures, table, tables
from .run import WORKLOADS, line, run
from .tune import Results, freeze, targets, tune

RESULTS = os.path.join(os.path.dirname(__file__), "results", "small.jsonl")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="train once and print one line of JSON")
    one.add_argument("workload", choices=WORKLOADS)
    one.add_argument("--optimizer", choices=OPTIMIZERS, default="shampoo")
    one.add_argument("--rate", type=float, required=True)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--size", default="small")
    one.add_argument("--steps", type=int, default=None)
    one.add_argument("--every", type=int, default=None, help="steps between two looks at the figure")
    one.add_argument("--data", required=True, help="the folder of this workload's data set")
    one.add_argument("--options", type=json.loads, default={}, help="keywords of the optimizer, as JSON")
    many = commands.add_parser("tune", help="rates on one seed, then the best rate on three; goes on after a kill")
    many.add_argument("workload", choices=WORKLOADS)
    many.add_argument("--optimizer", choices=OPTIMIZERS, action="append", required=True)
    many.add_argument("--rates", type=float, nargs="*", default=())
    many.add_argument("--size", default="small")
    many.add_argument("--data", required=True)
    many.add_argument("--options", type=json.loads, default={})
    many.add_argument("--results", default=RESULTS)
    target = commands.add_parser("freeze", help="write the target of a workload, from its first-order runs")
    target.add_argument("workload", choices=WORKLOADS)
    target.add_argument("--results", default=RESULTS)
    timed = commands.add_parser("time", help="seconds of all tuned optimizers, a step of each in turn")
    timed.add_argument("workload", choices=WORKLOADS)
    timed.add_argument("--optimizer", choices=OPTIMIZERS, action="append", help="only this; may be repeated")
    timed.add_argument("--size", default="small")
    timed.add_argument("--data", required=True)
    timed.add_argument("--results", default=RESULTS)
    shown = commands.add_parser("report", help="tables of all workloads that have a target, and pictures")
    shown.add_argument("--results", default=RESULTS)
    shown.add_argument("--tables", help="a folder for a table of each workload")
    shown.add_argument("--pictures", help="a folder for a picture of each workload")
    given = parser.parse_args(arguments)
    if given.command == "run":
        kept = {name: value for name, value in vars(given).items() if name not in ("command", "workload")}
        print(line(run(given.workload, tick=progress if sys.stderr.isatty() else None, **kept)))
    elif given.command == "tune":
        results = Results(given.results)
        for name in given.optimizer:
            same = {"size": given.size, "rates": given.rates, "options": given.options}
            tune(results, given.workload, name, given.data, tick=lambda text: print(text, flush=True), **same)
    elif given.command == "time":
        results = Results(given.results)
        found = times.seconds(results, given.workload, given.data, given.size, given.optimizer)
        times.write(results, given.workload, found, partly=given.optimizer is not None)
    elif given.command == "report":
        results = Results(given.results)
        for name in targets(results):
            print(table(results, name))
        for make, folder in ((tables, given.tables), (pictures, given.pictures)):
            print(*(make(results, folder) if folder else ()), sep="\n")
    else:
        print(json.dumps(freeze(Results(given.results), given.workload)))
    return 0


def progress(step: int, steps: int, figure: Any) -> None:
    print(f"\r{step}/{steps}  {figure:.4f}", end="" if step < steps else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""The command: solves until the time is over, prints what was found, and fails if anything was."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # table.py, as pytest finds it

import numpy as np
from threadpoolctl import threadpool_limits

from matroot import Status, use_kernels
from matroot._solve import solve_power

from . import large, narrow, relatives
from .case import Case
from .draw import draw as draw_small
from .verdict import Fault, judge

Draw = Callable[[int, int], Any]

#: Longer than the first compilation of the kernels on a busy machine.
HANGS = 120


def main() -> int:
    """Returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, help="stop after so many, whatever the time")
    parser.add_argument("--large", action="store_true", help="matrices of n = 33 to 259, alone and in mixed batches")
    parser.add_argument("--relatives", action="store_true", help="the functions beside the roots")
    parser.add_argument(
        "--optimizers", action="store_true", help="short trainings with random options, saved on the way"
    )
    parser.add_argument("--narrow", action="store_true", help="narrow dtypes against the matrix before its rounding")
    parser.add_argument("--replay", metavar="SEED:INDEX", help="one case, with all of its result")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    use_kernels()
    with threadpool_limits(1, user_api="blas"):
        if options.narrow:
            return narrow.search(options.seed, options.cases or 20_000)
        draw: Draw = large.draw if options.large else draw_small
        draw = relatives.draw if options.relatives else relatives.draw_training if options.optimizers else draw
        return replay(options.replay, draw) if options.replay else search(options, draw)


def search(options: argparse.Namespace, draw: Draw) -> int:
    """Cases 0, 1, 2, ... of a seed."""
    seed, seconds, most = options.seed, options.seconds, options.cases
    flag = "".join(f"--{name} " for name in ("large", "relatives", "optimizers") if getattr(options, name))
    solves: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    watch = Watch()
    begin, used = time.monotonic(), time.process_time()
    for index in count():
        if time.monotonic() - begin > seconds or index == most:
            break
        case = draw(seed, index)
        watch.case = f"{seed}:{index} {case}"
        watch.since = time.monotonic()
        found, statuses = attempt(case)
        solves.update(statuses)
        for kind, text in found:
            faults[kind] += 1
            print(f"{kind} | {flag}--replay {seed}:{index} | {case} | {text}", flush=True)
    watch.since = float("inf")
    report(solves, faults, f"{index} calls", time.monotonic() - begin, time.process_time() - used)
    return 1 if faults else 0


def attempt(case: Any) -> tuple[list[Fault], list[str]]:
    """Solve and judge; an exception is a fault as well."""
    if not isinstance(case, Case):
        return case.faults(), [case.name]
    try:
        result = solve_power(case.a, case.s, **case.options)
    except Exception as error:
        return [("exception", f"{type(error).__name__}: {error}")], ["raised"] * len(case.matrices)
    return judge(case, result), [Status(int(code)).name for code in np.ravel(result.status)]


def replay(which: str, draw: Draw) -> int:
    seed, index = map(int, which.split(":"))
    case = draw(seed, index)
    np.set_printoptions(precision=17, floatmode="unique")
    print(case)
    if isinstance(case, Case):
        print(case.a.tolist() if case.a.dtype.itemsize == 2 else repr(case.a))
        print(solve_power(case.a, case.s, **case.options))
    else:
        print(case.details())
    found, _ = attempt(case)
    for kind, text in found:
        print(f"{kind} | {text}")
    return 1 if found else 0


def report(solves: Counter[str], faults: Counter[str], calls: str, seconds: float, cpu: float) -> None:
    total = sum(solves.values())
    print(f"\n{calls}, {total} solves in {seconds:.0f} s, {total / cpu:.0f} a second of the processor")
    for name, number in solves.most_common():
        print(f"  {number:8d}  {name}")
    print("faults: none" if not faults else "faults:")
    for kind, number in faults.most_common():
        print(f"  {number:8d}  {kind}")


class Watch:
    """Ends the process when a case hangs, and says which: nothing else stops a loop in compiled code."""

    def __init__(self) -> None:
        self.case, self.since = "", float("inf")
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            time.sleep(1)
            if time.monotonic() - self.since > HANGS:
                print(f"hangs | --replay {self.case}", flush=True)
                os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

"""Trainers killed at random times: `python -m tests.attack_engines --trainers 50` counts what they leave behind.

A trainer runs Shampoo on a pool of processes, through shared memory. It is sent KILL or TERM, or INT: alone, or with
its whole group as Ctrl-C does. Ten seconds later no process that it started may run, and no segment of its may exist.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARK = "MATROOT_ATTACK"  # in the environment of a trainer and of all it starts
POOLS = ("spawn", "fork", "forkserver", "loky")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATIENCE = 10.0


def pool(kind):
    if kind == "loky":
        import loky

        return loky.ProcessPoolExecutor(2)
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(kind))


def train(kind, lag):
    """Steps without an end; says "ready" when the first roots are there."""
    import numpy as np

    from matroot_optim import ExecutorEngine, Shampoo

    shapes = {"a": (70, 50), "b": (50, 90), "c": (40, 40)}
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    with ExecutorEngine(lambda: pool(kind), lag=lag, timeout=60.0, shared_memory=True) as engine:
        opt = Shampoo(0.01, refresh_every=2, engine=engine)
        state = opt.init(params)
        while True:
            state = opt.step(params, {k: rng.standard_normal(s) for k, s in shapes.items()}, state)
            if engine.clock.answers and not state.step % 10:
                print("ready", flush=True)


def processes(mark):
    """Every process that lives (a zombie does not) with this mark in its environment, and its command."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                    if state not in "ZX":
                        found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def segments():
    """Names in /dev/shm, with semaphores, and without those that are in use."""
    used = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            used |= {line.split("/dev/shm/", 1)[1] for line in maps.read_text().splitlines() if "/dev/shm/" in line}
        except OSError:
            continue
    return set(os.listdir("/dev/shm")) - used


def attack(kind, sign, rng):
    """One trainer, killed; the processes and the segments that are left."""
    mark = uuid.uuid4().hex
    before = set(os.listdir("/dev/shm"))
    env = {**os.environ, MARK: mark, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.attack_engines", "--train", kind, "--lag", str(rng.randrange(4))]
    trainer = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    if rng.random() < 0.7:
        trainer.stdout.readline()  # "ready"
        time.sleep(rng.uniform(0.0, 1.0))
    else:
        time.sleep(rng.uniform(0.0, 6.0))  # while it starts
    if sign is signal.SIGINT and rng.random() < 0.5:
        os.killpg(trainer.pid, sign)
    else:
        trainer.send_signal(sign)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        trainer.poll()
        left = processes(mark), segments() - before
        if not any(left):
            break
        time.sleep(0.2)
    for pid, what in left[0].items():
        if "resource_tracker" not in what:  # these clean up when the others are gone
            os.kill(pid, signal.SIGKILL)
    for name in left[1]:
        Path("/dev/shm", name).unlink(missing_ok=True)
    trainer.wait()
    trainer.stdout.close()
    return left


def assault(trainers, seed=0, pools=POOLS):
    """Kill so many trainers in turn; how many there were of each kind, and a line for everything that was left."""
    rng = random.Random(seed)
    counts, left = Counter(), []
    for i in range(trainers):
        kind, sign = pools[i % len(pools)], SIGNALS[i // len(pools) % len(SIGNALS)]
        alive, named = attack(kind, sign, rng)
        counts[kind, sign.name] += 1
        left += [f"{kind}, {sign.name}: {what}" for what in (*alive.values(), *named)]
    return counts, left


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.attack_engines", description=__doc__)
    parser.add_argument("--trainers", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", choices=POOLS, help=argparse.SUPPRESS)
    parser.add_argument("--lag", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.train, args.lag)
    counts, left = assault(args.trainers, args.seed)
    for (kind, sign), count in sorted(counts.items()):
        print(f"{count:4} trainers on {kind}, {sign}")
    for line in left:
        print(line)
    print(f"{sum(counts.values())} trainers killed, {len(left)} processes and segments left after {PATIENCE:.0f} s")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())

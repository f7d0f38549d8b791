"""Damaged checkpoints: each must be refused with a ValueError that names it, or load to the same bits.

    python -m tests.fuzz_checkpoints --seconds 20 --seed 0 --count 1000

Three roads: .npz and .safetensors files, and the state dict of the torch optimizer. A case is a function of the seed
and its number, so a fault can be repeated by `--only NUMBER`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

from matroot_optim import InlineEngine, Shampoo
from matroot_optim.checkpoint import files as checkpoint_files
from matroot_optim.checkpoint.exchange import export
from matroot_optim.checkpoint.files import read, write
from matroot_optim.entries import COUNTS, UNITS, Pending, Settled
from matroot_optim.refresh.engines import Failure
from matroot_optim.state import State
from matroot_optim.step.betas import BETAS

MEMORY = 2**28  # bytes: a load of these small states takes a thousandth of it
PATIENCE = 30.0  # seconds: it takes a thousandth of them
OUTCOMES = ("refused", "same bits", "silent", "other exception", "unnamed", "changed", "hang", "memory")
FAULTS = OUTCOMES[2:]

# States.

OPTIONS = (
    {"graft": "adam", "engine": InlineEngine(2)},
    {"graft": "sgd", "momentum": "none", "engine": InlineEngine(3)},
    {"graft": "adagrad", "momentum": "nesterov", "betas": (0.9, 1.0)},
    {"graft": "none", "momentum": "heavy_ball", "schedule": "interval", "precondition_vectors": True},
)


def parameters():
    rng = np.random.default_rng(1)
    shapes = {"0/0": (5, 7), "0/1": (3,), "1/0": (4, 2)}
    return {path: rng.standard_normal(s).astype("f8" if path == "1/0" else "f4") for path, s in shapes.items()}


def make_state(options):
    """Some steps from zero, with every kind of entry: jobs that are under way, one of them lost."""
    same = {"refresh_every": 3, "refresh_growth": 0.0, "block_size": 4}
    opt, params, rng = Shampoo(0.01, **same, **options), parameters(), np.random.default_rng(2)
    state = opt.init(params)
    for _ in range(7):
        _, state = opt.update({k: rng.standard_normal(x.shape).astype(x.dtype) for k, x in params.items()}, state)
    if state.pending:
        lost = state.pending[-1]
        pending = (*state.pending[:-1], Pending(lost.submitted, lost.jobs, Settled(Failure("lost"))))
        state = State(state.layout, state.arrays, pending)
    return opt, state


def bits(state):
    """All that a state holds, as bytes by name."""
    names, _ = export(state)
    return {name: (str(x.dtype), x.shape, x.tobytes()) for name, x in names.items()}


# Damage of bytes.


def flips(rng, data):
    out = bytearray(data)
    for at in rng.integers(0, 8 * len(out), rng.integers(1, 9)):
        out[at // 8] ^= 1 << (at % 8)
    return bytes(out)


def flips_in_header(rng, data):
    """In the names, shapes and metadata, which are most often the first or the last bytes."""
    k = int(rng.integers(1, max(len(data) // 4, 2)))
    return flips(rng, data[:k]) + data[k:] if rng.integers(2) else data[:-k] + flips(rng, data[-k:])


def truncated(rng, data):
    return data[: rng.integers(0, len(data))]


def overwritten(rng, data):
    start, n = rng.integers(0, len(data)), rng.integers(1, 200)
    new = bytes(n) if rng.integers(2) else rng.bytes(n)
    return (data[:start] + new + data[start + n :])[: len(data)]


def inserted(rng, data):
    at = rng.integers(0, len(data) + 1)
    return data[:at] + rng.bytes(int(rng.integers(1, 100))) + data[at:]


def deleted(rng, data):
    at = rng.integers(0, len(data))
    return data[:at] + data[at + rng.integers(1, 100) :]


def another_file(rng, data):
    giant = json.dumps({"x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}}).encode()
    kinds = (
        b"",
        b"P",
        b"PK",
        b"\x89PNG\r\n\x1a\n" + rng.bytes(300),
        b"just a text, and a longer one than nine bytes\n",
        b"\x80\x04}\x94.",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }" + bytes(80),
        len(giant).to_bytes(8, "little") + giant + bytes(64),
        (2**63 - 1).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        rng.bytes(int(rng.integers(1, 2000))),
        b"PK\x05\x06" + bytes(18),
    )
    return kinds[rng.integers(len(kinds))]


BYTES = (flips, flips, flips_in_header, truncated, overwritten, inserted, deleted, another_file)

# Damage of values: functions of (rng, names, meta) that return the entry they damaged, or None where there is none.


def pick(rng, names, *ends):
    """A name that ends so; of what belongs to roots under way, only where that is asked for."""
    found = [n for n in sorted(names) if n.endswith(ends) and ("/pending" not in n or ends == ("",))]
    return found[rng.integers(len(found))] if found else None


def missing(rng, names, meta):
    name = pick(rng, names, "")
    del names[name]
    return name if "/pending" not in name else ""


def extra(rng, names, meta):
    new = (
        "x",
        "0/0/extra",
        "0/0/block99/axis0/root",
        "0/0/block0/axis0/pending1/more",
        "0/0/block0/axis0/pending01/due",
    )
    name = new[rng.integers(len(new))]
    names[name] = np.zeros(3)
    return name


def wrong_shape(rng, names, meta):
    name = pick(rng, names, "")
    x = np.asarray(names[name])
    ways = (lambda x: x[None], lambda x: np.append(x, x.ravel()[:1]), lambda x: np.zeros((0, 2), x.dtype))
    names[name] = ways[rng.integers(len(ways))](x)
    return name


def wrong_dtype(rng, names, meta):
    name = pick(rng, names, "")
    kinds = [np.complex64, np.bool_, np.uint8, np.float16] + [np.int32] * (names[name].dtype.kind == "f")
    with np.errstate(all="ignore"):
        names[name] = names[name].astype(kinds[rng.integers(len(kinds))])
    return name


def put(rng, names, name, value, *, diagonal=False):
    x = np.array(names[name])
    at = int(rng.integers(x.size))
    if diagonal:
        k = int(rng.integers((int(np.sqrt(8 * x.size + 1)) - 1) // 2))
        at = k * (k + 3) // 2
    x.reshape(-1)[at] = value
    names[name] = x
    return name


def not_finite(rng, names, meta):
    name = pick(rng, names, "/momentum", "/moment", "/statistic", "/root")
    return put(rng, names, name, (np.nan, np.inf, -np.inf)[rng.integers(3)])


def not_a_number(rng, names, meta):
    name = pick(rng, names, "/residual", "/cond", "/bits_lost", "/lambda_max", "/ridge")
    return name and put(rng, names, name, (np.nan, -1.0, -np.inf)[rng.integers(3)])


def negative(rng, names, meta):
    name = pick(rng, names, "/moment", "/statistic", "step", *(f"/{part}" for part in COUNTS), "/failures", "/n_iter")
    return put(rng, names, name, -2, diagonal=name.endswith("/statistic"))


def beyond(rng, names, meta):
    """Numbers that no state has: of a step that is still to come, or of no status."""
    step = int(names["step"])
    values = {
        "/mark": (step + 2, 2**62, -(2**63), 2**63 - 1),
        "/taken": (step + 1, 2**60, -2),
        "/count": (step + 1, 2**63 - 1),
        "/accumulated": (step + 1,),
        "/status": (99, -1),
        "/due": (step, 0, -1, -(2**63)),
    }
    part = list(values)[rng.integers(len(values))]
    found = [n for n in sorted(names) if n.endswith(part)]
    return (
        put(rng, names, found[rng.integers(len(found))], values[part][rng.integers(len(values[part]))])
        if found
        else None
    )


def wrong_meta(rng, names, meta):
    """A random place of the metadata with junk in it, or without its value, or with one more."""
    node = meta
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[rng.integers(len(keys))]
        if rng.random() < 0.3 or not isinstance(node[key], dict | list) or not node[key]:
            break
        node = node[key]
    junk = (None, "x", -1, 0, 1.5, 10**30, [], {}, [[]], True, float("nan"), "1", [10**9, 10**9], [[[0, 0], [1, 1]]])
    action = rng.integers(4)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node["one more"] = junk[rng.integers(len(junk))]
    else:
        node[key] = copy.deepcopy(junk[rng.integers(len(junk))])
    return ""


VALUES = (missing, extra, wrong_shape, wrong_dtype, not_finite, not_a_number, negative, beyond, wrong_meta)
OLD = tuple(f for f in VALUES if f is not missing)  # format 1 did not say what there was


def junk_in_groups(rng, dictionary):
    """A group of a torch state dict with a value that is none."""
    group = dictionary["param_groups"][rng.integers(2)]
    changes = (
        ("lr", "fast"), ("lr", None), ("lr", float("nan")), ("lr", -1.0), ("betas", 3), ("betas", (2.0, 0.9)),
        ("weight_decay", "x"), ("block_size", -1), ("graft", "nothing"), ("params", []), ("params", None),
        ("params", [5, 6, 7]),
    )  # fmt: skip
    name, value = changes[rng.integers(len(changes))]
    if rng.random() < 0.2:
        del group[("lr", "betas", "weight_decay", "params")[rng.integers(4)]]
    else:
        group[name] = value


def junk_in_outline(rng, dictionary):
    """A torch state dict with other containers than it should have."""
    where = ("state", "param_groups")[rng.integers(2)]
    if rng.random() < 0.3:
        del dictionary[where]
    elif rng.random() < 0.5 and where == "state":
        state = dictionary["state"]
        number = list(state)[rng.integers(len(state))]
        ways = (
            lambda: state.pop(number),
            lambda: state.update({number: None}),
            lambda: state.update({99: state[number]}),
        )
        ways[rng.integers(3)]()
    else:
        dictionary[where] = (None, [], 3, "x", {"a": 1}, [None], {0: 1})[rng.integers(7)]


def junk_as_entry(rng, dictionary):
    """An entry of a torch state dict that is no dense tensor of a dtype that numpy has."""
    import torch

    mine = dictionary["state"][int(rng.integers(3))]
    junk = (
        None,
        "x",
        3,
        [1.0],
        {},
        torch.zeros(2, dtype=torch.bfloat16),
        torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"),
    )
    mine[list(mine)[rng.integers(len(mine))]] = junk[rng.integers(len(junk))]


# Roads.


class Files:
    """A file of one kind, and the state of other options that loads it."""

    def __init__(self, suffix, options, folder):
        self.opt, self.state = make_state(options)
        self.path, self.want = Path(folder) / f"state{suffix}", bits(self.state)
        self.state.save(self.path)
        self.data, (self.names, self.meta) = self.path.read_bytes(), read(self.path)
        self.old = copy.deepcopy({k: v for k, v in self.meta.items() if k != "jobs"} | {"format": 1})
        for leaf in self.old["leaves"].values():
            del leaf["parts"]
        self.old_names = {k: v for k, v in self.names.items() if not k.endswith((*UNITS, *BETAS))}

    def damage(self, rng):
        """Write a damaged file; its kind, and the entry that was damaged."""
        way = rng.random()
        self.is_old = False
        if way < 0.6:
            change = BYTES[rng.integers(len(BYTES))]
            self.path.write_bytes(change(rng, self.data))
            return change.__name__, ""
        old = way > 0.9
        change = (OLD if old else VALUES)[rng.integers(len(OLD if old else VALUES))]
        names, meta = dict(self.old_names if old else self.names), copy.deepcopy(self.old if old else self.meta)
        entry = change(rng, names, meta)
        self.is_old = old
        if old:
            with open(self.path, "wb") as file:
                checkpoint_files._WRITERS[self.path.suffix](file, names, json.dumps(meta))
        else:
            write(self.path, names, meta)
        return f"{change.__name__}{' (format 1)' * old}", entry

    def load(self):
        self.got = None
        self.got = self.opt.load(self.path, parameters())

    def outcome(self, error, entry):
        if error is None:
            got, want = bits(self.got), self.want
            if self.is_old:  # the first format had no units
                got, want = ({k: v for k, v in x.items() if not k.endswith(tuple(UNITS))} for x in (got, want))
            return "same bits" if got == want else "silent"
        return "refused" if str(self.path) in str(error) and (entry or "") in str(error) else "unnamed"


class Torch:
    """The state dict of a torch optimizer, edited in memory."""

    def __init__(self, options, folder):
        self.options = {**options, "refresh_every": 3, "refresh_growth": 0.0, "block_size": 4}
        self.opt = self.make()
        rng = np.random.default_rng(2)
        for _ in range(7):
            self.step(self.opt, rng)
        self.whole, self.want = self.opt.state_dict(), self.bits(self.opt)

    def make(self, lr=0.01):
        import torch

        from matroot_optim.torch import Shampoo as Torch

        params = {k: torch.nn.Parameter(torch.from_numpy(x)) for k, x in parameters().items()}
        groups = [{"params": [params["0/0"], params["0/1"]]}, {"params": [params["1/0"]], "lr": 2 * lr}]
        return Torch(groups, lr=lr, **self.options)

    def step(self, opt, rng):
        import torch

        for group in opt.param_groups:
            for p in group["params"]:
                p.grad = torch.from_numpy(rng.standard_normal(tuple(p.shape))).to(p.dtype)
        opt.step()

    def bits(self, opt):
        groups = [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]
        return bits(opt._current()), groups

    def damage(self, rng):
        import torch

        dictionary = copy.deepcopy(self.whole)
        own = (junk_in_groups, junk_in_outline, junk_as_entry)
        k = rng.integers(len(VALUES) + len(own))
        self.dictionary = dictionary
        if k >= len(VALUES):
            own[k - len(VALUES)](rng, dictionary)
            return own[k - len(VALUES)].__name__, ""
        names = {
            f"{p}/{n}": x.numpy()
            for p, s in zip(parameters(), dictionary["state"].values(), strict=True)
            for n, x in s.items()
        }
        names = {"step": names["0/0/step"], **{n: x for n, x in names.items() if not n.endswith("/step")}}
        meta = {str(g): json.loads(group["matroot_optim"]) for g, group in enumerate(dictionary["param_groups"])}
        entry = VALUES[k](rng, names, meta)
        for g, group in enumerate(dictionary["param_groups"]):
            group["matroot_optim"] = json.dumps(meta[str(g)]) if str(g) in meta else None
        for path, number in zip(parameters(), range(3), strict=True):
            mine = {n: x for n, x in names.items() if n.startswith(f"{path}/")}
            new = {n.removeprefix(f"{path}/"): torch.from_numpy(np.array(x)) for n, x in mine.items()}
            new.update({"step": torch.from_numpy(np.array(names["step"]))} if "step" in names else {})
            dictionary["state"][number] = new
        if "x" in names:
            dictionary["state"][0]["x"] = torch.zeros(3)
        return VALUES[k].__name__, entry

    def load(self):
        self.other = self.make(lr=0.5)
        self.step(self.other, np.random.default_rng(3))
        self.before = self.bits(self.other)
        self.other.load_state_dict(self.dictionary)

    def outcome(self, error, entry):
        if error is None:
            return "same bits" if self.bits(self.other) == self.want else "silent"
        if self.bits(self.other) != self.before:
            return "changed"
        return "refused" if (entry or "").rpartition("/")[2] in str(error) else "unnamed"


def roads(folder):
    for options in OPTIONS:
        for suffix in (".npz", ".safetensors"):
            yield suffix, Files(suffix, options, folder)
    try:
        import torch  # noqa: F401
    except ImportError:
        return
    for options in OPTIONS[:3]:
        yield "torch", Torch(options, folder)


# The run.


def stop(*_):
    raise TimeoutError("too long")


@contextlib.contextmanager
def bounded():
    """So much time and memory and no more, where the system can be asked for it."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    old = resource.getrlimit(resource.RLIMIT_AS)
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    resource.setrlimit(resource.RLIMIT_AS, (here + MEMORY, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
        signal.setitimer(signal.ITIMER_REAL, 0)


def attempt(road, rng):
    """One damage and one load: the kind of damage, the outcome, and what was said."""
    kind, entry = road.damage(rng)
    if entry is None:
        return kind, None, ""
    error = None
    try:
        with bounded():
            road.load()
    except TimeoutError as wrong:
        return kind, "hang", str(wrong)
    except Exception as wrong:
        error = wrong
        reasons = (wrong, wrong.__cause__, wrong.__context__)
        if any(isinstance(reason, MemoryError) for reason in reasons):
            return kind, "memory", repr(wrong)
        if any(isinstance(reason, TimeoutError) for reason in reasons):
            return kind, "hang", repr(wrong)
        if not isinstance(wrong, ValueError):
            return kind, "other exception", repr(wrong)
    return kind, road.outcome(error, entry), str(error)


def fuzz(seed=0, count=1000, seconds=float("inf"), only=None, show=print):
    """Counts of (road, kind of damage, outcome), and the faults; `count` loads, or as many as there is time for."""
    counts, faults = collections.Counter(), []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as quick:
        ways = list(roads(folder))
        end = time.monotonic() + seconds
        quick.enter_context(mock.patch("os.fsync"))  # no disk has to hold these files
        for k in range(count) if only is None else [only]:
            if time.monotonic() > end:
                break
            name, road = ways[k % len(ways)]
            kind, outcome, said = attempt(road, np.random.default_rng([seed, k]))
            if outcome is None:
                continue
            counts[name, kind, outcome] += 1
            if outcome in FAULTS or only is not None:
                faults.append((k, name, kind, outcome, said))
                show(f"case {k}: {name}, {kind}: {outcome}: {said[:300]}")
    return counts, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--only", type=int)
    args = parser.parse_args()
    counts, faults = fuzz(args.seed, args.count, args.seconds, args.only)
    kinds = sorted({key[:2] for key in counts})
    for road, kind in kinds:
        print(
            f"{road:13}{kind:28}",
            *(f"{o} {counts[road, kind, o]}" for o in OUTCOMES if counts[road, kind, o]),
            sep="  ",
        )
    print(
        f"{sum(counts.values())} damaged:",
        ", ".join(f"{sum(n for k, n in counts.items() if k[2] == o)} {o}" for o in OUTCOMES),
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

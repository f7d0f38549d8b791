"""Damage matrix files, read them, and count what should not happen.

    python -m tests.fuzz_files --seconds 20 --seed 0
    python -m tests.fuzz_files --count 500 --keep FOLDER

Every file is read in the process; every fifth is also given to the command in the process, and a sample to the command
in a process of its own, with 4 GiB of memory. Case k of a seed is always the same file. The exit status is 1 if there
is a fault, and 0 otherwise.
"""

import argparse
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse

from matroot.cli import command as cli
from matroot.cli import compare as cli_compare
from matroot.cli import files

#: Bytes of memory that reading may take, and as many more for every byte of the file: what sparse matrices may become.
SMALL, DENSE = 1 << 26, 1 << 14
SECONDS = 20  # until a reader counts as hanging; a command may compile kernels, and gets ten times as long
#: The command in a process of its own, with 4 GiB of memory.
COMMAND = "from matroot.__main__ import main; raise SystemExit(main())"
LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({4 << 30}, {4 << 30})); {COMMAND}"
COMMANDS = (
    ("root", "-p", "2", "--method", "eigen"),
    ("root", "-p", "3", "--pth-root", "--general"),
    ("compare", "-p", "1"),
)
DTYPES = ("<f8", ">f8", "<f4", ">f4", "<f2", "<c16", ">c8", "<i8", ">i2", "|u1", "|b1")
#: What a header may claim.
DESCRIPTIONS = ("|O", "|V8", "<U2", "|S8", "|S0", "<M8[s]", "<m8[D]", "<f16", ">f4", "<c8", "|b1", "<i1000", "nonsense")
NUMBERS = ("0", "1", "-1", "2", "9", "65537", str(2**31), str(2**63), str(2**140), "1e400", "nan", "inf", "True", "'1'")
JUNK = (b"", b"\0", b"\n", b",", b";", b"#", b"%", b"nan", b"-", b"\xff\xfe", b"1e999", b"9" * 50, b"(" * 300, b"j")


class Hang(BaseException):
    """A reader has taken too long."""


@dataclass
class Case:
    """A file: its bytes, and what it may be read as."""

    suffix: str
    data: bytes
    arrays: list = field(default_factory=list)  # dicts of arrays, any of which is right
    told: bool = False  # the format can tell this damage: any other arrays are silently wrong
    how: str = "as written"


# Valid files


def matrix(rng):
    """A small matrix or batch of any dtype, byte order and memory order; most are positive definite."""
    n = int(rng.integers(1, 7))
    a = rng.standard_normal((*([] if rng.random() < 0.7 else [int(rng.integers(0, 4))]), n, n))
    a = a @ a.swapaxes(-1, -2) + np.eye(n)
    dtype = np.dtype(DTYPES[rng.integers(len(DTYPES))])
    if dtype.kind == "c":
        a = a + 0.1j * (np.triu(a, 1) - np.tril(a, -1))
    with warnings.catch_warnings(action="ignore"):
        a = (10 * a if dtype.kind in "iu" else a).astype(dtype)
    return np.asfortranarray(a) if rng.random() < 0.3 else a


def flat(rng):
    """One matrix that text can hold."""
    a = matrix(rng)
    a = a.reshape(-1, a.shape[-1])[: a.shape[-1]] if a.size else np.eye(3)
    return a.astype({"c": complex, "i": np.int64, "u": np.int64}.get(a.dtype.kind, float))


def npy(rng):
    a, stream = matrix(rng), io.BytesIO()
    np.lib.format.write_array(stream, a, (1, 0) if rng.random() < 0.8 else (2, 0))
    return Case(".npy", stream.getvalue(), [{"": a}])


def npz(rng):
    arrays, stream = {f"a{k}": matrix(rng) for k in range(rng.integers(1, 4))}, io.BytesIO()
    (np.savez if rng.random() < 0.5 else np.savez_compressed)(stream, **arrays)
    return Case(".npz", stream.getvalue(), [arrays])


def csv(rng):
    a, stream = flat(rng), io.BytesIO()
    files._WRITERS[".csv"](stream, a)
    start = (b"", b"# a comment\n", b"\xef\xbb\xbf")[rng.integers(3)]
    return Case(".csv", start + stream.getvalue(), [{"": a.astype(complex if a.dtype.kind == "c" else float)}])


def mtx(rng):
    a, stream = flat(rng), io.BytesIO()
    if rng.random() < 0.5:
        a = (a + a.conj().T) // 2 if a.dtype.kind == "i" else (a + a.conj().T) / 2
    scipy.io.mmwrite(stream, scipy.sparse.coo_array(a) if rng.random() < 0.5 else a, precision=17)
    return Case(".mtx", stream.getvalue(), [{"": a}])


MAKERS = (npy, npz, csv, mtx)


# Damage. `told` is for what a length or a checksum shows.


def flipped(rng, case):
    data = bytearray(case.data)
    for _ in range(rng.integers(1, 5)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(data), case.suffix == ".npz"


def truncated(rng, case):
    return case.data[: rng.integers(len(case.data))], case.suffix in (".npy", ".npz")


def oversized(rng, case):
    return case.data + rng.bytes(int(rng.integers(1, 5000))), case.suffix in (".npy", ".npz")


def spliced(rng, case):
    """The start of a file and the end of another, which may be the whole of it."""
    other = MAKERS[rng.integers(4)](rng) if rng.random() < 0.3 else globals()[case.suffix[1:]](rng)
    case.arrays += other.arrays
    start, end = rng.integers(len(case.data)), rng.integers(len(other.data))
    return case.data[:start] + other.data[end:], case.suffix == ".npz"


def stuffed(rng, case):
    """Junk in the place of some bytes."""
    start = int(rng.integers(len(case.data)))
    end = start + int(rng.integers(4))
    return case.data[:start] + JUNK[rng.integers(len(JUNK))] + case.data[end:], case.suffix == ".npz"


def blanked(rng, case):
    """A part that was never written, as after a loss of power."""
    start, end = np.sort(rng.integers(len(case.data), size=2))
    return case.data[:start] + bytes(int(end - start)) + case.data[end:], case.suffix == ".npz"


def edited(rng, case):
    """Other numbers or another type in the header. In an .npz the checksum is made right again, so nothing can tell."""
    if case.suffix == ".npz":
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(case.data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
            for info in old.infolist():
                new.writestr(info.filename, _edit(rng, old.read(info)))
        return stream.getvalue(), False
    return _edit(rng, case.data), False


def _edit(rng, data):
    head, tail = data[:128], data[128:]
    if rng.random() < 0.3:
        head = re.sub(rb"'[<>|]..?'", f"'{DESCRIPTIONS[rng.integers(len(DESCRIPTIONS))]}'".encode(), head)
    else:
        found = list(re.finditer(rb"\d+", head[10:]))
        if found:
            at = found[rng.integers(len(found))]
            number = NUMBERS[rng.integers(len(NUMBERS))].encode()
            head = head[: 10 + at.start()] + number + head[10 + at.end() :]
    if data[:6] == b"\x93NUMPY":  # its length is right again too
        end = data.index(b"\n") + 1
        width = 2 if data[6] == 1 else 4
        text = (head + tail)[8 + width : end + len(head) - 128].rstrip() + b"\n"
        return data[:8] + len(text).to_bytes(width, "little") + text + data[end:]
    return head + tail


DAMAGES = (flipped, flipped, truncated, oversized, spliced, stuffed, blanked, edited, edited)


def case(seed, k):
    """Case `k` of a seed."""
    rng = np.random.default_rng([seed, k])
    made = MAKERS[k % len(MAKERS)](rng)
    damage = DAMAGES[rng.integers(len(DAMAGES))]
    made.data, made.told = damage(rng, made)
    made.how = damage.__name__
    return made


# Reading, and what comes of it


def equal(found, wanted):
    return list(found) == list(wanted) and all(
        found[name].dtype == a.dtype and found[name].shape == a.shape and found[name].tobytes() == a.tobytes()
        for name, a in wanted.items()
    )


def clear(text, path):
    """Is this one line that names the file?"""
    return path.name in text and text.isprintable() and len(text) < 500


def reading(path, made):
    """Outcome of reading a file in this process, and the fault if it is one."""
    tracemalloc.start()
    try:
        with alarm():
            outcome, fault = _outcome(path, made)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > SMALL + DENSE * len(made.data):
        return "too much memory", f"{peak} bytes for a file of {len(made.data)}"
    return outcome, fault


def _outcome(path, made):
    try:
        found = files.read(path)
    except (ValueError, OSError) as error:
        return ("refused", None) if clear(str(error), path) else ("unclear", f"{type(error).__name__}: {error}")
    except (Exception, Hang) as error:
        return type(error).__name__, repr(error)[:200]
    if any(equal(found, wanted) for wanted in made.arrays):
        return "right", None
    if made.told:
        return "silently wrong", repr({name: (a.shape, a.dtype) for name, a in found.items()})
    return "changed", None


def commanding(path, command):
    """Exit status of the command in this process, and the fault if it is one."""
    out, err = io.StringIO(), io.StringIO()
    name, *options = command
    try:
        with alarm(10 * SECONDS), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with warnings.catch_warnings(action="always"):
                status = cli.main([name, str(path), *options])
    except (Exception, Hang) as error:
        return None, f"{' '.join(command)}: {error!r}"[:300]
    return status, judged(path, command, status, out.getvalue(), err.getvalue())


def process(path, command):
    """The same in a process of its own."""
    name, *options = command
    run = [sys.executable, "-c", LIMITED if os.name == "posix" else COMMAND, name, str(path), *options]
    try:
        done = subprocess.run(run, capture_output=True, text=True, timeout=10 * SECONDS)
    except subprocess.TimeoutExpired as error:
        return None, str(error)
    return done.returncode, judged(path, command, done.returncode, done.stdout, done.stderr)


def judged(path, command, status, out, err):
    """The fault in what a command did, None if there is none: a failure is one line, or a table without any root."""
    if status not in (0, 1) or "Traceback" in err or (status == 0 and err):
        return f"{' '.join(command)}: status {status}, {err[-300:]}"
    if status == 1 and not (command[0] == "compare" and out and not err):
        if err.count("\n") != 1 or not err.startswith("matroot: error: ") or path.name not in err:
            return f"{' '.join(command)}: {err[-300:]}"
    return None


@dataclass
class Report:
    """Counts, and the faults as text."""

    read: Counter = field(default_factory=Counter)
    statuses: Counter = field(default_factory=Counter)
    processes: int = 0
    faults: list = field(default_factory=list)

    def __str__(self):
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.read.items()))
        status = ", ".join(f"{count} with status {code}" for code, count in sorted(self.statuses.items(), key=str))
        return "\n".join(
            (
                f"{self.read.total()} damaged files: {told}",
                f"{self.statuses.total()} commands, {self.processes} in a process of their own: {status}",
                f"{len(self.faults)} faults",
                *self.faults,
            )
        )


@contextlib.contextmanager
def alarm(seconds=SECONDS):
    def ring(*_):
        raise Hang(f"longer than {seconds} s")

    if not hasattr(signal, "alarm"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(folder, seed, count=sys.maxsize, seconds=float("inf"), sample=10, keep=None):
    """Damage `count` files, or as many as `seconds` allow; give `sample` of them to processes of their own."""
    report, start, budget = Report(), time.monotonic(), cli_compare.BUDGET
    step = min(count // max(sample, 1), 50) | 1  # odd, so that all formats have their turn
    alone = range(0, step * sample, step)
    cli_compare.BUDGET = 0  # no repeats for better times
    try:
        for k in range(count):
            if time.monotonic() - start > seconds:
                break
            made = case(seed, k)
            path = Path(folder, f"damaged{k}{made.suffix}")
            path.write_bytes(made.data)
            outcome, fault = reading(path, made)
            report.read[outcome] += 1
            found = [fault]
            for run in [commanding] * (k % 5 == 0) + [process] * (k in alone):
                status, fault = run(path, COMMANDS[k // 5 % len(COMMANDS)])
                report.statuses[status] += 1
                found.append(fault)
            report.processes += k in alone
            wrong = [f"seed {seed}, case {k}, {made.suffix} {made.how}: {text}" for text in found if text]
            report.faults += wrong
            if wrong and keep is not None:
                Path(keep, path.name).write_bytes(made.data)
            path.unlink()
    finally:
        cli_compare.BUDGET = budget
    return report


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="how many files (default: as many as the time allows)")
    parser.add_argument("--seconds", type=float, help="how long (default: 20, or as long as --count takes)")
    parser.add_argument("--sample", type=int, default=10, help="how many commands in processes of their own")
    parser.add_argument("--keep", help="a folder for the files that showed faults")
    options = parser.parse_args(argv)
    count = sys.maxsize if options.count is None else options.count
    seconds = options.seconds or (20 if options.count is None else float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(folder, options.seed, count, seconds, options.sample, options.keep)
    print(f"seed {options.seed}: {report}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())

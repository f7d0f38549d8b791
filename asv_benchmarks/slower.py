"""Is "auto" anywhere slower than the decomposition? Print every cell of the grid where it is.

``python asv_benchmarks/slower.py`` takes an hour or two; ``--sizes 2,4,8 --batches 1,4`` takes a part. A cell is one n,
batch, dtype (float32 also with ``rtol=1e-3``), p and condition number. Both sides run in turn on one thread and are
measured in processor seconds, as the least of a few rounds where it is close. Cells whose matrices have no root in
their dtype, float32 at 1e12, are decomposed in the end and counted apart. ``--out FILE`` appends each cell as JSON;
cells that FILE has already are left out.
"""

import argparse
import json
import os
import time
from functools import partial
from itertools import product
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MATROOT_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MATROOT_COMPILE"] = "now"

from matroot import gallery, solve  # noqa: E402

SIZES = (2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048)
BATCHES = (1, 4, 64, 1000)
KINDS = ("float64", "float32", "float32 to 1e-3", "complex128")
DEGREES = (1, 2, 3, 4, 8)
CONDS = (1e2, 1e6, 1e12)
#: Slower than this counts.
BAR = 1.05
#: Ratios above this are measured again, so often.
CLOSE, AGAIN = 0.85, 6
#: Seconds of one sample, so that a clock is read seldom.
SAMPLE = 0.004


def seconds(f, count):
    """Processor seconds of one call."""
    start = time.process_time()
    for _ in range(count):
        f()
    return (time.process_time() - start) / count


def measure(ours, other):
    """Least seconds of both sides."""
    first = [seconds(f, 1) for f in (ours, other)]
    counts = [max(1, int(SAMPLE / max(t, 1e-9))) for t in first]
    best = [t if n == 1 else seconds(f, n) for t, f, n in zip(first, (ours, other), counts, strict=True)]
    for _ in range(AGAIN):
        if best[0] <= CLOSE * best[1]:
            break
        best = [min(b, seconds(f, n)) for b, f, n in zip(best, (ours, other), counts, strict=True)]
    return best


def large(n, batch, kind, limit):
    """Return True where a cell would take too much memory, or a decomposition more than `limit` seconds."""
    weight = 4 if kind == "complex128" else 1
    return batch * n * n * 16 > 3e8 or batch * weight * 2.5e-10 * n**3 > limit


def cells(options):
    for n, batch, kind in product(options.sizes, options.batches, KINDS):
        if not large(n, batch, kind, options.limit):
            yield from product([n], [batch], [kind], options.degrees, CONDS)


def numbers(text):
    return tuple(int(x) for x in text.split(","))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=SIZES)
    parser.add_argument("--batches", type=numbers, default=BATCHES)
    parser.add_argument("--degrees", type=numbers, default=DEGREES)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds of one decomposition")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    known = set()
    if options.out and options.out.exists():
        known = {tuple(json.loads(line)["cell"]) for line in options.out.read_text().splitlines()}
    last, slower, rootless, total = None, 0, 0, 0
    for cell in cells(options):
        if cell in known:
            continue
        n, batch, kind, p, cond = cell
        if last != (n, batch, kind, cond):
            dtype, _, rtol = kind.partition(" to ")
            wide = "float64" if dtype == "float32" else dtype
            A = gallery.spd(n, cond, batch=(batch,) if batch > 1 else (), dtype=wide, rng=0)[0].astype(dtype)
            last, how = (n, batch, kind, cond), {"rtol": float(rtol)} if rtol else {}
        ours, other = partial(solve, A, p, **how), partial(solve, A, p, method="eigen", **how)
        found = ours()
        chosen, root = found.method.name, bool(found.converged.any())
        mine, theirs = (0.0, 1.0) if chosen == "eigen" else measure(ours, other)
        total += 1
        if options.out:
            with options.out.open("a") as stream:
                stream.write(
                    json.dumps({"cell": cell, "ours": mine, "eigen": theirs, "method": chosen, "root": root}) + "\n"
                )
        if mine > BAR * theirs:
            slower += root
            rootless += not root
            note = "" if root else ", no root"
            print(f"n={n} batch={batch} {kind} p={p} cond={cond:.0e}: {chosen} {mine / theirs:.2f}{note}", flush=True)
    print(f"{slower} of {total} cells are slower by more than {BAR - 1:.0%}, and {rootless} more that have no root")

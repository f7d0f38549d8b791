"""asv_benchmarks/others.py: the tables beside other optimizers' roots have true errors, and what each function says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("optax")

SCRIPT = Path(__file__).parents[1] / "asv_benchmarks" / "others.py"


def rows(path):
    """The cells of a list-table, by the first of each row."""
    found = {}
    for row in path.read_text(encoding="utf-8").split("\n   * -")[1:]:
        first, *cells = (cell.strip() for cell in row.split("\n     -"))
        found[first] = cells
    return found


@pytest.mark.slow
def test_both_tables(tmp_path):
    command = [sys.executable, SCRIPT, "-n", "24", "--rounds", "1", "--tables", tmp_path]
    subprocess.run(command, check=True, timeout=300)
    good, bad = rows(tmp_path / "others_good.rst"), rows(tmp_path / "others_bad.rst")
    assert list(good) == list(bad)
    assert {"", "**matroot**", "torch's ``eigh`` and product", "Google (optax): coupled Newton"} <= set(good)
    for name, cells in good.items():
        if not name:
            continue
        errors = [float(cell.split(" | ")[0]) for cell in cells if cell]
        if name == "**matroot**":
            assert max(errors) < 1e-7
        elif len(errors) == 6:  # of float32, as p says: less for the fourth root, and growing with the condition number
            assert errors[0] < 1e-4 < 3e-4 < errors[2]
            assert errors[2] > 100 * errors[0]
            assert errors[5] < errors[2]
    says = [cell.partition("; ")[2] for cell in bad["**matroot**"]]
    assert says == ["NOT_POSITIVE", "SINGULAR", "NONFINITE_INPUT", "CONVERGED", "CONVERGED"]
    assert all("its figure" in cell for cell in bad["Google (optax): coupled Newton"])

"""The examples of the documentation run, learn, and are short."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
def test_example(kind, capsys):
    pytest.importorskip("optax" if kind == "jax" else kind)
    path = FOLDER / f"shampoo_{kind}.py"
    assert len(path.read_text().splitlines()) < 40
    accuracy = runpy.run_path(str(path))["main"](steps=100)
    assert accuracy > 0.85
    assert "roots" in capsys.readouterr().out

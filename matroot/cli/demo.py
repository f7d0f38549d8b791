"""The main job on real input: optical digits, and the monthly root of a yearly rating-transition matrix."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Do nothing: ``matroot demo`` passes its arguments on to `matroot.demo.run`."""


def run(options: argparse.Namespace) -> int:
    """Call `matroot.demo.run`."""
    from matroot.demo.run import main

    return int(main(options.rest) or 0)

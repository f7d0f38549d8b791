"""The command ``matroot``."""

from matroot.cli.command import main

__all__ = ["main"]

"""The command ``matroot``."""

from matroot.cli.main import main

__all__ = ["main"]

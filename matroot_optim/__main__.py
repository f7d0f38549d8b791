"""``python -m matroot_optim demo`` and ``python -m matroot_optim plan``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = """usage: python -m matroot_optim demo [--figure PNG] [--no-figure] [--seed N]
       python -m matroot_optim plan CONFIG --ranks N [N ...]"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `demo` or `plan`."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    command = arguments[0] if arguments else ""
    if command == "demo":
        from matroot_optim.demo.run import main as demo

        return demo(arguments[1:])
    if command == "plan":
        from matroot_optim.planning.command import main as plan

        return plan(arguments[1:])
    asked = arguments in (["-h"], ["--help"])
    print(USAGE, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    raise SystemExit(main())

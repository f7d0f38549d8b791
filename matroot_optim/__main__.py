"""``python -m matroot_optim demo``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `demo`, the only one."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] != ["demo"]:
        print(
            "usage: python -m matroot_optim demo [--figure PNG] [--no-figure] [--seed N]",
            file=sys.stderr if arguments not in (["-h"], ["--help"]) else sys.stdout,
        )
        return 0 if arguments in (["-h"], ["--help"]) else 2
    from matroot_optim.demo.run import main as demo

    return demo(arguments[1:])


if __name__ == "__main__":
    raise SystemExit(main())

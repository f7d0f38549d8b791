"""``python -m matroot`` is the command ``matroot``."""

import sys

from matroot.cli.command import main

if __name__ == "__main__":
    sys.exit(main())

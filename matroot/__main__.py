"""``python -m matroot`` is the command ``matroot``."""

import sys

from matroot.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

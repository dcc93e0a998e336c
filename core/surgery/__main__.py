"""Run the command line with ``python -m surgery``."""

from __future__ import annotations

import sys

from surgery.cli import main

if __name__ == "__main__":
    sys.exit(main())

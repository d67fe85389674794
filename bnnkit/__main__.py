"""The entry point of `bnnkit` and of `python -m bnnkit`."""

from __future__ import annotations

import sys

from bnnkit.cli.errors import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

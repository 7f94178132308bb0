"""The command line: `faultlines`, or `python -m faultlines`."""

from __future__ import annotations

import sys

from faultlines.cli import book, card, machine, run, status  # noqa: F401 - in this order their commands are listed
from faultlines.cli.app import app


def main() -> None:
    """Run the command line."""
    try:
        app()
    except BrokenPipeError:
        sys.exit(141)


if __name__ == "__main__":
    main()

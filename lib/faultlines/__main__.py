"""`faultlines` and `python -m faultlines`: the command line, or what is missing for it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without its packages, say in one line how to install them."""
    try:
        from faultlines.cli.app import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "faultlines":
            raise
        sys.exit(f"faultlines: the command line needs {missing.name}: pip install 'faultlines[notebooks]'")
    try:
        app()
    except BrokenPipeError:
        sys.exit(141)


if __name__ == "__main__":
    main()

"""`python -m faultlines`."""

from faultlines.runner.cli import main

main()

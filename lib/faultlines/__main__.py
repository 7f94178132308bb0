"""`python -m faultlines`."""

from faultlines.cli.main import main

main()

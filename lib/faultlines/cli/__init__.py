"""The command line, on top of every other room: a convenience over papermill, nbval, Jupytext and Jupyter Book."""

from faultlines.cli import book, card, machine, run, status  # noqa: F401 - in this order their commands are listed

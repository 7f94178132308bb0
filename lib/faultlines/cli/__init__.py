"""The command line, on top of every other room: a convenience over papermill, nbval, Jupytext and Jupyter Book."""

"""On the path of a kernel, makes torch know the device `wooden` before a cell runs: see `../wooden.py`."""

import sys

if any("ipykernel" in word for word in sys.orig_argv):
    from tests.devices import wooden

    wooden.register()

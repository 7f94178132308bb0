"""Parameters, execution, freshness, the book and the command line.

The runner knows notebooks, not science: it imports none of the library's other rooms (the command line alone
asks `faultlines.data` which data sets are there).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

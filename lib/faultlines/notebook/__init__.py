"""A chapter and its result: parameters, the record of an execution, whether it still says what the code says.

This room knows notebooks, not science: it imports none of the rooms above it.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

"""Claims and their verdicts, intervals, numbers for the prose, and the style of figures."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

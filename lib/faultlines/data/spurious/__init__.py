"""A procedural counterpart of Spawrious: classes, backgrounds and their spurious correlations, rendered in seconds."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

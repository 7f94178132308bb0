"""Attacks on explanations: the picture stays, the prediction stays, the map that explains it does not."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

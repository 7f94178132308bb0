"""Attacks on predictions: one projected-gradient loop, with norm, loss and step rule as plugs."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

"""Attention mechanisms behind one interface, and the networks that use them."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

"""How the gradients of the two branches of differential attention lie to each other (arXiv 2510.00517)."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

"""Curvature in the parameters and in the input, by Hessian-vector products, and what links the two."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

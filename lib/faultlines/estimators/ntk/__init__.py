"""Neural tangent kernels, infinite and finite, and ridge regression with them."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

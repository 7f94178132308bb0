"""Estimators: softmax Jacobian norms, Lipschitz bounds and constants, statistics of attention maps."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

"""Lipschitz constants of attention and of networks: upper bounds, local norms, and sampled lower bounds."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

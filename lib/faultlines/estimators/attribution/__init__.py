"""Attribution maps: which pixels or patches a logit rests on, differentiable where an attack needs it."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

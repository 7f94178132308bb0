"""Data sets as tensors: `load(name)` gives train and test images in [0, 1] with class names."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

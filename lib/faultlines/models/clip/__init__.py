"""A two-tower network for images and captions (CLIP), with softmax or differential attention."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

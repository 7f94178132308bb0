"""Influence of a training sample on a prediction, and how it changes when the training set does."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

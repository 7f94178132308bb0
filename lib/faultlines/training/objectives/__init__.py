"""Training objectives: `objective(model, x, y) -> (loss, logs)` for any callable model."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

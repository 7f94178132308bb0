"""How alike two batches of maps are: ranks, top pixels, direction, structure, place of the mass."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

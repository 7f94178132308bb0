"""Fault Lines: attention variants, attacks, estimators and a runner for executable chapters.

Subpackages load on first use, so a chapter depends on (and goes stale with) only the modules it touches.
"""

import lazy_loader as lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submodules=[
        "attacks",
        "book",
        "cli",
        "data",
        "estimators",
        "models",
        "notebook",
        "reporting",
        "runner",
        "studies",
        "training",
    ],
)

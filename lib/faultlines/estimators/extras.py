"""What single estimators take from libraries that the base package does not need, imported where it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum.attr import GuidedBackprop as GuidedBackprop
    from captum.influence import TracInCP as TracInCP

HOMES = {"GuidedBackprop": "captum.attr", "TracInCP": "captum.influence"}


def __getattr__(name: str) -> Any:
    """Import a name from its home.

    Raises:
        AttributeError: If it is none of these.
        ModuleNotFoundError: If the library is not installed; the message says how to get it.
    """
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(HOMES[name]), name)
    except ModuleNotFoundError as error:
        library = HOMES[name].partition(".")[0]
        if error.name != library:
            raise
        raise ModuleNotFoundError(
            f"{name} is computed by {library}, which is not installed: pip install 'faultlines[notebooks]'",
            name=library,
        ) from None

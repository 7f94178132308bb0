"""The one exception that the command line turns into a line and exit status 2."""

from __future__ import annotations


class UsageError(ValueError):
    """What was asked for cannot be done; the message names the value, what is allowed, and the fix."""

    def _render_traceback_(self) -> list[str]:
        # in a notebook the line says all: how it came there is the library's affair
        return [f"{type(self).__name__}: {self}"]


def one_of(kind: str, value: str, allowed: list[str]) -> UsageError:
    """Return the error for a name that is not known.

    Example:
        >>> str(one_of("chapter", "sofmax", ["ex2l", "softmax-lipschitz"]))
        "unknown chapter 'sofmax': it is one of ex2l, softmax-lipschitz"
    """
    return UsageError(f"unknown {kind} {value!r}: it is one of {', '.join(allowed) or '(none)'}")

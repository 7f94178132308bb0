"""What all tests share: property tests that draw the same cases every time, and are not timed."""

from __future__ import annotations

from hypothesis import settings

# a draw that fails once in a hundred runs says nothing to whoever changed something else;
# `--hypothesis-profile=default` looks for new ones
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

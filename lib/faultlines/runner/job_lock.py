"""A lock for each place of a result, so that no two jobs write there.

It is the operating system's own (flock), and so ends with the process that holds it, however that ends: a file that
survived a kill is a lock of nobody's. On a file system without locks a job does without.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def lock_file(status: Path) -> Path:
    """Return the lock of the job whose status stands at a path."""
    return status.with_suffix(".lock")


def try_lock(path: Path, wait: bool) -> int | None:
    """Return an open file that holds the lock, or None where another process holds it and we are not to wait."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # no locks here
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # who held it before has deleted the file on the way out: then this is a lock of nothing
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here: whoever says so is believed
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def locked(path: Path, waits: Callable[[], None]) -> Iterator[bool]:
    """Hold a lock.

    Args:
        path: Its file, which is deleted on the way out.
        waits: Called where another process holds it, before we wait for that.

    Yields:
        Whether there was another to wait for.
    """
    descriptor = try_lock(path, wait=False)
    waited = descriptor is None
    if descriptor is None:
        waits()
        descriptor = try_lock(path, wait=True)
    try:
        yield waited
    finally:
        path.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)

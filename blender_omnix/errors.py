# SPDX-License-Identifier: GPL-3.0-or-later
"""The two exceptions that cross room boundaries, and the sentences that several rooms share."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import PurePath


class OmnixError(Exception):
    """Something the user can act on; `str(error)` is the one sentence they are shown."""


class Cancelled(Exception):
    """The user asked to stop; nothing was written."""


# How torch, CUDA, Metal, Linux and Windows say that there is no memory left.
_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "os error 1455")


def sentence(error: BaseException) -> str | None:
    """What to tell the user of a failure that they can act on; None for a defect."""
    if isinstance(error, OmnixError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return (
            f"The Python that runs this, {sys.executable}, has no {error.name}; use one that has "
            "it, in Blender as External Python in the preferences of the extension."
        )
    if isinstance(error, ImportError):
        return (
            f"The Python that runs this, {sys.executable}, cannot load a library ({error}); on "
            "Windows the Microsoft Visual C++ Redistributable may be missing."
        )
    if lacks_memory(error):
        return "Memory ran out; try a smaller size, or close other programs."
    if isinstance(error, OSError) and error.filename is not None:
        return str(unreachable(error))
    return None


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised in place of, tells of too little memory."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        # A path may have such a name.
        words = str(getattr(error, "strerror", None) or error).lower()
        if any(telling in words for telling in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def unreachable(error: OSError) -> OmnixError:
    """What to tell of a path that the system refuses to look at."""
    return OmnixError(f"{error.filename} cannot be reached ({error.strerror}); check the path.")


LONGEST_NAME = 255  # units of one part of a path, on every usual file system


def refuse_unreadable_name(path: object) -> None:
    """Raise OmnixError where a path is not text, for image libraries take UTF-8 names alone, or is
    overlong."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise OmnixError(f"{shown} has a name that is not valid UTF-8; rename it.") from None
    refuse_overlong_name(path)


def refuse_overlong_name(path: object) -> None:
    """Raise OmnixError where a path has a part that no file system takes; even to ask whether there
    is such a file would be an error."""
    # Windows counts units of UTF-16, others bytes of UTF-8.
    coding, size = ("utf-16-le", 2) if os.name == "nt" else ("utf-8", 1)
    parts = PurePath(str(path)).parts
    if any(len(part.encode(coding, "surrogatepass")) > size * LONGEST_NAME for part in parts):
        raise OmnixError(
            f"{path} has a name of more than {LONGEST_NAME} bytes; choose a shorter one."
        )

# SPDX-License-Identifier: GPL-3.0-or-later
"""The two exceptions that cross room boundaries, and a refusal that several rooms share."""

from __future__ import annotations

import os
from pathlib import PurePath


class OmnixError(Exception):
    """Something the user can act on; `str(error)` is the one sentence they are shown."""


class Cancelled(Exception):
    """The user asked to stop; nothing was written."""


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

# SPDX-License-Identifier: GPL-3.0-or-later
"""The two exceptions that cross room boundaries, and a refusal that several rooms share."""

from __future__ import annotations


class OmnixError(Exception):
    """Something the user can act on; `str(error)` is the one sentence they are shown."""


class Cancelled(Exception):
    """The user asked to stop; nothing was written."""


def refuse_unreadable_name(path: object) -> None:
    """Raise OmnixError where a path is not text: image libraries take UTF-8 names alone."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise OmnixError(f"{shown} has a name that is not valid UTF-8; rename it.") from None

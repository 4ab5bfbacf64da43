# SPDX-License-Identifier: GPL-3.0-or-later
"""The two exceptions that cross room boundaries."""

from __future__ import annotations


class OmnixError(Exception):
    """Something the user can act on; `str(error)` is the one sentence they are shown."""


class Cancelled(Exception):
    """The user asked to stop; nothing was written."""

# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines turn a tone-mapped panorama into raw maps; `create` makes one by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import OmnixError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import Engine

NAMES = ("compact", "flux")


def create(name: str, options: Mapping[str, Any] | None = None) -> Engine:
    """An engine by name, not yet loaded. Imports torch, so call it where a wait is expected.

    `options` are the engine's own: see `CompactEngine` and `FluxEngine`. Raises OmnixError for
    an unknown name.
    """
    options = dict(options or {})
    if name == "compact":
        from .compact.engine import CompactEngine

        return CompactEngine(**options)
    if name == "flux":
        from .flux.engine import FluxEngine

        return FluxEngine(**options)
    raise OmnixError(f"There is no engine called {name!r}; choose one of {', '.join(NAMES)}.")

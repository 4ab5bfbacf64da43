# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import numpy as np

    Progress = Callable[[str, float], None]
    Cancelled = Callable[[], bool]

# Raw maps at the network's own size (h, w = 2h), float32, in Blender's world frame:
#   albedo     (h, w, 3)  sRGB-encoded, 0..1
#   normal     (h, w, 3)  unit, facing the viewer
#   roughness  (h, w)     0..1
#   metallic   (h, w)     0..1
#   depth      (h, w)     > 0 along the ray, up to one unknown factor
#   sky        (h, w)     probability that there is no surface
#   semantic   (h, w, 3)  sRGB-encoded class colours
Prediction = dict[str, "np.ndarray"]


class Engine(Protocol):
    """One way to perceive a panorama. State: the loaded model, kept warm between jobs."""

    name: str
    # The maps it can make, of maps.REQUESTABLE; emission comes from the source and is not listed.
    makes: frozenset[str]

    def load(self, progress: Progress) -> None:
        """Read what stays in memory between jobs and check it. Does nothing when already loaded.

        `progress(stage, fraction)` runs 0..1 over the loading. Every adapter is injected and
        verified here, or, by an engine too large to hold them all, in `predict` before its first
        use. Raises OmnixError naming the file that is missing, altered or does not fit.
        """

    def unload(self) -> None:
        """Give the memory back."""

    def predict(
        self,
        panorama: np.ndarray,
        maps: Collection[str],
        progress: Progress,
        cancelled: Cancelled,
        seed: int = 0,
    ) -> Prediction:
        """Perceive `panorama` (H, W, 3), sRGB-encoded 0..1, any 2:1 size.

        Returns at least `maps` of `makes`, and what else it made on the way (the sky, if it
        tells one, whatever is asked for). `progress(stage, fraction)` runs 0..1 over the
        whole prediction. Raises Cancelled.
        """

    def adapters(self) -> list[dict[str, Any]]:
        """The report's `adapters` entries, one per adapter injected so far."""

    def warnings(self, maps: Collection[str]) -> list[str]:
        """Sentences for the report on what the user should know of `maps`, as last predicted."""

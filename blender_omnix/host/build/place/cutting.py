# SPDX-License-Identifier: GPL-3.0-or-later
"""The geometry of a place, cut from its maps as they are now by its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import bpy
import numpy as np

from ....errors import OmnixError
from ....panorama import smooth
from ...geometry_settings import NUMBERS
from ...identity import STATE
from .. import geometry, images
from .shading import RELIGHT


@dataclass(frozen=True)
class Settings:
    """What can be chosen about a place.

    detail: quads around the horizon, at most the width of the maps. jump: least relative step in
    depth at which the surface is cut. fill: how far the background grows behind an edge, as a
    fraction of the panorama's width. smooth: rounds of smoothing depth along the normals.
    enclosed: 'AUTO', 'YES' or 'NO': a closed place gets a hull against outside light. mode:
    'ORIGINAL' or 'RELIGHT'.
    """

    detail: int = NUMBERS["detail"].default
    jump: float = NUMBERS["jump"].default
    fill: float = NUMBERS["fill"].default
    smooth: int = NUMBERS["smooth"].default
    enclosed: str = "AUTO"
    mode: str = RELIGHT


def settings_of(collection: bpy.types.Collection) -> Settings:
    """The settings a place was last built with."""
    state = collection[STATE]
    return Settings(**{field.name: state[field.name] for field in fields(Settings)})


@dataclass(frozen=True)
class Cut:
    """Geometry ready to become meshes; lamps (R C,) bool: cells whose faces are lamps.

    Only enclosed places have a hull, and panes where they have openings.
    """

    shell: geometry.Shell
    hull: geometry.Shell | None
    panes: geometry.Shell | None
    lamps: np.ndarray


def cut(textures: Mapping[str, bpy.types.Image], settings: Settings) -> Cut:
    """Read the maps and cut the geometry; OmnixError when there is nothing to build from."""
    depth = read_depth(textures["depth"])
    normal = images.read_normal(textures["normal"], depth.shape) if "normal" in textures else None
    grid = geometry.reduce(depth, normal, settings.detail)
    if not (grid.depth > 0).any():
        raise OmnixError(
            f"{textures['depth'].filepath} shows so little but sky that nothing of it is left with "
            f"{settings.detail} quads around the horizon; raise the detail."
        )
    if settings.smooth and "normal" in textures:
        smoothed = smooth.plane_guided(grid.depth, grid.normal, rounds=settings.smooth)
        grid = geometry.meet(replace(grid, depth=smoothed), settings.jump)
    closed = settings.enclosed == "YES" or (
        settings.enclosed == "AUTO" and geometry.is_enclosed(grid)
    )
    lamps = np.zeros(grid.depth.size, bool)
    if "emission" in textures:
        lamps = geometry.lamp_cells(images.read(textures["emission"], 3), grid)
    shell, hull, panes = geometry.shells(grid, settings.jump, settings.fill, enclosed=closed)
    # An opening is a lamp while its pane is there.
    lamps |= (grid.depth <= 0).ravel()
    return Cut(shell, hull, panes, lamps)


def read_depth(image: bpy.types.Image) -> np.ndarray:
    """Metres (H, W), 0 where the map shows the sky; OmnixError where it does so everywhere."""
    depth = images.read(image, 1)
    # A rendered depth pass has infinity or 1e10 there. What is no number is no surface either.
    depth = np.where((depth > 0) & (depth < geometry.FAR), depth, np.float32(0.0))
    if not (depth > 0).any():
        raise OmnixError(f"{image.filepath} shows sky everywhere, so there is no surface to build.")
    return depth

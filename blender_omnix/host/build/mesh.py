# SPDX-License-Identifier: GPL-3.0-or-later
"""A shell of `geometry` as a Blender mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bpy
import numpy as np

from .geometry import BACKGROUND

if TYPE_CHECKING:
    from .geometry import Shell

DIRECTION = "omnix_direction"
LAYER = "omnix_layer"


def fill(mesh: bpy.types.Mesh, shell: Shell, slots: np.ndarray | None = None) -> None:
    """Replace the contents of `mesh` with a shell.

    `slots` (R C,) gives the material slot of each cell; without it, and in the background, faces
    use the first. The point attributes `omnix_direction` and `omnix_layer` hold the
    look-up vectors and the layers.
    """
    mesh.clear_geometry()
    mesh.vertices.add(len(shell.vertices))
    mesh.vertices.foreach_set("co", shell.vertices.ravel())
    corners = np.concatenate((shell.quads.ravel(), shell.triangles.ravel()))
    mesh.loops.add(len(corners))
    mesh.loops.foreach_set("vertex_index", corners)
    quads, triangles = len(shell.quads), len(shell.triangles)
    mesh.polygons.add(quads + triangles)
    starts = np.concatenate((np.arange(quads) * 4, quads * 4 + np.arange(triangles) * 3))
    mesh.polygons.foreach_set("loop_start", starts.astype(np.int32))
    if slots is not None:
        cells = np.concatenate((shell.quad_cells, shell.triangle_cells))
        corner = np.concatenate((shell.quads[:, 0], shell.triangles[:, 0]))
        chosen = np.where(shell.layer[corner] < BACKGROUND, slots[cells], 0)
        mesh.polygons.foreach_set("material_index", chosen.astype(np.int32))
    mesh.polygons.foreach_set("use_smooth", np.ones(quads + triangles, bool))
    attribute = mesh.attributes.new(DIRECTION, "FLOAT_VECTOR", "POINT")
    attribute.data.foreach_set("vector", shell.lookup.ravel())
    attribute = mesh.attributes.new(LAYER, "FLOAT", "POINT")
    attribute.data.foreach_set("value", shell.layer.astype(np.float32))
    mesh.update(calc_edges=True)

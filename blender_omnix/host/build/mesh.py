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
    look-up vectors and the layers. Shading is smooth, as of every mesh without sharp faces.
    """
    mesh.clear_geometry()
    quads, triangles = len(shell.quads), len(shell.triangles)
    corners = np.concatenate((shell.quads.ravel(), shell.triangles.ravel()))
    starts = np.concatenate((np.arange(quads) * 4, quads * 4 + np.arange(triangles) * 3))
    mesh.vertices.add(len(shell.vertices))
    mesh.loops.add(len(corners))
    mesh.polygons.add(quads + triangles)
    mesh.polygons.foreach_set("loop_start", starts.astype(np.int32))
    # Straight into the attributes behind vertices, loops and polygons: through those collections
    # Blender sets one element at a time.
    _set(mesh, "position", "FLOAT_VECTOR", "POINT", shell.vertices)
    _set(mesh, ".corner_vert", "INT", "CORNER", corners)
    _set(mesh, DIRECTION, "FLOAT_VECTOR", "POINT", shell.lookup)
    _set(mesh, LAYER, "FLOAT", "POINT", shell.layer.astype(np.float32))
    if slots is not None:
        cells = np.concatenate((shell.quad_cells, shell.triangle_cells))
        corner = np.concatenate((shell.quads[:, 0], shell.triangles[:, 0]))
        chosen = np.where(shell.layer[corner] < BACKGROUND, slots[cells], 0)
        _set(mesh, "material_index", "INT", "FACE", chosen.astype(np.int32))
    mesh.update(calc_edges=True)


def _set(mesh: bpy.types.Mesh, name: str, kind: str, domain: str, values: np.ndarray) -> None:
    """Fill an attribute of the mesh, making it where it is not built in."""
    attribute = mesh.attributes.get(name) or mesh.attributes.new(name, kind, domain)
    key = "vector" if kind == "FLOAT_VECTOR" else "value"
    attribute.data.foreach_set(key, values.ravel())

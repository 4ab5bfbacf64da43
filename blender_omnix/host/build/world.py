# SPDX-License-Identifier: GPL-3.0-or-later
"""A world that shows a panorama."""

from __future__ import annotations

import bpy
from mathutils import Matrix

from .nodes import Graph


def panorama_world(
    name: str, image: bpy.types.Image, *, turned: Matrix, mirrored: Matrix, strength: float
) -> bpy.types.World:
    """A new world with the equirectangular `image`, as an artist would build it.

    `mirrored` (3 x 3, diagonal, 1 or -1) mirrors the picture, then `turned` (3 x 3, a rotation)
    turns it; `strength` is that of the Background node.
    """
    world = bpy.data.worlds.new(name)
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True  # from 5.0 on a world always does
    world.node_tree.nodes.clear()
    graph = Graph(world.node_tree)
    mapping = graph.add("ShaderNodeMapping", vector_type="POINT")
    graph.link(graph.add("ShaderNodeTexCoord").outputs["Generated"], mapping.inputs["Vector"])
    # The nodes turn the direction that is looked up: the other way, and after mirroring it.
    lookup = mirrored @ turned.inverted() @ mirrored
    mapping.inputs["Rotation"].default_value = lookup.to_euler("XYZ")
    mapping.inputs["Scale"].default_value = [mirrored[axis][axis] for axis in range(3)]
    texture = graph.add("ShaderNodeTexEnvironment", image=image)
    graph.link(mapping.outputs["Vector"], texture.inputs["Vector"])
    background = graph.add("ShaderNodeBackground")
    graph.link(texture.outputs["Color"], background.inputs["Color"])
    background.inputs["Strength"].default_value = strength
    output = graph.add("ShaderNodeOutputWorld")
    graph.link(background.outputs["Background"], output.inputs["Surface"])
    graph.arrange()
    return world

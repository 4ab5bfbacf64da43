# SPDX-License-Identifier: GPL-3.0-or-later
"""A quick stand-in for the geometry of a place, live while its settings are dragged.

Geometry Nodes displace a grid by the depth map and drop edges that jump. What takes a walk over
the whole grid comes with the full mesh alone, on Apply: the background that Fill grows behind
edges, depth smoothed along the normals, welded seams and closed poles, hull and panes.
"""

from __future__ import annotations

import math

import bpy

from ..geometry_settings import NUMBERS
from .geometry import FAR
from .mesh import DIRECTION
from .nodes import Graph

# Inputs of the modifier, called like the settings; what is not live says so.
INPUTS = {"Detail": "NodeSocketInt", "Jump": "NodeSocketFloat", "Fill": "NodeSocketFloat"}
_NOT_LIVE = {"Fill": "; seen when applied"}


def group(
    name: str, depth: bpy.types.Image, material: bpy.types.Material, defaults: dict[str, float]
) -> bpy.types.NodeTree:
    """The Geometry Nodes group; `defaults` are the values of its inputs by label."""
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    tree.is_modifier = True
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    for label, kind in INPUTS.items():
        number = NUMBERS[label.lower()]
        socket = tree.interface.new_socket(label, in_out="INPUT", socket_type=kind)
        socket.min_value, socket.max_value = number.least, number.most
        socket.default_value = defaults[label]
        socket.description = number.description + _NOT_LIVE.get(label, "")
    graph = Graph(tree)
    settings = graph.add("NodeGroupInput").outputs
    position = graph.add("GeometryNodeInputPosition").outputs[0]

    grid = graph.add("GeometryNodeMeshGrid")
    graph.link(graph.math("ADD", settings["Detail"], 1.0), grid.inputs["Vertices X"])
    rows = graph.math("MULTIPLY_ADD", settings["Detail"], 0.5, 1.0)
    graph.link(rows, grid.inputs["Vertices Y"])
    # The grid's x is u - 1/2, its y is v - 1/2 from the bottom.
    x, y, _ = graph.split(position)
    azimuth = graph.math("MULTIPLY", x, -2.0 * math.pi)
    elevation = graph.math("MULTIPLY", y, math.pi)
    flat = graph.math("COSINE", elevation)
    ray = graph.join(
        graph.math("MULTIPLY", flat, graph.math("COSINE", azimuth)),
        graph.math("MULTIPLY", flat, graph.math("SINE", azimuth)),
        graph.math("SINE", elevation),
    )
    texture = graph.add("GeometryNodeImageTexture", interpolation="Closest", extension="EXTEND")
    texture.inputs["Image"].default_value = depth
    graph.link(graph.vector("ADD", position, (0.5, 0.5, 0.0)), texture.inputs["Vector"])
    placed = graph.add("GeometryNodeSetPosition")
    graph.link(grid.outputs["Mesh"], placed.inputs["Geometry"])
    graph.link(
        graph.vector("SCALE", ray, scale=texture.outputs["Color"]), placed.inputs["Position"]
    )

    ends = graph.add("GeometryNodeInputMeshEdgeVertices")
    one, other = (graph.length(ends.outputs[f"Position {k}"]) for k in (1, 2))
    near = graph.math("MINIMUM", one, other)
    step = graph.math("ABSOLUTE", graph.math("SUBTRACT", one, other))
    jumps = graph.math("GREATER_THAN", step, graph.math("MULTIPLY", near, settings["Jump"]))
    far = graph.math("GREATER_THAN", graph.math("MAXIMUM", one, other), FAR)
    sky = graph.math("MAXIMUM", graph.math("LESS_THAN", near, 1e-6), far)
    cut = graph.add("GeometryNodeDeleteGeometry", domain="EDGE", mode="EDGE_FACE")
    graph.link(placed.outputs["Geometry"], cut.inputs["Geometry"])
    graph.link(graph.math("MAXIMUM", jumps, sky), cut.inputs["Selection"])

    stored = graph.add("GeometryNodeStoreNamedAttribute", data_type="FLOAT_VECTOR", domain="POINT")
    stored.inputs["Name"].default_value = DIRECTION
    graph.link(cut.outputs["Geometry"], stored.inputs["Geometry"])
    graph.link(position, stored.inputs["Value"])
    shown = graph.add("GeometryNodeSetMaterial")
    shown.inputs["Material"].default_value = material
    graph.link(stored.outputs["Geometry"], shown.inputs["Geometry"])
    graph.link(shown.outputs["Geometry"], graph.add("NodeGroupOutput").inputs["Geometry"])
    graph.arrange()
    return tree


def modifier_of(item: bpy.types.Object) -> bpy.types.NodesModifier | None:
    """The modifier of a stand-in; None where the user has deleted or applied it."""
    nodes = (each for each in item.modifiers if each.type == "NODES" and each.node_group)
    return next((each for each in nodes if INPUTS.keys() <= inputs(each).keys()), None)


def inputs(modifier: bpy.types.NodesModifier) -> dict[str, str]:
    """Label of each setting and the modifier's property that holds it."""
    return {
        item.name: item.identifier
        for item in modifier.node_group.interface.items_tree
        if item.item_type == "SOCKET" and item.in_out == "INPUT"
    }

# SPDX-License-Identifier: GPL-3.0-or-later
"""The material of a place: maps looked up by direction, lit or unlit.

Each place has two node groups. *Surface* holds the textures and the shading and exposes the
controls; *Controls* holds the one node of it whose inputs the user sets. The materials only
contain Controls, so that they share one set of values: a second material exists because Cycles
decides per material whether faces are sampled as lamps, and half a million walls must not be.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import bpy

from ... import maps
from .geometry import BACK, BACKGROUND, FAR, PANE
from .mesh import DIRECTION, LAYER
from .nodes import Graph

CONTROLS = "Controls"
PREVIEW = "Map"
INVERSE_DEPTH = "Inverse Depth"
# Nodes whose second operand depends on the images.
POLES, GAIN = "Poles", "Source Gain"
# A custom property: the names of the nodes that a group was made with.
_MADE = "omnix_nodes"

# Length of the mean of two unit vectors 36 degrees apart.
_ONE_SURFACE = 0.95


@dataclass(frozen=True)
class _Control:
    default: float
    maximum: float
    description: str


_CONTROLS = {
    "Relit": _Control(
        0.0, 1.0, "0 shows the panorama's own light, 1 shades the surface under the scene's lights"
    ),
    "Strength": _Control(1.0, 100.0, "Strength of the panorama's light, as in the world's nodes"),
    "Original in Albedo": _Control(
        0.0, 1.0, "Mixes the picture, with its shadows, into the base colour"
    ),
    "Roughness Gain": _Control(1.0, 4.0, "Factor on the roughness map"),
    "Metallic Gain": _Control(1.0, 4.0, "Factor on the metallic map"),
    "Normal Strength": _Control(1.0, 2.0, "0 shades with the mesh, 1 with the normal map"),
    "Emission Strength": _Control(1.0, 100.0, "Factor on lamps and windows when relit"),
    "Preview": _Control(0.0, 1.0, "1 shows one of the maps without light"),
}


LABELS = tuple(_CONTROLS)


def surface_group(
    name: str, textures: Mapping[str, bpy.types.Image], *, source_gain: float = 1.0
) -> bpy.types.NodeTree:
    """The node group that shades a place.

    `textures` are maps by name, and `source`, the panorama whose radiance, times `source_gain`, is
    the original light. Where a map is missing the Principled BSDF keeps its default.
    """
    tree = bpy.data.node_groups.new(name, "ShaderNodeTree")
    for label, control in _CONTROLS.items():
        socket = tree.interface.new_socket(label, in_out="INPUT", socket_type="NodeSocketFloat")
        socket.subtype = "FACTOR" if control.maximum == 1.0 else "NONE"
        socket.min_value, socket.max_value = 0.0, control.maximum
        socket.default_value = control.default
        socket.description = control.description
    tree.interface.new_socket("Surface", in_out="OUTPUT", socket_type="NodeSocketShader")
    graph = Graph(tree)
    inputs = graph.add("NodeGroupInput").outputs

    attribute = graph.add("ShaderNodeAttribute", attribute_name=DIRECTION)
    direction = _away_from_poles(graph, attribute.outputs["Vector"])
    colours = {name: _texture(graph, direction, image, name) for name, image in textures.items()}
    if "emission" in textures:
        colours["emission"] = _own_emission(graph, direction, textures, colours["emission"])
    if "normal" in textures:
        colours["normal"] = _own_normal(graph, direction, textures["normal"], colours["normal"])

    principled = graph.add("ShaderNodeBsdfPrincipled", label="Relight")
    _shade(graph, principled, inputs, colours)
    original = graph.add("ShaderNodeEmission", label="Original Light")
    graph.link(colours["source"], original.inputs["Color"])
    strength = graph.math("MULTIPLY", inputs["Strength"])
    strength.node.name = strength.node.label = GAIN
    graph.link(strength, original.inputs["Strength"])
    preview = graph.add("ShaderNodeEmission", name=PREVIEW, label=PREVIEW)
    surface = graph.math("GREATER_THAN", colours["depth"], 0.0)
    inverse = graph.math("DIVIDE", surface, graph.math("ADD", colours["depth"], 1.0))
    inverse.node.name = inverse.node.label = INVERSE_DEPTH
    graph.link(colours.get("albedo", inverse), preview.inputs["Color"])

    lit = graph.mix_shader(inputs["Relit"], original.outputs[0], principled.outputs[0])
    shown = graph.mix_shader(inputs["Preview"], lit, preview.outputs[0])
    graph.link(shown, graph.add("NodeGroupOutput").inputs["Surface"])
    graph.arrange()
    tree[_MADE] = "\n".join(tree.nodes.keys())
    fit(tree, textures, source_gain=source_gain)
    return tree


def is_made_for(surface: bpy.types.NodeTree, names: Collection[str]) -> bool:
    """Whether a group shows just the maps `names`, and none of its nodes and images was deleted."""
    made = surface.get(_MADE, "").split("\n")
    nodes = [surface.nodes.get(name) for name in made]
    # Other nodes than textures have no image to lose.
    whole = None not in nodes and all(getattr(node, "image", True) for node in nodes)
    return whole and set(maps.MAPS).intersection(made) == set(names)


def fit(
    surface: bpy.types.NodeTree,
    textures: Mapping[str, bpy.types.Image],
    *,
    source_gain: float,
) -> None:
    """Fit a group to images that are about to supersede those of its maps: the original light, and
    what depends on `source_gain` and on the images' size."""
    surface.nodes["source"].image = textures["source"]
    # Of an image whose file is gone nothing is known.
    rows = min((image.size[1] for image in textures.values() if image.size[1]), default=1024)
    steepest = math.tan(math.pi / 2 - math.pi / (2 * rows))
    for name, value in ((POLES, steepest), (GAIN, source_gain)):
        surface.nodes[name].inputs[1].default_value = value


def _away_from_poles(graph: Graph, vector):
    """The vector with its elevation held half a pixel of the smallest image off the poles.

    Within that half pixel Cycles filters an environment texture across to the opposite pole: a
    ceiling lamp overhead would glow at one's feet.
    """
    flat = graph.length(graph.vector("MULTIPLY", vector, (1.0, 1.0, 0.0)))
    highest = graph.math("MULTIPLY", flat)
    highest.node.name = highest.node.label = POLES
    lowest = graph.math("MULTIPLY", highest, -1.0)
    x, y, z = graph.split(vector)
    z = graph.math("MAXIMUM", graph.math("MINIMUM", z, highest), lowest)
    return graph.vector("NORMALIZE", graph.join(x, y, z))


def _texture(graph: Graph, direction, image: bpy.types.Image, name: str):
    node = graph.add("ShaderNodeTexEnvironment", image=image, name=name)
    node.label = maps.MAPS[name].label if name in maps.MAPS else "Original Light"
    graph.link(direction, node.inputs["Vector"])
    return node.outputs["Color"]


def _own_emission(graph: Graph, direction, textures: Mapping[str, bpy.types.Image], seen):
    """What a face gives off: the emission of its very pixel, and none where that shows the sky.

    Interpolated, the sky would reach half a pixel onto the frame of its window, and a small lamp
    onto the wall far behind it, where the same pixel is a larger lamp: enough to light a room.
    The background gives off nothing, or the lamp it continues would shine twice. The camera goes on
    seeing `seen`, which is smooth.
    """
    own = {name: _pixels(graph, direction, textures[name], name) for name in ("emission", "depth")}
    there = graph.math("GREATER_THAN", own["depth"], 0.0)
    solid = graph.math("MULTIPLY", there, graph.math("LESS_THAN", own["depth"], FAR))
    layer = _layer(graph)
    gives = graph.math("MULTIPLY", solid, graph.math("LESS_THAN", layer, BACKGROUND - 0.5))
    given = graph.vector("SCALE", own["emission"], scale=gives)
    camera = graph.add("ShaderNodeLightPath").outputs["Is Camera Ray"]
    return graph.mix_colour(camera, given, seen)


def _own_normal(graph: Graph, direction, image: bpy.types.Image, seen):
    """The stored normal at a face: between two surfaces that of its very pixel.

    Interpolated there, it would face neither way: the corner of a room and the rim of a column
    become a bevel a pixel wide, which shines in whatever lamp it happens to face. Where pixels
    agree, the mean of their vectors is nearly of unit length, and `seen` is smooth.
    """
    own = _pixels(graph, direction, image, "normal")
    mean = graph.length(_decoded(graph, seen))
    return graph.mix_colour(graph.math("LESS_THAN", mean, _ONE_SURFACE), seen, own)


def _pixels(graph: Graph, direction, image: bpy.types.Image, name: str):
    """A map looked up without interpolation."""
    node = graph.add("ShaderNodeTexEnvironment", image=image, interpolation="Closest")
    node.label = f"{maps.MAPS[name].label}, Pixels"
    graph.link(direction, node.inputs["Vector"])
    return node.outputs["Color"]


def _decoded(graph: Graph, stored):
    """The vector of a normal map's colour."""
    return graph.vector("MULTIPLY_ADD", stored, (2.0, 2.0, 2.0), (-1.0, -1.0, -1.0))


def _layer(graph: Graph):
    """The layer of the shell that is shaded."""
    return graph.add("ShaderNodeAttribute", attribute_name=LAYER).outputs["Fac"]


def _shade(graph: Graph, principled: bpy.types.Node, inputs, colours: Mapping) -> None:
    """Feed the Principled BSDF from the maps there are."""
    sockets = principled.inputs
    # Blender's default is white, which would glow wherever there is no emission map.
    sockets["Emission Color"].default_value = (0.0, 0.0, 0.0, 1.0)
    sockets["Emission Strength"].default_value = 1.0
    # A pane shows what is behind it and no reflection: at night it is black.
    pane = graph.math("COMPARE", _layer(graph), PANE, 0.5)
    graph.link(graph.math("MULTIPLY_ADD", pane, -0.5, 0.5), sockets["Specular IOR Level"])
    if "albedo" in colours:
        base = graph.mix_colour(
            inputs["Original in Albedo"], colours["albedo"], colours.get("panorama")
        )
        graph.link(base, sockets["Base Color"])
    for name, label in (("roughness", "Roughness"), ("metallic", "Metallic")):
        if name in colours:
            value = graph.math("MULTIPLY", colours[name], inputs[f"{label} Gain"], clamp=True)
            graph.link(value, sockets[label])
    if "normal" in colours:
        graph.link(_normal(graph, colours["normal"], inputs["Normal Strength"]), sockets["Normal"])
    if "emission" in colours:
        strength = graph.math("MULTIPLY", inputs["Emission Strength"], inputs["Strength"])
        graph.link(
            graph.vector("SCALE", colours["emission"], scale=strength), sockets["Emission Color"]
        )


def _normal(graph: Graph, stored, strength):
    """World-space normal from a map in the capture frame.

    The vector goes straight into the shader: a Normal Map node would negate it on back faces.
    """
    decoded = _decoded(graph, stored)
    # By the transposed inverse, as normals go; a node of the type Normal does that in Cycles alone.
    mapped = graph.join(*(graph.dot(decoded, _world_axis(graph, axis)) for axis in range(3)))
    mapped = graph.vector("NORMALIZE", mapped)
    facet = graph.add("ShaderNodeNewGeometry").outputs["Normal"]
    # The map tells nothing of the back of a thing.
    back = graph.math("COMPARE", _layer(graph), BACK, 0.5)
    strength = graph.math("MULTIPLY", strength, graph.math("SUBTRACT", 1.0, back))
    mixed = graph.add("ShaderNodeMix", data_type="VECTOR", clamp_factor=False)
    # Sockets by index: a Mix node repeats its names for every data type.
    for index, socket in ((0, strength), (4, facet), (5, mapped)):
        graph.link(socket, mixed.inputs[index])
    return graph.vector("NORMALIZE", mixed.outputs[1])


def _world_axis(graph: Graph, axis: int):
    """One of the world's axes as a vector of the object's."""
    turn = graph.add(
        "ShaderNodeVectorTransform", vector_type="VECTOR", convert_from="WORLD", convert_to="OBJECT"
    )
    turn.inputs["Vector"].default_value = [float(axis == number) for number in range(3)]
    return turn.outputs["Vector"]


def controls_group(name: str, surface: bpy.types.NodeTree) -> bpy.types.NodeTree:
    """The group around the one node whose inputs are a place's controls."""
    tree = bpy.data.node_groups.new(name, "ShaderNodeTree")
    tree.interface.new_socket("Surface", in_out="OUTPUT", socket_type="NodeSocketShader")
    graph = Graph(tree)
    node = graph.add("ShaderNodeGroup", node_tree=surface, name=CONTROLS, label=CONTROLS)
    graph.link(node.outputs["Surface"], graph.add("NodeGroupOutput").inputs["Surface"])
    graph.arrange()
    return tree


def material(name: str, group: bpy.types.NodeTree, *, lamp: bool) -> bpy.types.Material:
    """A material that shows a Controls group; `lamp`: Cycles samples its faces as lamps."""
    result = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0):
        result.use_nodes = True
    result.node_tree.nodes.clear()
    graph = Graph(result.node_tree)
    node = graph.add("ShaderNodeGroup", node_tree=group)
    graph.link(node.outputs["Surface"], graph.add("ShaderNodeOutputMaterial").inputs["Surface"])
    graph.arrange()
    result.use_backface_culling = True
    result.cycles.emission_sampling = "FRONT" if lamp else "NONE"
    return result


def control(group: bpy.types.NodeTree, label: str) -> bpy.types.NodeSocket:
    """One control of a place: the socket whose `default_value` is set or drawn."""
    return group.nodes[CONTROLS].inputs[label]


def is_intact(group: bpy.types.NodeTree, surface: bpy.types.NodeTree) -> bool:
    """False where the user has deleted a node by which a place is controlled."""
    node = group.nodes.get(CONTROLS)
    led = node is not None and getattr(node, "node_tree", None) == surface
    return led and set(LABELS) <= set(node.inputs.keys()) and PREVIEW in surface.nodes


def show_map(surface: bpy.types.NodeTree, name: str) -> None:
    """Choose the map that Preview shows; KeyError where the place has none of that name.

    Of the depth that is 1 / (1 + metres), and 0 for the sky: metres would all be white.
    """
    node = surface.nodes[INVERSE_DEPTH if name == "depth" else name]
    surface.links.new(node.outputs[0], surface.nodes[PREVIEW].inputs["Color"])


def shown_map(surface: bpy.types.NodeTree) -> str | None:
    """The map that Preview is set to; None where the user has unlinked it."""
    links = surface.nodes[PREVIEW].inputs["Color"].links
    name = links[0].from_node.name if links else None
    return "depth" if name == INVERSE_DEPTH else name

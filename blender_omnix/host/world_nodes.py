# SPDX-License-Identifier: GPL-3.0-or-later
"""How a world shows its panorama: what its nodes say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import bpy
from mathutils import Euler, Matrix, Vector

from ..errors import OmnixError

# What Mapping nodes may do besides turning before it counts as doing it.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Dial:
    """The value of a node's input, as a driver's variable points at it: `owner` and `path`.

    `inverse`: what is typed turns the picture, as in a Mapping node of type Texture, not the
    direction that is looked up.
    """

    owner: bpy.types.ID
    path: str
    inverse: bool = False


@dataclass(frozen=True)
class Showing:
    """How a world shows its panorama, `image`.

    `rotation` (Euler XYZ, radians) and `mirror` (1 or -1 for each axis) are what a Mapping node of
    type Point would say, which scales first: from the direction seen to the one looked up.
    `strength` scales the radiance. `turned_by` and `strengthened_by` are the single inputs that set
    them, None where there is none or where several act together: then there is nothing that could
    be followed.
    """

    image: bpy.types.Image
    rotation: tuple[float, float, float]
    mirror: tuple[float, float, float]
    strength: float
    turned_by: Dial | None
    strengthened_by: Dial | None
    notes: tuple[str, ...]


def showing(world: bpy.types.World | None) -> Showing:
    """How the world turns its panorama, and its strength.

    Raises OmnixError where it shows no image, or one that is not equirectangular.
    """
    (*shaders, node), *others = _paths_to_environments(world)
    rotation, mirror, turned_by, rotation_notes = _rotation(world, node)
    strength, strengthened_by, strength_notes = _strength(world, shaders)
    notes = (
        *rotation_notes,
        *strength_notes,
        *_colour_notes(shaders),
        *_other_notes(node.image, [other.image for *_, other in others]),
    )
    return Showing(node.image, rotation, mirror, strength, turned_by, strengthened_by, notes)


def _paths_to_environments(world: bpy.types.World | None) -> list[list[bpy.types.Node]]:
    """Nodes from the world's output upstream to each environment texture with an image.

    Raises OmnixError where there is none, or the first is not equirectangular.
    """
    advice = "give it an Environment Texture, or choose an image or a file as the source"
    if world is None:
        raise OmnixError(f"The scene has no world; {advice}.")
    # From 5.0 on a world always uses nodes, and asking warns.
    uses_nodes = bpy.app.version >= (5, 0, 0) or world.use_nodes
    # Each is that of all engines, where the world has none for this one.
    outputs = map(world.node_tree.get_output_node, ("CYCLES", "EEVEE")) if uses_nodes else ()
    upstream = (_paths(output, (), set()) for output in outputs if output is not None)
    paths = list(itertools.chain.from_iterable(upstream))
    if not paths:
        raise OmnixError(f"The world {world.name} has no environment image; {advice}.")
    if paths[0][-1].projection != "EQUIRECTANGULAR":
        raise OmnixError(
            f"The environment texture of the world {world.name} is a mirror ball; "
            "only equirectangular panoramas can be extracted."
        )
    return paths


def _paths(
    node: bpy.types.Node, before: tuple[bpy.types.Node, ...], seen: set[bpy.types.Node]
) -> Iterator[list[bpy.types.Node]]:
    """Depth-first, inputs in order: every path from `node` to an environment with an image.

    Nodes that pass through what they are given (see `_passed`) are not among its nodes.
    """
    if node in seen:
        return
    seen.add(node)
    passed = _passed(node)
    if passed is not None:
        for link in _links(passed):
            yield from _paths(link.from_node, before, seen)
        return
    path = (*before, node)
    if node.bl_idname == "ShaderNodeTexEnvironment" and node.image is not None:
        yield list(path)
    if node.bl_idname == "ShaderNodeGroup" and node.node_tree is not None:
        for inner in node.node_tree.nodes:
            if inner.bl_idname == "NodeGroupOutput" and inner.is_active_output:
                yield from _paths(inner, path, seen)
    for link in _links(node.inputs):
        yield from _paths(link.from_node, path, seen)


def _passed(node: bpy.types.Node) -> list[bpy.types.NodeSocket] | None:
    """The inputs that a node passes through as they are, and nothing else: if it is muted, or mixes
    with a typed factor of 0 or 1. None for any other node."""
    if node.mute:
        return [passed.from_socket for passed in node.internal_links]
    if node.bl_idname == "ShaderNodeMixShader":
        factor, *mixed = node.inputs
    elif node.bl_idname == "ShaderNodeMix" and node.data_type == "RGBA" and not node.clamp_result:
        factor, *mixed = (s for s in node.inputs if s.identifier in _MIX_OF_COLOURS)
    else:
        return None
    if _link(factor) is not None or factor.default_value not in (0.0, 1.0):
        return None
    if factor.default_value == 1.0 and getattr(node, "blend_type", "MIX") != "MIX":
        return None
    return [mixed[int(factor.default_value)]]


_MIX_OF_COLOURS = ("Factor_Float", "A_Color", "B_Color")


def signs(scale: Iterable[float]) -> tuple[float, ...]:
    """1 or -1 for each axis: what a scale mirrors."""
    return tuple(math.copysign(1.0, value) for value in scale)


def _rotation(
    world: bpy.types.World, node: bpy.types.Node
) -> tuple[tuple[float, ...], tuple[float, ...], Dial | None, list[str]]:
    """How the nodes before an environment texture turn the direction that is looked up.

    Returns Euler XYZ, the axes that are mirrored before (see `Showing`), the input that sets the
    turn, and notes that name what is neither and so not followed.
    """
    lookup, mirror = Matrix.Identity(3), Vector((1.0, 1.0, 1.0))
    turning = []
    notes = []
    by_object = None
    link = _link(node.inputs["Vector"])
    while link is not None:
        upstream = link.from_node
        if upstream.mute:
            link = next(_links(passed.from_socket for passed in upstream.internal_links), None)
            continue
        if upstream.bl_idname == "ShaderNodeTexCoord":
            by_object, coordinate_notes = _coordinates(upstream, link.from_socket.identifier)
            lookup = lookup if by_object is None else lookup @ by_object
            notes += coordinate_notes
            break
        if upstream.bl_idname not in {"ShaderNodeMapping", "NodeReroute"}:
            notes.append(
                f"The world's node {upstream.name} also moves the panorama; "
                "the place does not follow it."
            )
            break
        if upstream.bl_idname == "ShaderNodeMapping":
            turn, mirrored, turn_notes = _mapping(upstream)
            lookup = lookup @ turn
            mirror *= mirrored
            turning.append(upstream)
            notes += turn_notes
        link = _link(upstream.inputs[0])
    turned_by = None
    if len(turning) > 1:
        names = " and ".join(mapping.name for mapping in turning)
        notes.append(
            f"The world's nodes {names} turn the panorama together; "
            "the place has their rotation, and does not follow when it changes."
        )
    elif turning and by_object is None and _link(turning[0].inputs["Rotation"]) is None:
        (mapping,) = turning
        inverse = mapping.vector_type == "TEXTURE"
        turned_by = _dial(world, mapping.inputs["Rotation"], inverse=inverse)
    turn = lookup @ Matrix.Diagonal(mirror)
    return tuple(turn.to_euler("XYZ")), tuple(mirror), turned_by, notes


def _coordinates(node: bpy.types.Node, socket: str) -> tuple[Matrix | None, list[str]]:
    """The rotation that an object gives the coordinates of a world, and notes."""
    if socket == "Object" and node.object is not None:
        place, turn, scale = node.object.matrix_world.decompose()
        also = place.length > _TOLERANCE or max(abs(s - 1.0) for s in scale) > _TOLERANCE
        return turn.to_matrix().inverted(), [
            f"The object {node.object.name} turns the world's panorama; the place has that "
            "rotation, and does not follow when it changes.",
            *([f"{node.object.name} also shifts or scales the panorama."] if also else []),
        ]
    if socket not in {"Generated", "Object"}:
        return None, [
            f"The world's panorama is looked up by {socket} coordinates; the place takes them for "
            "Generated."
        ]
    return None, []


def _dial(world: bpy.types.World, socket: bpy.types.NodeSocket, *, inverse: bool = False) -> Dial:
    """The value of an unlinked input of the world's nodes, or of a group among them."""
    tree, path = socket.id_data, socket.path_from_id("default_value")
    if tree == world.node_tree:
        # The world's own nodes belong to it; a driver cannot point at their tree.
        return Dial(world, f"node_tree.{path}", inverse)
    return Dial(tree, path, inverse)


def _mapping(node: bpy.types.Node) -> tuple[Matrix, Vector, list[str]]:
    """What a Mapping node applies to the lookup, but for its size; the axes that it mirrors, and
    notes on what else it does."""
    notes = []
    scale = node.inputs["Scale"].default_value
    sizes = [abs(value) for value in scale]
    scaled = max(sizes) - min(sizes) > _TOLERANCE or not any(sizes)
    # The other types turn directions alone and have no such socket.
    moved = node.vector_type in {"POINT", "TEXTURE"} and any(
        abs(x) > _TOLERANCE for x in node.inputs["Location"].default_value
    )
    if scaled or moved:
        notes.append(
            f"The world's node {node.name} also shifts or scales the panorama; the place does not "
            "follow that."
        )
    if min(signs(scale)) < 0:
        notes.append(
            f"The world's node {node.name} mirrors the panorama; the place is mirrored too, and "
            "does not follow when that changes."
        )
    if _link(node.inputs["Rotation"]) is not None:
        notes.append(
            f"The rotation of the world's node {node.name} comes from other nodes; "
            "the place uses the value typed into it."
        )
    turn = Euler(node.inputs["Rotation"].default_value, "XYZ").to_matrix()
    mirror = Matrix.Diagonal(signs(scale))
    # The type Texture applies the inverse of what is typed.
    lookup = mirror @ turn.transposed() if node.vector_type == "TEXTURE" else turn @ mirror
    return lookup, Vector(signs(scale)), notes


def _links(sockets: Iterable[bpy.types.NodeSocket]) -> Iterator[bpy.types.NodeLink]:
    """What is plugged into inputs and not muted."""
    return (link for socket in sockets for link in socket.links if not link.is_muted)


def _link(socket: bpy.types.NodeSocket) -> bpy.types.NodeLink | None:
    return next(_links([socket]), None)


def _strength(
    world: bpy.types.World, shaders: list[bpy.types.Node]
) -> tuple[float, Dial | None, list[str]]:
    """The strength of the Background node among the nodes downstream of the texture."""
    for node in shaders:
        if node.bl_idname == "ShaderNodeBackground":
            socket = node.inputs["Strength"]
            if _link(socket) is not None:
                return 1.0, None, ["The strength of the world comes from other nodes; 1 was used."]
            return socket.default_value, _dial(world, socket), []
    return 1.0, None, []


def _colour_notes(shaders: list[bpy.types.Node]) -> list[str]:
    """Notes on the nodes between the texture and the world's output that change what is seen."""
    return [
        f"The world's node {node.name} also changes the panorama; the place does not follow it."
        for node in shaders
        if node.bl_idname not in _PASSING
    ]


def _other_notes(taken: bpy.types.Image, others: Iterable[bpy.types.Image]) -> list[str]:
    """A note where a world shows other images, too."""
    names = dict.fromkeys(image.name for image in others if image != taken)
    if not names:
        return []
    return [f"The world also shows {', '.join(names)}; {taken.name} alone was taken."]


_PASSING = {
    "ShaderNodeOutputWorld",
    "ShaderNodeBackground",
    "ShaderNodeGroup",
    "NodeGroupInput",
    "NodeGroupOutput",
    "NodeReroute",
}

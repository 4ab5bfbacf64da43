# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing node trees: add, link, and the operations that shading and geometry share."""

from __future__ import annotations

import bpy


class Graph:
    """Adds and links the nodes of one tree."""

    def __init__(self, tree: bpy.types.NodeTree) -> None:
        self.tree = tree

    def add(self, kind: str, **settings) -> bpy.types.Node:
        node = self.tree.nodes.new(kind)
        for key, value in settings.items():
            setattr(node, key, value)
        return node

    def link(self, source, target) -> None:
        self.tree.links.new(source, target)

    def feed(self, socket, value) -> None:
        """Link `value` to an input where it is an output, else set the input to it."""
        if isinstance(value, bpy.types.NodeSocket):
            self.link(value, socket)
        else:
            socket.default_value = value

    def vector(self, operation: str, *operands, scale=None):
        node = self.add("ShaderNodeVectorMath", operation=operation)
        for socket, value in zip(node.inputs, operands, strict=False):
            self.feed(socket, value)
        if scale is not None:
            self.feed(node.inputs["Scale"], scale)
        return node.outputs["Vector"]

    def length(self, vector):
        node = self.add("ShaderNodeVectorMath", operation="LENGTH")
        self.link(vector, node.inputs[0])
        return node.outputs["Value"]

    def dot(self, a, b):
        node = self.add("ShaderNodeVectorMath", operation="DOT_PRODUCT")
        self.link(a, node.inputs[0])
        self.link(b, node.inputs[1])
        return node.outputs["Value"]

    def math(self, operation: str, *operands, clamp: bool = False):
        node = self.add("ShaderNodeMath", operation=operation, use_clamp=clamp)
        for socket, value in zip(node.inputs, operands, strict=False):
            self.feed(socket, value)
        return node.outputs[0]

    def split(self, vector):
        """The three components of a vector."""
        node = self.add("ShaderNodeSeparateXYZ")
        self.link(vector, node.inputs[0])
        return tuple(node.outputs)

    def join(self, x, y, z):
        """The vector of three components."""
        node = self.add("ShaderNodeCombineXYZ")
        for socket, value in zip(node.inputs, (x, y, z), strict=True):
            self.feed(socket, value)
        return node.outputs[0]

    def mix_colour(self, factor, a, b):
        if b is None:
            return a
        node = self.add("ShaderNodeMix", data_type="RGBA")
        for index, socket in ((0, factor), (6, a), (7, b)):
            self.link(socket, node.inputs[index])
        return node.outputs[2]

    def mix_shader(self, factor, a, b):
        node = self.add("ShaderNodeMixShader")
        for socket, value in zip(node.inputs, (factor, a, b), strict=True):
            self.link(value, socket)
        return node.outputs[0]

    def arrange(self) -> None:
        """Columns from left to right by distance from the output."""
        depth: dict[bpy.types.Node, int] = {}

        def visit(node: bpy.types.Node, level: int) -> None:
            if depth.get(node, -1) >= level:
                return
            depth[node] = level
            for socket in node.inputs:
                for link in socket.links:
                    visit(link.from_node, level + 1)

        for node in self.tree.nodes:
            if not any(socket.links for socket in node.outputs):
                visit(node, 0)
        rows: dict[int, int] = {}
        for node, level in depth.items():
            node.location = (-300 * level, -320 * rows.get(level, 0))
            rows[level] = rows.get(level, 0) + 1

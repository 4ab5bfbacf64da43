# SPDX-License-Identifier: GPL-3.0-or-later
"""Procedural places, rooms and outdoors, built as Blender scenes from a seed."""

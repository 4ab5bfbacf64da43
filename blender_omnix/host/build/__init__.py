# SPDX-License-Identifier: GPL-3.0-or-later
"""From a map set to a place in Blender: images, geometry, material, placement."""

# SPDX-License-Identifier: GPL-3.0-or-later
"""Equirectangular panoramas in plain numpy: frames, exposure, resampling, seams, scale, lights.

Arrays are (H, W) or (H, W, C), float32, width = 2 x height, row 0 at the top. The image centre
looks along +X, +Y lies at u = 0.25 and +Z is up: Blender's Environment Texture.
"""

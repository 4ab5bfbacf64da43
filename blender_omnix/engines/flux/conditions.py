# SPDX-License-Identifier: GPL-3.0-or-later
"""The images a task is conditioned on, as the autoencoder takes them."""

from __future__ import annotations

import numpy as np
import torch

from ...panorama import frames


def rgb(panorama: np.ndarray) -> torch.Tensor:
    """sRGB-encoded (H, W, 3) in 0..1 to (1, 3, H, W) in -1..1."""
    return _to_tensor(panorama * 2 - 1)


def camera_rays(height: int, width: int) -> torch.Tensor:
    """Unit ray of each pixel in OmniX's frame (front +X, up +Y, left +Z): (1, 3, H, W)."""
    return _to_tensor(frames.omnix_from_blender(frames.directions(height, width)))


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image, np.float32)).permute(2, 0, 1)[None]

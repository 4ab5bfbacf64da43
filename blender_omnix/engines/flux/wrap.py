# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrap-around: an equirectangular image has no left and right border.

OmniX (arXiv 2510.26800, official code) appends the first columns on the right, lets the network see
them twice, and fades the two copies into one another.
"""

from __future__ import annotations

import torch


def cross_fade(outgoing: torch.Tensor, incoming: torch.Tensor, dim: int) -> torch.Tensor:
    """Linear fade along `dim`: position i of n holds outgoing (1 - i/n) + incoming (i/n)."""
    count = incoming.shape[dim]
    shape = [1] * incoming.ndim
    shape[dim] = count
    weight = torch.arange(count, device=incoming.device, dtype=torch.float32) / count
    weight = weight.view(shape).to(incoming.dtype)
    return outgoing * (1 - weight) + incoming * weight


def extend(image: torch.Tensor, columns: int) -> torch.Tensor:
    """Append the first `columns` of (..., H, W) on the right: (..., H, W + columns)."""
    return torch.cat([image, image[..., :columns]], dim=-1)


def blend(image: torch.Tensor, columns: int) -> torch.Tensor:
    """Fade the appended columns of an extended (..., H, W + columns) into the first ones.

    The appended columns themselves stay as they are.
    """
    appended = image[..., image.shape[-1] - columns :]
    head = cross_fade(appended, image[..., :columns], dim=-1)
    return torch.cat([head, image[..., columns:]], dim=-1)


def close(image: torch.Tensor, columns: int) -> torch.Tensor:
    """Blend an extended image a last time and crop it to its own width: (..., H, W)."""
    return blend(image, columns)[..., : image.shape[-1] - columns]

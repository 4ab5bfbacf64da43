# SPDX-License-Identifier: GPL-3.0-or-later
"""Losses per task, latitude-weighted. But for the sky's own, sky is left out, and but for the
PSNR of the albedo, object pixels are weighted up.

Predictions are what ``CompactNetwork.interpret`` yields, targets what ``dataset.sample`` does; all
are (B, C, H, W). The loss of a task is a scalar.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from blender_omnix.engines.compact.network import latitudes

OBJECT_WEIGHT = 2.0
METAL_WEIGHT = 8.0  # of a metal pixel, beyond that of any other
METAL_SHARE = 1.0  # of the loss
EDGE_RATIO = 0.15  # neighbours whose log depths differ by more are not one surface


def total(predicted: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weighted loss of each task; their sum is what training minimises."""
    return {
        "albedo": albedo(predicted["albedo"], target),
        "normal": normal(predicted["normal"], target),
        "pbr": pbr(predicted["roughness"], predicted["metallic"], target),
        "depth": depth(predicted["log_depth"], target) + 0.3 * sky(predicted["sky"], target),
    }


def area(target: dict[str, Tensor]) -> Tensor:
    """Solid angle x valid, (B, 1, H, W)."""
    valid = target["valid"]
    return latitudes(valid.shape[2], valid.device).cos()[None, None, :, None] * valid


def weights(target: dict[str, Tensor]) -> Tensor:
    """Area x (1 + OBJECT_WEIGHT on objects), (B, 1, H, W)."""
    return area(target) * (1.0 + OBJECT_WEIGHT * target["object"])


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the batch; values (B, C, H, W), weight (B, 1, H, W)."""
    return (values * weight).sum() / (weight.sum() * values.shape[1]).clamp(min=1e-6)


def gradient(error: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference of the error between neighbours, wrapping in u."""
    right, right_weight = error.roll(-1, 3), weight.roll(-1, 3)
    across = mean((right - error).abs(), torch.minimum(weight, right_weight))
    down = mean(
        (error[:, :, 1:] - error[:, :, :-1]).abs(),
        torch.minimum(weight[:, :, 1:], weight[:, :, :-1]),
    )
    return across + down


def albedo(predicted: Tensor, target: dict[str, Tensor]) -> Tensor:
    """L1 and gradients of the encoded colour, and the log MSE of each image over its area: its
    PSNR."""
    error = predicted - target["albedo"]
    weight, plain = weights(target), area(target)
    mse = (error.square() * plain).sum((1, 2, 3)) / (3 * plain.sum((1, 2, 3))).clamp(min=1e-6)
    return (
        2.0 * mean(error.abs(), weight) + gradient(error, weight) + 0.2 * (mse + 1e-3).log().mean()
    )


def normal(predicted: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Chord length between the unit vectors: steady near zero error, unlike the angle."""
    return mean(chord(predicted, target["normal"]), weights(target))


def chord(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b).square().sum(1, keepdim=True) + 1e-4).sqrt()


def depth(predicted: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Log depth: absolute in camera heights, relative once aligned at the median, gradients,
    normals."""
    weight = weights(target)
    error = predicted - target["log_depth"]
    aligned = error - _median(error.detach(), target["valid"])
    loss = 0.4 * mean(error.abs(), weight) + 0.6 * mean(relative(aligned), weight)
    for scale in (1, 2, 4):
        if scale > 1:
            pooled = F.avg_pool2d(weight, 2)
            error = F.avg_pool2d(error * weight, 2) / pooled.clamp(min=1e-6)
            weight = pooled
        loss = loss + 0.5 * gradient(error, weight)
    return loss + 0.3 * shape(predicted, target)


def relative(log_error: Tensor) -> Tensor:
    """Relative error of a depth whose logarithm is off by `log_error`; beyond e it grows like the
    logarithm. Too far costs more than too near: where it is unsure of a thing before a wall, the
    nearer answer is the better one."""
    return torch.expm1(log_error.clamp(max=1.0)).abs() + math.e * (log_error - 1.0).clamp(min=0.0)


def shape(log_depth: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Chord between the true normals and those of the predicted surface, away from its edges."""
    truth = target["log_depth"]
    across = (truth.roll(-1, 3) - truth.roll(1, 3)).abs()
    along = (truth[:, :, 2:] - truth[:, :, :-2]).abs()
    inner = target["valid"].roll(-1, 3) * target["valid"].roll(1, 3) * target["valid"]
    inner = inner[:, :, 1:-1] * target["valid"][:, :, 2:] * target["valid"][:, :, :-2]
    smooth = (across[:, :, 1:-1] < 2 * EDGE_RATIO) & (along < 2 * EDGE_RATIO)
    weight = weights(target)[:, :, 1:-1] * inner * smooth
    return mean(chord(surface_normals(log_depth), target["normal"][:, :, 1:-1]), weight)


def surface_normals(log_depth: Tensor) -> Tensor:
    """Normals of the surface at exp(log_depth) along each ray, gravity frame of each column.

    Central differences, so the first and last rows are missing: (B, 3, H - 2, W).
    """
    height, width = log_depth.shape[2:]
    distance = (log_depth - log_depth.mean((2, 3), keepdim=True)).clamp(-8, 8).exp()
    latitude = latitudes(height, distance.device)[:, None]
    cosine, sine = latitude.cos(), latitude.sin()
    step = 2 * math.pi / width
    inner = distance[:, :, 1:-1]
    right, left = inner.roll(-1, 3), inner.roll(1, 3)
    # From the left to the right neighbour (east, outward, up), and from the lower to the upper,
    # which are in one column: no east.
    east = (right + left) * (math.sin(step) * cosine[1:-1])
    east_outward = (right - left) * (math.cos(step) * cosine[1:-1])
    east_up = (right - left) * sine[1:-1]
    above, below = distance[:, :, :-2], distance[:, :, 2:]
    up_outward = above * cosine[:-2] - below * cosine[2:]
    up = above * sine[:-2] - below * sine[2:]
    cross = [east_outward * up - east_up * up_outward, -east * up, east * up_outward]
    return F.normalize(torch.cat(cross, 1), dim=1, eps=1e-12)


def pbr(roughness: Tensor, metallic: Tensor, target: dict[str, Tensor]) -> Tensor:
    """L1 and gradients of the roughness; cross-entropy of the metal, metal pixels weighted up."""
    weight = weights(target)
    error = roughness.sigmoid() - target["roughness"]
    metal = F.binary_cross_entropy_with_logits(metallic, target["metallic"], reduction="none")
    return (
        1.5 * mean(error.abs(), weight)
        + 0.5 * gradient(error, weight)
        + METAL_SHARE * mean(metal, weight * (1.0 + METAL_WEIGHT * target["metallic"]))
    )


def sky(logit: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of the sky mask."""
    weight = latitudes(logit.shape[2], logit.device).cos()[None, None, :, None].expand_as(logit)
    truth = 1.0 - target["valid"]
    return mean(F.binary_cross_entropy_with_logits(logit, truth, reduction="none"), weight)


def _median(values: Tensor, valid: Tensor) -> Tensor:
    hidden = torch.where(valid > 0.5, values, torch.nan).flatten(1)
    return hidden.nanmedian(1).values.nan_to_num()[:, None, None, None]

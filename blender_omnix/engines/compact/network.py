# SPDX-License-Identifier: GPL-3.0-or-later
"""The compact network: a residual U-Net on the equirectangular grid.

One encoder serves all tasks. The decoder, from the bottleneck on, runs once per task with that
task's low-rank adapter active. Everything commutes with a yaw roll of the panorama: convolutions
pad explicitly around the sphere, the global context averages over azimuth, and the only position
fed in is the latitude. (Padding inside the convolutions would be lost on the ``lora_A`` that peft
creates, so they never pad.)

Tensors are (B, C, H, W) float32, width = 2 x height, row 0 at the top, H a multiple of 32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Channels each task's head yields. ``pbr`` = roughness, metallic; ``depth`` = log depth, sky.
TASKS: dict[str, int] = {"albedo": 3, "normal": 3, "pbr": 2, "depth": 2}

#: Channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size; the decoder ends at 1/2.
ENCODER_WIDTHS = (32, 64, 128, 256, 256)
DECODER_WIDTHS = (32, 64, 96, 160)
STRIDE = 32

Features = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

_LOGIT_MARGIN = 0.02
_NEAREST_SINE = 0.2


def pad_sphere(x: Tensor) -> Tensor:
    """Pads by one pixel: circular in u; over a pole the neighbour is half a turn away."""
    return _PadSphere.apply(x)


class _PadSphere(torch.autograd.Function):
    """Padding with its gradient in one pass: that of the slices would fill and add a tensor of the
    whole size for each of the four edges."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        x = torch.cat([x[:, :, :1].roll(half, -1), x, x[:, :, -1:].roll(half, -1)], 2)
        return torch.cat([x[..., -1:], x, x[..., :1]], 3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        half = (gradient.shape[-1] - 2) // 2
        inner = gradient[:, :, 1:-1, 1:-1].clone()
        inner[..., -1] += gradient[:, :, 1:-1, 0]
        inner[..., 0] += gradient[:, :, 1:-1, -1]
        for row in (0, -1):
            beyond = gradient[:, :, row, 1:-1].clone()
            beyond[..., -1] += gradient[:, :, row, 0]
            beyond[..., 0] += gradient[:, :, row, -1]
            inner[:, :, row] += beyond.roll(half, -1)
        return inner


def latitudes(height: int, device: torch.device) -> Tensor:
    """Latitude in radians of the pixel centres of each row, from the top: (H,) float32.

    Made on the device: a copy to a GPU would wait until all that it was given to do is done.
    """
    return math.pi * (0.5 - (torch.arange(height, device=device) + 0.5) / height)


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    """3 x 3 convolution of what `pad_sphere` padded; a plain Conv2d, which peft can adapt."""
    return nn.Conv2d(inputs, outputs, 3)


class Block(nn.Module):
    """Pre-activation residual block: norm, ReLU, convolution, twice; at first it changes nothing
    (Goyal et al. 2017, arXiv 1706.02677, section 5.1, of the last layer of a block)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = conv3(width, width)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = conv3(width, width)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(pad_sphere(F.relu(self.norm1(x))))
        return x + self.conv2(pad_sphere(F.relu(self.norm2(y))))


def blocks(width: int, count: int) -> nn.Sequential:
    """So many residual blocks in a row."""
    return nn.Sequential(*(Block(width) for _ in range(count)))


class Context(nn.Module):
    """Adds what the whole panorama and each circle of latitude hold; blind to azimuth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gather = nn.Conv2d(2 * width, width, 1)
        self.spread = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.mean(3, keepdim=True)
        whole = rows.mean(2, keepdim=True).expand_as(rows)
        return x + self.spread(F.relu(self.gather(torch.cat([rows, whole], 1))))


class Encoder(nn.Module):
    """Shared by all tasks and never adapted. Thin at the largest sizes, which keep the detail."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d, e = ENCODER_WIDTHS
        self.stem = conv3(14, a)
        self.level0 = blocks(a, 1)
        self.down1 = nn.Conv2d(a, b, 2, stride=2)
        self.level1 = blocks(b, 3)
        self.down2 = nn.Conv2d(b, c, 2, stride=2)
        self.level2 = blocks(c, 4)
        self.down3 = nn.Conv2d(c, d, 2, stride=2)
        self.level3 = blocks(d, 3)
        self.down4 = nn.Conv2d(d, e, 2, stride=2)
        self.level4 = blocks(e, 2)

    def forward(self, panorama: Tensor) -> Features:
        x = F.pixel_unshuffle(panorama - 0.5, 2)
        latitude = latitudes(x.shape[2], x.device).to(x)
        position = torch.stack([latitude.sin(), latitude.cos()])[None, :, :, None]
        x = torch.cat([x, position.expand(len(x), 2, *x.shape[2:])], 1)
        x0 = self.level0(F.relu(self.stem(pad_sphere(x))))
        x1 = self.level1(self.down1(x0))
        x2 = self.level2(self.down2(x1))
        x3 = self.level3(self.down3(x2))
        x4 = self.level4(self.down4(x3))
        return x0, x1, x2, x3, x4


class Up(nn.Module):
    """Twice the size by pixel shuffle, joined with the encoder's features of that size."""

    def __init__(self, inputs: int, skip: int, width: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inputs, 4 * width, 1)
        self.skip = nn.Conv2d(skip, width, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return F.pixel_shuffle(self.expand(x), 2) + self.skip(skip)


class Decoder(nn.Module):
    """From the bottleneck on; every convolution in it carries the task adapters."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d, e = ENCODER_WIDTHS
        f, g, h, i = DECODER_WIDTHS
        self.context = Context(e)
        self.bottleneck = Block(e)
        self.up3 = Up(e, d, i)
        self.level3 = Block(i)
        self.up2 = Up(i, c, h)
        self.level2 = Block(h)
        self.up1 = Up(h, b, g)
        self.level1 = blocks(g, 2)
        self.up0 = Up(g, a, f)
        self.level0 = Block(f)

    def forward(self, features: Features) -> Tensor:
        x0, x1, x2, x3, x4 = features
        x = self.bottleneck(self.context(x4))
        x = self.level3(self.up3(x, x3))
        x = self.level2(self.up2(x, x2))
        x = self.level1(self.up1(x, x1))
        return self.level0(self.up0(x, x0))


class Head(nn.Module):
    """One task's last convolution, at half size; pixel shuffle brings it to full size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, DECODER_WIDTHS[0])
        self.conv = conv3(DECODER_WIDTHS[0], 4 * channels)
        nn.init.zeros_(self.conv.bias)
        nn.init.normal_(self.conv.weight, std=1e-2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(pad_sphere(F.relu(self.norm(x)))), 2)


class CompactNetwork(nn.Module):
    """Encoder, decoder and one head per task; complete without adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.heads = nn.ModuleDict({task: Head(channels) for task, channels in TASKS.items()})

    def encode(self, panorama: Tensor) -> Features:
        """Features of an sRGB-encoded panorama (B, 3, H, W) in 0..1, shared by all tasks."""
        return self.encoder(panorama)

    def decode(self, features: Features, task: str, panorama: Tensor) -> dict[str, Tensor]:
        """The maps of `task`, with whichever adapter is active. See `interpret`."""
        return self.interpret(self.decoder(features), task, panorama)

    def interpret(self, hidden: Tensor, task: str, panorama: Tensor) -> dict[str, Tensor]:
        """The maps of `task` from the decoder's last features, each (B, C, H, W):

        albedo: ``albedo`` sRGB-encoded, 0..1. normal: ``normal``, unit, in the gravity-aligned
        frame (east, outward, up) of its column. pbr: ``roughness`` and ``metallic`` as logits.
        depth: ``log_depth``, the natural logarithm of the distance along the ray in camera
        heights, and ``sky`` as a logit.
        """
        raw = self.heads[task](hidden)
        if task == "albedo":
            seen = torch.logit(panorama.clamp(_LOGIT_MARGIN, 1 - _LOGIT_MARGIN))
            return {"albedo": torch.sigmoid(seen + raw)}
        latitude = latitudes(raw.shape[2], raw.device).to(raw)
        if task == "normal":
            viewer = torch.stack([torch.zeros_like(latitude), -latitude.cos(), -latitude.sin()])
            return {"normal": F.normalize(raw + viewer[None, :, :, None], dim=1)}
        if task == "pbr":
            return {"roughness": raw[:, :1], "metallic": raw[:, 1:]}
        # A level floor one camera height below lies at 1 / sin(-latitude).
        plane = -latitude.sin().abs().clamp(min=_NEAREST_SINE).log()
        return {"log_depth": raw[:, :1] + plane[None, None, :, None], "sky": raw[:, 1:]}


def adapted_modules(network: CompactNetwork) -> list[str]:
    """Names of the convolutions that every task adapter fills: all of the decoder's."""
    decoder = network.decoder.named_modules(prefix="decoder")
    return [name for name, module in decoder if isinstance(module, nn.Conv2d)]

# SPDX-License-Identifier: GPL-3.0-or-later
"""Good adapter files in every layout, made from the recorded one, and ways to spoil them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parent / "data" / "omnix-tiny"
MODEL = GOLDEN / "model"
ADAPTERS = GOLDEN / "adapters"
ADAPTER = ADAPTERS / "rgb_to_albedo" / "rgb" / "pytorch_lora_weights.safetensors"
PREFIX = "transformer."
WIDTH, HIDDEN, DOUBLE_BLOCKS, SINGLE_BLOCKS = 32, 128, 2, 3

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
PARTS = {
    "img_attn.qkv": QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "linear1": QKV,
}

Tensors = dict[str, torch.Tensor]

torch.set_num_threads(1)


def good() -> Tensors:
    """The recorded adapter, keys as published."""
    return load_file(ADAPTER)


def save(folder: Path, tensors: Mapping[str, torch.Tensor], **metadata: str) -> Path:
    file = folder / "adapter.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata or None)
    return file


def tiny_flux() -> torch.nn.Module:
    """The recorded model's transformer."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel.from_pretrained(MODEL / "transformer").eval()


def fused(rank: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensors:
    """A foreign adapter of the tiny model with fused projections, by BFL's names."""
    generator = torch.Generator().manual_seed(seed)

    def pair(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        a = torch.randn(rank, columns, generator=generator) / columns**0.5
        return a.to(dtype), torch.randn(rows, rank, generator=generator).to(dtype)

    tensors: Tensors = {}
    shapes = {
        "img_attn.qkv": (3 * WIDTH, WIDTH),
        "img_attn.proj": (WIDTH, WIDTH),
        "img_mlp.0": (HIDDEN, WIDTH),
        "img_mlp.2": (WIDTH, HIDDEN),
    }
    names = [
        (f"double_blocks.{i}.{name}", shape)
        for i in range(DOUBLE_BLOCKS)
        for name, shape in shapes.items()
    ]
    names += [
        (f"single_blocks.{i}.linear1", (3 * WIDTH + HIDDEN, WIDTH)) for i in range(SINGLE_BLOCKS)
    ]
    for name, shape in names:
        a, b = pair(*shape)
        if name.endswith("linear1"):
            b[3 * WIDTH :] = 0
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a, b
    return tensors


def kohya(tensors: Tensors, alpha: float | None) -> Tensors:
    """A fused adapter by Kohya's names, with the same alpha everywhere."""
    result: Tensors = {}
    for key, value in tensors.items():
        module, role = key.split(".lora_")
        stem = "lora_unet_" + module.replace(".", "_")
        result[f"{stem}.lora_{'down' if role[0] == 'A' else 'up'}.weight"] = value
        if alpha is not None:
            result[f"{stem}.alpha"] = torch.tensor(alpha)
    return result


def changes(tensors: Tensors) -> dict[str, torch.Tensor]:
    """(alpha / rank) B A in float64 by Diffusers' modules, written down independently of the
    package: the yardstick of every conversion."""
    result: dict[str, torch.Tensor] = {}
    for key, a in tensors.items():
        for role, other in (("lora_A", "lora_B"), ("lora_down", "lora_up")):
            if f".{role}." not in key:
                continue
            stem = key.split(f".{role}.")[0]
            b = tensors[key.replace(role, other)]
            alpha = float(tensors[f"{stem}.alpha"]) if f"{stem}.alpha" in tensors else len(a)
            delta = (alpha / len(a)) * (b.double() @ a.double())
            stem = stem.removeprefix(PREFIX).removeprefix("diffusion_model.")
            result |= _by_module(stem.removeprefix("lora_unet_"), delta)
    return result


def _by_module(name: str, delta: torch.Tensor) -> dict[str, torch.Tensor]:
    match = re.fullmatch(r"(double|single)_blocks[._](\d+)[._](.+)", name)
    if match is None:
        return {name: delta}
    parts = {key.replace("_", "."): value for key, value in PARTS.items()}[
        match[3].replace("_", ".")
    ]
    rows = delta[: 3 * WIDTH].split(WIDTH) if len(parts) == 3 else (delta,)
    blocks = "transformer_blocks" if match[1] == "double" else "single_transformer_blocks"
    return {f"{blocks}.{match[2]}.{p}": part for p, part in zip(parts, rows, strict=True)}

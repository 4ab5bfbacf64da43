# SPDX-License-Identifier: GPL-3.0-or-later
"""FLUX.1-dev's parts from a folder in Diffusers' layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

from ...adapters.header import read_headers
from ...adapters.loading import reading, require_complete
from ...errors import OmnixError

_PARTS = {
    "transformer": "config.json",
    "vae": "config.json",
    "scheduler": "scheduler_config.json",
}


@dataclass(frozen=True)
class Components:
    """What sampling needs; the prompt's embeddings come from `prompt`."""

    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    scheduler: FlowMatchEulerDiscreteScheduler


def check(weights: Path) -> None:
    """Raise OmnixError unless the folder has the parts, by their configuration files, and every
    file of weights in it is a sound safetensors file, by its header.

    Diffusers would take a configuration that is a text for the name of a model to download.
    """
    missing = [part for part, config in _PARTS.items() if not (weights / part / config).is_file()]
    if missing:
        raise OmnixError(
            f"{weights} is no folder of FLUX.1-dev weights: it lacks {', '.join(missing)}; choose "
            "the folder that holds transformer, vae and scheduler."
        )
    for part, config in _PARTS.items():
        file = weights / part / config
        try:
            sound = isinstance(json.loads(file.read_bytes()), dict)
        except (OSError, ValueError, RecursionError):
            sound = False
        if not sound:
            raise OmnixError(f"{file} is no JSON object; download it again.")
    for folder in sorted(path for path in weights.iterdir() if path.is_dir()):
        read_headers(folder)


def files(weights: Path) -> list[Path]:
    """What the parts are read from: configurations, indices and weights."""
    return [
        file
        for part in _PARTS
        for kind in ("json", "safetensors")
        for file in sorted((weights / part).glob(f"*.{kind}"))
    ]


def load(weights: Path, dtype: torch.dtype) -> Components:
    """Read the parts onto the CPU: the transformer in `dtype`, the autoencoder in float32.

    The autoencoder is small, and bfloat16 would leave depth and roughness with 8 bits.
    Raises OmnixError when a part is missing, damaged or incomplete, or memory is too small.
    """
    check(weights)
    return Components(
        transformer=_load_model(FluxTransformer2DModel, weights / "transformer", dtype),
        vae=_load_model(AutoencoderKL, weights / "vae", torch.float32),
        scheduler=_load_scheduler(weights / "scheduler"),
    )


def _load_scheduler(folder: Path) -> FlowMatchEulerDiscreteScheduler:
    with reading(folder):
        return FlowMatchEulerDiscreteScheduler.from_pretrained(folder, local_files_only=True)


def _load_model(model_class, folder: Path, dtype: torch.dtype):
    with reading(folder):
        model, info = model_class.from_pretrained(
            folder,
            torch_dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            use_safetensors=True,  # else a pickle would do
        )
    require_complete(folder, info)
    return model.eval().requires_grad_(False)


def store_in_fp8(transformer: FluxTransformer2DModel) -> None:
    """Keep the transformer's linears in 8-bit floats; each is widened while it computes. What the
    modulation is computed by, and adapters, keep their precision."""
    transformer.enable_layerwise_casting(
        torch.float8_e4m3fn,
        compute_dtype=transformer.dtype,
        skip_modules_pattern=(*DEFAULT_SKIP_MODULES_PATTERN, "time_text_embed", "lora_A", "lora_B"),
    )

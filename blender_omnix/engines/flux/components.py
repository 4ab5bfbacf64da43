# SPDX-License-Identifier: GPL-3.0-or-later
"""FLUX.1-dev's parts from a folder in Diffusers' layout."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

from ...adapters.header import read_headers
from ...adapters.loading import load_model, load_transformer, reading
from ...errors import OmnixError
from .pipeline import PATCH

_PARTS = {
    "transformer": "config.json",
    "vae": "config.json",
    "scheduler": "scheduler_config.json",
}
# What the sigmas are computed from, and what latents are scaled by: numbers.
_SHIFT = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
_SCALE = ("shift_factor", "scaling_factor")
# Anything else here would quietly be another schedule than FLUX.1-dev's.
_SCHEDULE = {
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
    "shift_terminal": None,
    "invert_sigmas": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "stochastic_sampling": False,
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
    Raises OmnixError when a part is missing, damaged, incomplete or unlike FLUX.1-dev's, and when
    memory is too small.
    """
    check(weights)
    parts = Components(
        transformer=load_transformer(weights / "transformer", dtype),
        vae=load_model(AutoencoderKL, weights / "vae", torch.float32),
        scheduler=_load_scheduler(weights / "scheduler"),
    )
    _require_fit(weights, parts)
    return parts


def _load_scheduler(folder: Path) -> FlowMatchEulerDiscreteScheduler:
    with reading(folder):
        return FlowMatchEulerDiscreteScheduler.from_pretrained(folder, local_files_only=True)


def _require_fit(weights: Path, parts: Components) -> None:
    """Raise OmnixError naming a configuration by which sampling would fail or go another way."""
    for part, config, keys in (
        ("scheduler", parts.scheduler.config, _SHIFT),
        ("vae", parts.vae.config, _SCALE),
    ):
        for key in keys:
            value = config[key]
            if type(value) not in (int, float) or not math.isfinite(value):
                _refuse(weights, part, f"has {key} = {value!r}, which is no number")
    flow = parts.scheduler.config
    for key, wanted in _SCHEDULE.items():
        if flow[key] != wanted:
            _refuse(weights, "scheduler", f"has {key} = {flow[key]!r}; FLUX.1-dev's is {wanted!r}")
    if flow.base_image_seq_len >= flow.max_image_seq_len:
        _refuse(weights, "scheduler", "has a base_image_seq_len not below its max_image_seq_len")
    image = parts.vae.config
    if image.scaling_factor == 0:
        _refuse(weights, "vae", "has scaling_factor = 0")
    if (image.in_channels, image.out_channels) != (3, 3):
        _refuse(weights, "vae", "describes an autoencoder of other than 3 channels")
    taken = parts.transformer.config.in_channels
    if parts.transformer.out_channels != taken or parts.transformer.config.patch_size != 1:
        _refuse(weights, "transformer", "describes a transformer whose output is unlike its input")
    if taken != image.latent_channels * PATCH**2:
        _refuse(
            weights,
            "vae",
            f"has {image.latent_channels} latent channels, which do not fit the transformer's "
            f"in_channels = {taken}",
        )


def _refuse(weights: Path, part: str, complaint: str) -> NoReturn:
    raise OmnixError(f"{weights / part / _PARTS[part]} {complaint}; download it again.")


def store_in_fp8(transformer: FluxTransformer2DModel) -> None:
    """Keep the transformer's linears in 8-bit floats; each is widened while it computes. What the
    modulation is computed by, and adapters, keep their precision."""
    transformer.enable_layerwise_casting(
        torch.float8_e4m3fn,
        compute_dtype=transformer.dtype,
        skip_modules_pattern=(*DEFAULT_SKIP_MODULES_PATTERN, "time_text_embed", "lora_A", "lora_B"),
    )

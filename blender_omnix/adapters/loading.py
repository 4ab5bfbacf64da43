# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of Diffusers and Transformers read from their folders: whole, or refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.utils import logging
from safetensors import SafetensorError

from ..errors import OmnixError, lacks_memory

# Diffusers and Transformers meet damaged files with whatever exception comes next.
_DAMAGE = (
    *(OSError, SafetensorError, ValueError, RuntimeError),
    *(LookupError, TypeError, AttributeError),
)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Tell of a failure to read one of a model's folders as an OmnixError that names it, and of too
    little memory as that."""
    try:
        yield
    except (*_DAMAGE, MemoryError) as error:
        if lacks_memory(error):
            raise OmnixError(
                f"This computer has too little memory to read {folder}; close other programs, or "
                "use a computer with more memory."
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OmnixError(f"{folder} cannot be read ({reason}); download it again.") from error


def require_complete(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise OmnixError where Diffusers or Transformers, by their `info` on the loading, would go on
    with random weights for tensors that are missing or of another shape."""
    lacking = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if lacking:
        raise OmnixError(
            f"{folder} is incomplete: {len(lacking)} tensors are missing or of another shape "
            f"({sorted(lacking)[0]}, ...); download it again."
        )


def load_model(model_class, folder: Path, dtype: torch.dtype):
    """One of Diffusers' models from its folder onto the CPU, in `dtype`, for inference.

    Raises OmnixError where it cannot be read or its tensors are not those of its config.json.
    """
    with reading(folder), _quiet():
        model, info = model_class.from_pretrained(
            folder,
            torch_dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            use_safetensors=True,  # else a pickle would do
        )
    require_complete(folder, info)
    if unused := sorted(info["unexpected_keys"]):
        raise OmnixError(
            f"{folder} holds {len(unused)} tensors that its config.json has no place for "
            f"({unused[0]}, ...); download it again."
        )
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Diffusers' log lines on what we refuse in a sentence."""
    earlier = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(earlier)


def load_transformer(folder: Path, dtype: torch.dtype) -> FluxTransformer2DModel:
    """A FLUX transformer. See `load_model`."""
    transformer = load_model(FluxTransformer2DModel, folder, dtype)
    config = transformer.config
    axes, width = config.axes_dims_rope, config.attention_head_dim
    # A position is three numbers, each turned into pairs of channels.
    if (
        not isinstance(axes, list | tuple)
        or len(axes) != 3
        or not all(type(axis) is int and axis > 0 and axis % 2 == 0 for axis in axes)
        or sum(axes) != width
    ):
        raise OmnixError(
            f"{folder / 'config.json'} has axes_dims_rope = {axes!r}, which are not three even "
            f"numbers with the sum of attention_head_dim = {width}; download it again."
        )
    return transformer

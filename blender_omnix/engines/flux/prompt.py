# SPDX-License-Identifier: GPL-3.0-or-later
"""The constant text prompt of the perception tasks, encoded once and cached."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...adapters.header import read_header
from ...adapters.loading import reading, require_complete
from ...errors import OmnixError

TEXT = "[EQUIRECTANGULAR]"
CACHE = "prompt_embeds.safetensors"
# Diffusers' names for the two tensors, so that a cached file can be exchanged with other tools.
TOKENS_KEY, POOLED_KEY = "prompt_embeds", "pooled_prompt_embeds"
T5_LENGTH = 512


@dataclass(frozen=True)
class Prompt:
    """Text embeddings: T5 tokens (1, T, C) and the pooled CLIP vector (1, P)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


def load(weights: Path, device: torch.device) -> Prompt:
    """The prompt's embeddings from the folder of FLUX weights.

    Reads the cached file where there is one; else encodes the prompt with the folder's CLIP and T5
    and caches it. Raises OmnixError when the folder has neither, or the file is of another length.
    """
    cache = weights / CACHE
    if cache.is_file():
        prompt = read(cache)
        if (length := prompt.tokens.shape[1]) != T5_LENGTH:
            raise OmnixError(
                f"{cache} holds {length} text tokens where OmniX takes {T5_LENGTH}, which would "
                "change the maps; delete it to have the prompt encoded again."
            )
        return prompt
    parts = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    missing = [part for part in parts if not (weights / part).is_dir()]
    if missing:
        raise OmnixError(
            f"{weights} has neither {CACHE} nor {', '.join(missing)}; add the cached prompt "
            "embeddings or the text encoders of FLUX.1-dev."
        )
    prompt = encode(weights, TEXT, device)
    if not (_sound(prompt.tokens, 3) and _sound(prompt.pooled, 2)):
        raise OmnixError(
            f"The text encoders in {weights} give no numbers for the prompt; download them again."
        )
    # Weights may lie in a read-only place; then the encoders just run again next time.
    with contextlib.suppress(OSError, SafetensorError):
        write(cache, prompt)
    return prompt


def read(file: Path) -> Prompt:
    """Embeddings from a safetensors file. Raises OmnixError when it does not hold them."""
    try:
        read_header(file)
        tensors = load_file(file)
        prompt = Prompt(tensors[TOKENS_KEY], tensors[POOLED_KEY])
    except (OSError, SafetensorError, KeyError, OmnixError):
        prompt = None
    if prompt is None or not (_sound(prompt.tokens, 3) and _sound(prompt.pooled, 2)):
        raise OmnixError(
            f"{file} does not hold {TOKENS_KEY} (1, T, C) and {POOLED_KEY} (1, P), finite numbers "
            "that are not all zero; delete it to have the prompt encoded again."
        )
    return prompt


def _sound(embedding: torch.Tensor, dimensions: int) -> bool:
    return (
        embedding.ndim == dimensions
        and len(embedding) == 1
        and embedding.is_floating_point()
        and bool(embedding.isfinite().all())
        and bool(embedding.any())
    )


def write(file: Path, prompt: Prompt) -> None:
    """Write embeddings so that a reader sees the whole file or none.

    Raises OSError or SafetensorError where that is not possible.
    """
    partial = file.with_suffix(".partial")
    tensors = {TOKENS_KEY: prompt.tokens, POOLED_KEY: prompt.pooled}
    save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, partial)
    partial.replace(file)


@torch.no_grad()
def encode(weights: Path, text: str, device: torch.device) -> Prompt:
    """Encode `text` with the folder's CLIP and T5 in bfloat16, one after the other.

    As Diffusers' FluxPipeline does: CLIP's pooled output, T5's last hidden states padded to 512
    tokens without a mask. Raises OmnixError naming the part that cannot be read.
    """
    from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

    def run(model_class, part: str, tokenizer_part: str, length: int | None):
        with reading(weights / tokenizer_part):
            # Left open, code that the folder names would be asked about on stdin, and run.
            tokenizer = AutoTokenizer.from_pretrained(
                weights / tokenizer_part, local_files_only=True, trust_remote_code=False
            )
        ids = tokenizer(
            text,
            padding="max_length",
            truncation=True,
            max_length=length or tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        with reading(weights / part):
            model, info = model_class.from_pretrained(
                weights / part,
                dtype=torch.bfloat16,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        require_complete(weights / part, info)
        return model.to(device).eval()(ids.to(device))

    pooled = run(CLIPTextModel, "text_encoder", "tokenizer", None).pooler_output
    tokens = run(T5EncoderModel, "text_encoder_2", "tokenizer_2", T5_LENGTH).last_hidden_state
    return Prompt(tokens, pooled)

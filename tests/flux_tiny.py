# SPDX-License-Identifier: GPL-3.0-or-later
"""The recorded set of the official code on a tiny model, as the flux tests use it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parent / "data" / "omnix-tiny"
MODEL = GOLDEN / "model"
ADAPTERS = GOLDEN / "adapters"


def make_weights(folder: Path) -> Path:
    """A folder of weights as the engine takes it: the tiny model with a prompt cached, the recorded
    one over and over up to the length that the engine wants."""
    shutil.copytree(MODEL, folder)
    inputs = load_file(GOLDEN / "inputs.safetensors")
    tokens = inputs["prompt_embeds"]
    prompt = {
        "prompt_embeds": np.tile(tokens, (1, 512 // tokens.shape[1], 1)),
        "pooled_prompt_embeds": inputs["pooled_prompt_embeds"],
    }
    save_file(prompt, folder / "prompt_embeds.safetensors")
    return folder


def watch(monkeypatch, *kinds: type) -> list[bool]:
    """Whether each `from_pretrained` of these classes from now on is kept to local files."""
    asked = []
    for kind in kinds:

        def noted(*arguments, genuine=kind.from_pretrained, **named):
            asked.append(named.get("local_files_only", False))
            return genuine(*arguments, **named)

        monkeypatch.setattr(kind, "from_pretrained", noted)
    return asked

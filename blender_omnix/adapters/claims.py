# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of an adapter beside its tensors, by which a loader would make more or less of them.

Diffusers and PEFT keep a LoraConfig in a file's metadata (`lora_adapter_metadata`), its keys behind
the name of the component that they are about; PEFT's own `save_pretrained` keeps it in an
adapter_config.json beside the file. Kohya's trainer notes `ss_network_alpha` and `ss_network_dim`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from . import layout
from .header import Header
from .values import FLOATS, scalar_bytes, scalar_of

METADATA = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"
MAX_CONFIG = 2**20  # PEFT writes about a kilobyte

# Ways to start training that take the start out of the base: the tensors go with what is left.
CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


def unborne(header: Header, scales: Collection[tuple[int, float]]) -> list[str]:
    """The claims that a file's tensors do not bear out, as `key = value`.

    `scales` has the rank of each low-rank pair and what its product is multiplied by.
    """
    claims = dict(header.metadata)
    config = _config(claims.pop(METADATA, "") or "{}")
    if isinstance(config, str):
        return [f"{METADATA} {config}"]
    found = _against(claims, header, scales)
    # A text encoder's are no concern of the transformer.
    for prefix in layout.PREFIXES:
        component = {
            key.removeprefix(prefix): value
            for key, value in config.items()
            if key.rpartition(".")[0] == prefix.removesuffix(".")
        }
        found += _against(component, header, scales)
    # Whatever the files are called by now: of several with PEFT's keys, any may be the one that
    # the configuration came with.
    file = header.file.with_name(PEFT_CONFIG)
    if any(key.startswith(layout.PEFT_PREFIX) for key in header.tensors) and file.is_file():
        config = _config(_text(file))
        if isinstance(config, str):
            return [*found, f"{PEFT_CONFIG} {config}"]
        found += [f"{claim} in {PEFT_CONFIG}" for claim in _against(config, header, scales)]
    return found


def _text(file: Path) -> bytes:
    """A file's contents up to just over the limit; nothing where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_CONFIG + 1)
    except OSError:
        return b""


def _config(text: str | bytes) -> dict[str, Any] | str:
    """A JSON object, or what it is instead."""
    if len(text) > MAX_CONFIG:
        return f"is larger than {MAX_CONFIG} bytes"
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return "is no JSON"
    return config if isinstance(config, dict) else "is no JSON object"


def _against(
    settings: Mapping[str, Any], header: Header, scales: Collection[tuple[int, float]]
) -> list[str]:
    """Those of one component's settings that the tensors do not bear out."""
    claims = {key: str(value) for key, value in settings.items()}
    found = []
    rank = _number(claims, "r", "rank", "ss_network_dim")
    for key in ("lora_alpha", "alpha", "network_alpha", "ss_network_alpha"):
        alpha = _number(claims, key)
        if alpha is None:
            continue
        alphas = _as_stored(alpha, header)
        if any(all(a / (rank or own) != scale for a in alphas) for own, scale in scales):
            found.append(f"{key} = {alpha:g}")
    for key in ("scale", "scaling", "lora_scale", "multiplier"):
        scale = _number(claims, key)
        if scale is not None and scale != 1:
            found.append(f"{key} = {scale:g}")
    for key in ("use_rslora", "use_dora", "lora_bias"):
        if not _nothing(claims.get(key, "")):
            found.append(f"{key} = true")
    for key in ("alpha_pattern", "rank_pattern"):
        if not _nothing(claims.get(key, "")):
            found.append(f"{key} = {claims[key][:60]}")
    start = claims.get("init_lora_weights", "")
    if start.lower().startswith(CHANGED_BASES):
        found.append(f"init_lora_weights = {start[:60]}")
    kind = claims.get("peft_type", "")
    if not _nothing(kind) and kind.rpartition(".")[2].upper() != "LORA":
        found.append(f"peft_type = {kind[:60]}")
    return found


def _nothing(text: str) -> bool:
    """Whether a setting is off or empty, however that is spelt."""
    return text.strip().lower() in ("", "0", "false", "no", "off", "none", "null", "{}", "[]")


def _as_stored(alpha: float, header: Header) -> set[float]:
    """An alpha as it is, and as the types of the file's alpha tensors hold it."""
    types = {entry.dtype for key, entry in header.tensors.items() if key.endswith(".alpha")}
    stored = {scalar_of(scalar_bytes(alpha, dtype), dtype) for dtype in types & FLOATS.keys()}
    return {alpha} | stored


def _number(claims: Mapping[str, str], *keys: str) -> float | None:
    for key in keys:
        try:
            return float(claims[key])
        except (KeyError, ValueError):
            continue
    return None

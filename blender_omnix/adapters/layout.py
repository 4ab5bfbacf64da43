# SPDX-License-Identifier: GPL-3.0-or-later
"""How adapter files name their tensors, and which modules of FLUX the OmniX adapters fill.

The first query projection in each format:

    peft     transformer.transformer_blocks.0.attn.to_q.lora_A.weight
    bfl      double_blocks.0.img_attn.qkv.lora_A.weight
    kohya    lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight, and .alpha

peft and bfl also come with another prefix or none. The change of a module's weight is
(alpha / rank) B A, with alpha = rank where none is given. A fused projection of bfl and kohya holds
its parts' rows of B one below the other (q, k, v and, in `linear1`, the MLP); they share A.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PEFT_PREFIX = "base_model.model."
PREFIXES = (PEFT_PREFIX, "diffusion_model.", "transformer.", "")
KOHYA_PREFIX = "lora_unet_"
PUBLISHED_PREFIX = "transformer."

ROLES = {
    "lora_A.weight": "a",
    "lora_down.weight": "a",
    "lora_B.weight": "b",
    "lora_up.weight": "b",
    "alpha": "alpha",
}

# Diffusers' modules behind each of BFL's, in the order of their rows; `transformer_blocks` are
# BFL's `double_blocks`, `single_transformer_blocks` its `single_blocks`.
DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
}
SINGLE = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}
MLP = "proj_mlp"
MLP_RATIO = 4

FLUX_DEV = {
    "num_layers": 19,
    "num_single_layers": 38,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
}


@dataclass(frozen=True)
class Format:
    """A file's naming: family `peft`, `bfl` or `kohya`, and the prefix of every module name."""

    family: str
    prefix: str

    def __str__(self) -> str:
        usual = {"peft": PUBLISHED_PREFIX, "bfl": "", "kohya": KOHYA_PREFIX}[self.family]
        if self.prefix == usual:
            return self.family
        return f"{self.family} ({self.prefix or 'no prefix'})"


@dataclass
class Pair:
    """Tensor names of one low-rank pair as the file has them; None for one that is absent."""

    module: str
    format: Format
    a: str | None = None
    b: str | None = None
    alpha: str | None = None

    @property
    def names(self) -> list[str]:
        return [key for key in (self.a, self.b, self.alpha) if key is not None]


def flux_modules(config: Mapping[str, int] = FLUX_DEV) -> dict[str, tuple[int, int]]:
    """The modules OmniX adapts in a FLUX transformer, each with its weight's (rows, columns).

    `config` is the transformer's config.json. FLUX.1-dev has 228: q, k, v of every block, and the
    attention output and both feed-forward layers of the double blocks.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    hidden = MLP_RATIO * width
    shapes = {"ff.net.0.proj": (hidden, width), "ff.net.2": (width, hidden)}
    double = [part for parts in DOUBLE.values() for part in parts]
    single = [part for parts in SINGLE.values() for part in parts if part != MLP]
    return {
        f"{blocks}.{i}.{part}": shapes.get(part, (width, width))
        for blocks, count, parts in (
            ("transformer_blocks", config["num_layers"], double),
            ("single_transformer_blocks", config["num_single_layers"], single),
        )
        for i in range(count)
        for part in parts
    }


def pairs(keys: Iterable[str], modules: Iterable[str] = ()) -> tuple[dict[str, Pair], list[str]]:
    """Sort tensor names into low-rank pairs; the second value lists names that belong to none.

    `modules` are the model's module names: a name that is one of them as it stands keeps what looks
    like a prefix. The pairs are keyed by the name before the role, prefix included.
    """
    modules = set(modules)
    found: dict[str, Pair] = {}
    others = []
    for key in keys:
        stem, role = _split(key)
        if role is None:
            others.append(key)
            continue
        if stem not in found:
            format, module = _format(stem, modules)
            found[stem] = Pair(module, format)
        if getattr(found[stem], role) is not None:  # both lora_A and lora_down
            others.append(key)
            continue
        setattr(found[stem], role, key)
    return found, others


def parts(pair: Pair) -> list[str] | None:
    """Diffusers' modules that a pair fills, in the order of its rows; None for one unknown."""
    if pair.format.family == "peft":
        return [pair.module]
    separator = "_" if pair.format.family == "kohya" else "."
    pattern = re.compile(
        rf"(double|single)_blocks{re.escape(separator)}(0|[1-9]\d*){re.escape(separator)}(.+)"
    )
    match = pattern.fullmatch(pair.module)
    if match is None:
        return None
    kind, index, rest = match.groups()
    names = {
        name.replace(".", separator): value
        for name, value in (DOUBLE if kind == "double" else SINGLE).items()
    }
    if rest not in names:
        return None
    blocks = "transformer_blocks" if kind == "double" else "single_transformer_blocks"
    return [f"{blocks}.{index}.{part}" for part in names[rest]]


def fused(module: str, format: Format) -> tuple[str, list[str]] | None:
    """The foreign module that holds one of Diffusers', and all the modules it holds, by rows.

    None for a module that OmniX adapters do not fill.
    """
    match = re.fullmatch(r"(single_)?transformer_blocks\.(0|[1-9]\d*)\.(.+)", module)
    if match is None:
        return None
    kind = "single" if match[1] else "double"
    for name, parts in (SINGLE if match[1] else DOUBLE).items():
        if match[3] in parts and match[3] != MLP:
            foreign = f"{kind}_blocks.{match[2]}.{name}"
            if format.family == "kohya":
                foreign = foreign.replace(".", "_")
            blocks = "single_transformer_blocks" if match[1] else "transformer_blocks"
            return foreign, [f"{blocks}.{match[2]}.{part}" for part in parts]
    return None


def row_ranges(parts: list[str], rows: int, columns: int) -> list[tuple[int, int]] | None:
    """Rows of B, (first, last + 1), of each part; None where they do not fit A's columns."""
    if len(parts) == 1:
        return [(0, rows)]
    if parts[-1].endswith("." + MLP):
        heights = [columns] * (len(parts) - 1) + [MLP_RATIO * columns]
    else:
        heights = [rows // len(parts)] * len(parts)
    if sum(heights) != rows:
        return None
    stops = [sum(heights[: i + 1]) for i in range(len(heights))]
    return [(stop - height, stop) for stop, height in zip(stops, heights, strict=True)]


def _split(key: str) -> tuple[str, str | None]:
    for suffix, role in ROLES.items():
        if key.endswith("." + suffix):
            return key[: -len(suffix) - 1], role
    return key, None


def _format(stem: str, modules: set[str]) -> tuple[Format, str]:
    if stem in modules:
        return Format("peft", ""), stem
    if stem.startswith(KOHYA_PREFIX):
        return Format("kohya", KOHYA_PREFIX), stem.removeprefix(KOHYA_PREFIX)
    prefix = next(prefix for prefix in PREFIXES if stem.startswith(prefix))
    module = stem.removeprefix(prefix)
    family = "bfl" if re.match(r"(double|single)_blocks\.", module) else "peft"
    return Format(family, prefix), module

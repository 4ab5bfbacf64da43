# SPDX-License-Identifier: GPL-3.0-or-later
"""Check adapters at a path, alone or in a base model: what `adapters check` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OmnixError
from . import find, layout
from .find import Found
from .header import Header, read_header
from .inspection import Inspection, inspect

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .effect import Effect
    from .inject import Injected

Shapes = Mapping[str, tuple[int, ...]]

# Metadata of a network beside its adapters: a JSON list of the modules that they fill.
ADAPTED = "adapted_modules"
# A mixed batch takes other kernels than single elements: what may differ, by the base's type.
ROUTING_TOLERANCE = {"F32": 1e-4, "F16": 1e-2, "BF16": 5e-2}
CONFIG_KEYS = ("num_layers", "num_single_layers", "num_attention_heads", "attention_head_dim")


@dataclass
class Checked:
    """All that is known of one adapter; `refusals` is empty when all is well.

    `routing_error` is the largest relative RMS difference between an element of its task's mixed
    batch and the adapter of that element run alone.
    """

    found: Found
    inspection: Inspection | None = None
    injected: Injected | None = None
    routing_error: float | None = None
    effect: Effect | None = None
    refusals: list[str] = field(default_factory=list)


def check(path: str | Path, base: str | Path | None = None) -> tuple[list[Checked], list[str]]:
    """Check the adapters at `path`, a file or a folder, and the set of them (the second value).

    `base` is a folder with `transformer/` (a config; with weights, outputs are measured too).
    Without it the modules come from a `base.safetensors` beside the adapters, or else are
    FLUX.1-dev's.
    Raises OmnixError where there is nothing to check or the base is unusable.
    """
    items = [Checked(found) for found in find.find(path)]
    remarks = find.incomplete([item.found for item in items]) if Path(path).is_dir() else []
    shapes = None if base is None else layout.flux_modules(transformer_config(base))
    for item in items:
        try:
            file = item.found.file
            item.inspection = inspect(file, _beside(file) if shapes is None else shapes)
            item.inspection.require()
        except OmnixError as error:
            item.refusals.append(str(error))
    if base is not None:
        _check_in_base(items, Path(base))
    return items, remarks


def transformer_config(base: str | Path) -> dict[str, Any]:
    """The FLUX transformer's config.json in `base`/transformer. Raises OmnixError."""
    file = Path(base) / "transformer" / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        sound = all(type(config[key]) is int and 0 < config[key] < 10**6 for key in CONFIG_KEYS)
    except OSError:
        raise OmnixError(
            f"{file} cannot be read; --base wants the folder that has transformer/ in it."
        ) from None
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise OmnixError(f"{file} does not describe a FLUX transformer; choose another base.")
    return config


def _beside(file: Path) -> Shapes:
    """What an adapter without a base must fill: by the network beside it, or FLUX.1-dev's."""
    beside = file.parent / find.BASE_NAME
    return network_modules(read_header(beside)) if beside.exists() else layout.flux_modules()


def network_modules(header: Header) -> dict[str, tuple[int, ...]]:
    """Modules that adapters fill in the network of a file, by its metadata."""
    try:
        names = json.loads(header.metadata[ADAPTED])
        return {str(name): header.tensors[f"{name}.weight"].shape for name in names}
    except (KeyError, ValueError, TypeError):
        raise OmnixError(
            f"{header.file} does not say which of its modules adapters fill; restore the file."
        ) from None


def _check_in_base(items: list[Checked], base: Path) -> None:
    """Inject each task's adapters together and measure them."""
    tasks: dict[str, list[Checked]] = {}
    for item in items:
        if not item.refusals:
            tasks.setdefault(item.found.task, []).append(item)
    if not tasks:
        return
    model, dtype = _load(base / "transformer")
    for group in tasks.values():
        try:
            _measure(model, dtype, group)
        except OmnixError as error:
            for item in group:
                item.refusals.append(str(error))


def _measure(model: nn.Module, dtype: str | None, group: list[Checked]) -> None:
    from .effect import effects
    from .inject import activate, inject, remove
    from .routing import routing_error

    # Not the files' own names: those may hold dots, or be words that torch reserves.
    names = [f"adapter_{i}" for i in range(len(group))]
    injected = inject(
        model, {name: item.found.file for name, item in zip(names, group, strict=True)}
    )
    try:
        for name, item in zip(names, group, strict=True):
            item.injected = injected[name]
        if dtype is None:
            return
        probe = _probe(model)

        def alone(name: str | None) -> Tensor:
            activate(model, name)
            return probe(1)

        measured = effects(alone, names)
        error = routing_error(model, probe, names)
        limit = ROUTING_TOLERANCE[dtype]
        for name, item in zip(names, group, strict=True):
            item.routing_error, item.effect = error, measured[name]
            if complaint := item.effect.complaint():
                item.refusals.append(f"The adapter {item.found.file} {complaint}.")
            # Rounding is no excuse for what could as well be another adapter's output.
            elif error > min(limit, item.effect.off / 4, (item.effect.swapped or limit) / 4):
                item.refusals.append(
                    f"The adapter {item.found.file}: in a mixed batch with the others of its task "
                    f"the output differs by {error:.2g} from that of each adapter alone."
                )
    finally:
        remove(model, names)


def _load(folder: Path) -> tuple[nn.Module, str | None]:
    """The transformer and its weights' type; without weights in the folder, on the meta device."""
    import torch
    from diffusers import FluxTransformer2DModel

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        config = FluxTransformer2DModel.load_config(folder)
        with torch.device("meta"):
            return FluxTransformer2DModel.from_config(config), None
    types = [entry.dtype for file in files for entry in read_header(file).tensors.values()]
    usual = max(set(types), key=types.count)
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if usual not in kinds:
        raise OmnixError(f"{folder} holds {usual} weights; use a base in F32, F16 or BF16.")
    try:
        model = FluxTransformer2DModel.from_pretrained(
            folder, torch_dtype=kinds[usual], local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise OmnixError(f"{folder} cannot be loaded ({error}).") from error
    return model.eval(), usual


def _probe(model: nn.Module) -> Callable[[int], Tensor]:
    """A forward pass on n equal elements of 4 x 8 image tokens and 4 text tokens, fixed noise."""
    import torch

    config: Any = model.config
    kind = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator).to(kind)

    image = noise(32, config.in_channels)
    text = noise(4, config.joint_attention_dim)
    pooled = noise(config.pooled_projection_dim)
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(8.0), indexing="ij")
    positions = torch.stack([torch.zeros(32), rows.flatten(), columns.flatten()], dim=1)

    @torch.inference_mode()
    def forward(n: int) -> Tensor:
        return model(
            hidden_states=image.expand(n, -1, -1),
            encoder_hidden_states=text.expand(n, -1, -1),
            pooled_projections=pooled.expand(n, -1),
            timestep=torch.full((n,), 0.5, dtype=kind),
            img_ids=positions,
            txt_ids=torch.zeros(4, 3),
            guidance=torch.full((n,), 3.5) if config.guidance_embeds else None,
        ).sample

    return forward

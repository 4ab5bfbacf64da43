# SPDX-License-Identifier: GPL-3.0-or-later
"""Adapters tried out in a FLUX transformer: injected, verified, routed, their effects measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from ..errors import OmnixError
from .effect import effects, nudged
from .header import read_headers
from .inject import activate, inject, remove
from .loading import load_transformer, reading
from .report import Measured
from .routing import routing_error

# A type's name in a file, its type in torch, and by how much a mixed batch may differ from single
# adapters when computed in it: the two ways through a module need not round alike.
TYPES = {
    "F32": (torch.float32, 1e-4),
    "F16": (torch.float16, 1e-2),
    "BF16": (torch.bfloat16, 5e-2),
}


class Trial:
    """A transformer to try adapters in; on the meta device where its folder holds no weights.

    `tolerance` bounds a sound routing error; None where outputs cannot be measured.
    """

    def __init__(self, folder: Path) -> None:
        """Load `folder`, a Diffusers transformer. Raises OmnixError where it cannot be."""
        self.model, self.tolerance = _load(folder)

    def run(self, files: Sequence[Path]) -> list[Measured]:
        """Inject the adapters of one task together, measure each, take them out again.

        Raises OmnixError where injection is refused.
        """
        # Not the files' own names: those may hold dots, or be words that torch reserves.
        names = [f"adapter_{i}" for i in range(len(files))]
        injected = inject(self.model, dict(zip(names, files, strict=True)))
        try:
            if self.tolerance is None:
                return [Measured(i.modules, i.tensors_equal) for i in injected.values()]
            probe = _probe(self.model)

            def alone(name: str | None) -> Tensor:
                activate(self.model, name)
                return probe(1)

            activate(self.model, None)
            found = effects(alone, names, probe(1, nudged))
            error = routing_error(self.model, probe, names)
            return [
                Measured(i.modules, i.tensors_equal, found[name].off, found[name].swapped, error)
                for name, i in injected.items()
            ]
        finally:
            remove(self.model, names)


def _load(folder: Path) -> tuple[nn.Module, float | None]:
    headers = read_headers(folder)
    if not headers:
        with reading(folder), torch.device("meta"):
            config = FluxTransformer2DModel.load_config(folder)
            return FluxTransformer2DModel.from_config(config), None
    types = [entry.dtype for header in headers for entry in header.tensors.values()]
    usual = max(set(types), key=types.count, default="no")
    if usual not in TYPES:
        raise OmnixError(f"{folder} holds {usual} weights; use a base in F32, F16 or BF16.")
    kind, tolerance = TYPES[usual]
    return load_transformer(folder, kind), tolerance


def _probe(model: nn.Module) -> Callable[..., Tensor]:
    """A forward pass on n equal elements of 4 x 8 image tokens, fixed noise that may be changed,
    and 4 text tokens."""
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
    def forward(n: int, change: Callable[[Tensor], Tensor] = lambda image: image) -> Tensor:
        return model(
            hidden_states=change(image).expand(n, -1, -1),
            encoder_hidden_states=text.expand(n, -1, -1),
            pooled_projections=pooled.expand(n, -1),
            timestep=torch.full((n,), 0.5, dtype=kind),
            img_ids=positions,
            txt_ids=torch.zeros(4, 3),
            guidance=torch.full((n,), 3.5) if config.guidance_embeds else None,
        ).sample

    return forward

# SPDX-License-Identifier: GPL-3.0-or-later
"""AdaLN modulation from a table, so that a quarter of FLUX's weights can stay off the accelerator.

An AdaLN linear sees nothing but the timestep, the guidance and the pooled prompt, and these are the
same for every task. Its output at each step is computed once, where its weights lie, and looked up
while sampling: the network's own numbers, not an approximation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.models.normalization import (
    AdaLayerNormContinuous,
    AdaLayerNormZero,
    AdaLayerNormZeroSingle,
)
from torch import nn

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

_NORMS = (AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle)


class ModulationTable:
    """Stands in for a transformer's AdaLN linears. State: their outputs per timestep."""

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        """Take the linears out; the transformer then runs at the timesteps of `fill` alone."""
        self._transformer = transformer
        self._steps: dict[float, int] = {}
        self.step = 0
        norms = [module for module in transformer.modules() if isinstance(module, _NORMS)]
        self._lookups = [_Lookup(self, norm.linear) for norm in norms]
        for norm, lookup in zip(norms, self._lookups, strict=True):
            norm.linear = lookup
        transformer.register_forward_pre_hook(self._select, with_kwargs=True)

    @torch.no_grad()
    def fill(
        self,
        timestep: torch.Tensor,
        guidance: torch.Tensor | None,
        pooled_projections: torch.Tensor,
    ) -> None:
        """Compute the modulation of n steps, given as the transformer's arguments for a batch of n.

        `timestep` (n,) and `guidance` (n,) are the transformer's thousandths.
        """
        steps = {value: index for index, value in enumerate(timestep.tolist())}
        if steps == self._steps:
            return
        dtype = pooled_projections.dtype
        scaled = [x.to(dtype) * 1000 for x in (timestep, guidance) if x is not None]
        embedding = self._transformer.time_text_embed(*scaled, pooled_projections)
        for lookup in self._lookups:
            lookup.fill(F.silu(embedding))
        self._steps = steps

    def _select(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        timestep = float(kwargs["timestep"][0])
        if timestep not in self._steps:
            raise RuntimeError(f"the modulation of timestep {timestep} was not computed")
        self.step = self._steps[timestep]


class _Lookup(nn.Module):
    """A linear's outputs by step. Its input only tells the batch size."""

    rows: torch.Tensor

    def __init__(self, table: ModulationTable, linear: nn.Linear) -> None:
        super().__init__()
        self._table = table
        # In a list the weights are no parameters of the model and stay behind when it is moved.
        self._linear = [linear]

    def fill(self, embedding: torch.Tensor) -> None:
        linear = self._linear[0]
        self.rows = linear(embedding.to(linear.weight)).to(embedding)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.rows[self._table.step].expand(len(embedding), -1)

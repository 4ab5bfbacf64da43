# SPDX-License-Identifier: GPL-3.0-or-later
"""A FLUX transformer made ready for OmniX's tasks, with the adapters of any number of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from ...adapters.effect import Effect, effects, nudged, require
from ...adapters.inject import Injected, inject, remove
from ...adapters.routing import routing
from ...errors import OmnixError
from . import pipeline
from .components import Components
from .modulation import ModulationTable
from .prompt import CACHE, Prompt

# The probe that shows what an adapter does: latent height, in the middle of the schedule.
_PROBE_HEIGHT = 8
_PROBE_TIMESTEP = 500.0


class Sampler:
    """State: the transformer, the adapters injected so far and the modulation table.

    Adapters of all tasks live side by side; each batch is routed through its own task's.
    """

    def __init__(
        self, components: Components, prompt: Prompt, guidance: float = pipeline.GUIDANCE
    ) -> None:
        """Prepare `components.transformer`, in place, for cross-adapter batches.

        Raises OmnixError when the prompt was encoded for another network.
        """
        self._transformer = components.transformer
        config = self._transformer.config
        channels = prompt.tokens.shape[-1], prompt.pooled.shape[-1]
        wanted = config.joint_attention_dim, config.pooled_projection_dim
        if channels != wanted:
            raise OmnixError(
                f"The prompt embeddings have {channels} channels where the transformer takes "
                f"{wanted}; delete {CACHE} to have the prompt encoded again."
            )
        self._scheduler = components.scheduler
        self._prompt = prompt
        self._guidance = guidance
        self._adapters: dict[str, list[str]] = {}
        pipeline.attend_across(self._transformer)
        self._table = ModulationTable(self._transformer)

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape of one element's latents for (height, width) latent rows and columns."""
        return 1, self._transformer.config.in_channels // pipeline.PATCH**2, height, width

    def add(
        self, task: str, files: Mapping[str, Path], on_block: Callable[[], None] = lambda: None
    ) -> dict[str, tuple[Injected, Effect]]:
        """Inject a task's adapters, {adapter: file} in batch order, the target last.

        Each is verified, and what it does to the output of a small fixed input is measured. Raises
        OmnixError, with the transformer as it was, when one is not exactly what the transformer
        needs, does nothing, or does the same as another. For `on_block` see `sample`.
        """
        names = {f"{task}/{name}": file for name, file in files.items()}
        injected = inject(self._transformer, names, dtype=self._transformer.dtype)
        try:
            with _before_blocks(self._transformer, on_block):
                measured = self._measure(list(names))
            require(measured, names)
        except BaseException:
            remove(self._transformer, names)
            raise
        self._adapters[task] = list(names)
        return {
            name: (result, measured[full])
            for name, (full, result) in zip(files, injected.items(), strict=True)
        }

    def _measure(self, names: list[str]) -> dict[str, Effect]:
        shape = self.noise_shape(_PROBE_HEIGHT, 2 * _PROBE_HEIGHT)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        latents = latents.to(self._transformer.dtype)
        timestep = torch.tensor([_PROBE_TIMESTEP])
        self._fill(timestep)

        def run(name: str | None, latents: torch.Tensor = latents) -> torch.Tensor:
            with routing(self._transformer, [name]):
                return pipeline.velocity(
                    self._transformer, latents, timestep, self._prompt, self._guidance
                )

        return effects(run, names, run(None, nudged(latents)))

    def sample(
        self,
        task: str,
        conditions: torch.Tensor,
        noise: torch.Tensor,
        *,
        steps: int = pipeline.STEPS,
        wrap_columns: int = pipeline.WRAP_COLUMNS,
        on_step: Callable[[int], None] = lambda step: None,
        on_block: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """The target's latents (1, C, h, w) of a task that was added. See `pipeline.denoise`.

        `on_block()` runs before every block of the transformer and may raise to stop: a step of
        the real network can take longer than a user should wait for a cancel.
        """
        timesteps = pipeline.schedule(self._scheduler, noise, steps, wrap_columns)
        self._fill(timesteps)
        with (
            routing(self._transformer, self._adapters[task]),
            _before_blocks(self._transformer, on_block),
        ):
            return pipeline.denoise(
                self._transformer,
                self._scheduler,
                conditions,
                noise,
                self._prompt,
                timesteps,
                guidance=self._guidance,
                wrap_columns=wrap_columns,
                on_step=on_step,
            )

    def _fill(self, timesteps: torch.Tensor) -> None:
        self._table.fill(
            **pipeline.modulation(self._transformer, timesteps, self._prompt, self._guidance)
        )


@contextlib.contextmanager
def _before_blocks(transformer: torch.nn.Module, action: Callable[[], None]) -> Iterator[None]:
    blocks = (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
    hooks = [block.register_forward_pre_hook(lambda *_: action()) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

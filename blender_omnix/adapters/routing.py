# SPDX-License-Identifier: GPL-3.0-or-later
"""Mixed batches: element i of a batch passes through adapter i alone in every adapted module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .effect import difference
from .inject import activate, lora_layers, require_everywhere

BASE = "__base__"  # PEFT's name for an element that passes through no adapter


@contextmanager
def routing(model: nn.Module, names: Sequence[str | None]) -> Iterator[int]:
    """Route batch element i through adapter `names[i]` (None: the base alone) inside the context.

    Yields the number of modules routed. Raises OmnixError when a module lacks one of the adapters:
    PEFT would skip it there without a word.
    """
    layers = lora_layers(model)
    require_everywhere(layers, [name for name in dict.fromkeys(names) if name is not None])
    routed = [BASE if name is None else name for name in names]

    def add_names(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
        return args, kwargs | {"adapter_names": routed}

    hooks = [
        layer.register_forward_pre_hook(add_names, with_kwargs=True) for layer in layers.values()
    ]
    for layer in layers.values():
        layer.enable_adapters(True)
    try:
        yield len(hooks)
    finally:
        for hook in hooks:
            hook.remove()


def routing_error(
    model: nn.Module, forward: Callable[[int], Tensor], names: Sequence[str]
) -> float:
    """Largest relative RMS difference between an element of a mixed batch and its adapter alone.

    The batch has one element for each of `names` and one for the base. `forward(n)` runs the model
    on n equal elements, none of which may see another, and returns the output, batch first.
    Leaves the model with all adapters off.
    """
    elements = [*names, None]
    with routing(model, elements):
        mixed = forward(len(elements))
    worst = 0.0
    for i, name in enumerate(elements):
        # PEFT's other way through a module, without a route; the same batch, so that the base
        # rounds alike.
        activate(model, name)
        worst = max(worst, difference(mixed[i], forward(len(elements))[i]))
    return worst

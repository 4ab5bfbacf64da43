# SPDX-License-Identifier: GPL-3.0-or-later
"""Put adapters into a model with PEFT, and prove that what is in the model is what is in the files.

PEFT's own loaders skip what does not match; here a file is accounted for in full before the model
is touched, and read back by another reader afterwards. The base's weights are never written to.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import OmnixError
from .inspection import Inspection, inspect, listing
from .layout import flux_modules
from .values import raw

COMPUTE_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Injected:
    """An adapter in a model: its file's inspection, how many modules it fills, how many of the
    file's tensors were compared with the model and are in it, weights bit for bit in the type the
    model computes in and alphas as the scale they make."""

    name: str
    inspection: Inspection
    modules: int
    tensors_equal: int


def inject(
    model: nn.Module,
    files: Mapping[str, str | Path],
    expected: Collection[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> dict[str, Injected]:
    """Inject adapter files, {adapter name: file}, one at least, into `model` and verify them.

    `expected`: names of the modules (linear or convolution) that every adapter must fill, no more
    and no fewer; default, those OmniX adapts in a FLUX transformer, by the model's config. `dtype`
    is the type of the adapters' weights, by default each base weight's own (the file's, where the
    base is quantised). Afterwards the first of `files` is active and, as PEFT has it, the base
    frozen.

    Raises OmnixError, with the model as it was, where anything is unaccounted for.
    """
    if expected is None:
        expected = flux_modules(dict(model.config))
    shapes = module_shapes(model, expected)
    for name in files:
        # torch keeps the weights in a ModuleDict, whose keys must not hide its own attributes.
        if "." in name or name == "__base__" or hasattr(nn.ModuleDict(), name):
            raise OmnixError(f"{name} cannot name an adapter; choose another name.")
        if name in adapter_names(model):
            raise OmnixError(f"The model already has an adapter named {name}; remove it first.")
    inspections = {name: inspect(file, shapes) for name, file in files.items()}
    for inspection in inspections.values():
        inspection.require()
    before = _identity(model)
    active = _active(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for name, inspection in inspections.items():
            _inject_empty(model, name, inspection)
            _assign(model, name, inspection, dtype)
        injected = {name: verify(model, name, item) for name, item in inspections.items()}
        if _identity(model) != before:
            raise OmnixError("Injecting adapters changed weights of the base model; load it again.")
    except BaseException:
        remove(model, inspections)
        if active is not None:
            activate(model, active)
        for parameter in trainable:
            parameter.requires_grad_(True)
        raise
    activate(model, next(iter(files)))
    return injected


def verify(model: nn.Module, name: str, inspection: Inspection) -> Injected:
    """Compare adapter `name` in the model with its file, read anew by the safetensors library.

    Raises OmnixError naming the modules or tensors that are absent, extra or different.
    """
    filled = {path: layer for path, layer in lora_layers(model).items() if name in layer.lora_A}
    lacking = [path for path in inspection.modules if path not in filled]
    extra = [path for path in filled if path not in inspection.modules]
    if lacking or extra:
        raise OmnixError(
            f"The adapter {inspection.file} fills the wrong modules: "
            f"{len(lacking)} not injected ({listing(lacking)}), "
            f"{len(extra)} extra ({listing(extra)})."
        )
    equal: set[str] = set()
    unequal: dict[str, None] = {}
    with _reader(inspection.file) as file:
        for path, item in inspection.modules.items():
            layer = filled[path]
            a, b = _weights(layer, name)
            for key, weight, stored in (
                (item.a, a, file.get_tensor(item.a)),
                (item.b, b, file.get_tensor(item.b)[slice(*item.rows)]),
            ):
                if not _same(weight, stored):
                    unequal[key] = None
                # Only a narrower type can overflow: the file's own values are finite.
                elif weight.dtype != stored.dtype and not weight.isfinite().all():
                    unequal[f"{key} overflows {weight.dtype}"] = None
                # Or lose all there is: tensors of zeros were refused.
                elif weight.dtype != stored.dtype and not weight.any():
                    unequal[f"{key} is nothing but zeros in {weight.dtype}"] = None
                else:
                    equal.add(key)
            if layer.scaling[name] != item.scale:
                unequal[f"{path} is scaled by {layer.scaling[name]}, not {item.scale}"] = None
            elif item.alpha_key is not None:
                equal.add(item.alpha_key)
    if unequal:
        raise OmnixError(
            f"The adapter {inspection.file} differs from what is in the model: "
            f"{listing(list(unequal))}."
        )
    return Injected(name, inspection, len(filled), len(equal))


def remove(model: nn.Module, names: Collection[str]) -> None:
    """Take adapters out again; a module left without any is the base's own module once more."""
    names = set(names)
    for path, layer in lora_layers(model).items():
        for name in names & set(layer.lora_A):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
                layer.delete_adapter(name)
        if not layer.lora_A:
            model.set_submodule(path, layer.get_base_layer())
    configs = getattr(model, "peft_config", {})
    for name in names & set(configs):
        del configs[name]
    if hasattr(model, "peft_config") and not configs:
        del model.peft_config


def activate(model: nn.Module, name: str | None) -> None:
    """Let every adapted module use adapter `name` alone; None turns all adapters off.

    Raises OmnixError when a module of the model lacks the adapter.
    """
    layers = lora_layers(model)
    if name is not None:
        require_everywhere(layers, [name])
    for layer in layers.values():
        layer.enable_adapters(name is not None)
        if name is not None:
            layer.set_adapter(name, inference_mode=True)


def require_everywhere(layers: Mapping[str, LoraLayer], names: Collection[str]) -> None:
    """Raise OmnixError unless there are adapted modules and every one has all adapters `names`."""
    if not layers:
        raise OmnixError(f"The model has no adapters; {', '.join(names)} must be injected first.")
    for name in names:
        if lacking := [path for path, layer in layers.items() if name not in layer.lora_A]:
            raise OmnixError(
                f"The adapter {name} is absent from {len(lacking)} modules: {listing(lacking)}."
            )


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The adapted modules by name; quantised ones are LoraLayer too, though not lora.Linear."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters in the model, in order of injection."""
    return list(dict.fromkeys(name for x in lora_layers(model).values() for name in x.lora_A))


def _active(model: nn.Module) -> str | None:
    names = {name for layer in lora_layers(model).values() for name in layer.active_adapters}
    return names.pop() if len(names) == 1 else None


def module_shapes(model: nn.Module, names: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Weight shapes of the named modules: (rows, columns), or (out, in, height, width).

    Raises OmnixError for a module that is absent or that PEFT cannot adapt faithfully.
    """
    modules = dict(model.named_modules())
    if absent := [name for name in names if name not in modules]:
        raise OmnixError(
            f"The model lacks {len(absent)} of the {len(names)} modules its adapters fill: "
            f"{listing(absent)}; it is not the model they were made for."
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        module = modules[name]
        if isinstance(module, LoraLayer):
            module = module.get_base_layer()
        if isinstance(module, nn.Conv2d):
            # PEFT's lora_A takes over kernel, stride and padding, but neither of these.
            if module.padding_mode != "zeros" or module.dilation != (1, 1) or module.groups != 1:
                raise OmnixError(
                    f"The convolution {name} has a padding mode, dilation or groups that its "
                    "adapter would ignore; pad explicitly before an unpadded convolution."
                )
            shapes[name] = (module.out_channels, module.in_channels, *module.kernel_size)
        elif isinstance(module, nn.Linear):
            shapes[name] = (module.out_features, module.in_features)
        else:
            raise OmnixError(
                f"The module {name} ({type(module).__name__}) cannot carry an adapter."
            )
    return shapes


def _inject_empty(model: nn.Module, name: str, inspection: Inspection) -> None:
    """Let PEFT create the adapter's layers, without memory; `_assign` gives them their weights."""
    items = inspection.modules.values()
    rank = Counter(item.rank for item in items).most_common(1)[0][0]
    alpha = Counter(item.rank * item.scale for item in items).most_common(1)[0][0]
    # PEFT takes the first pattern that matches the end of a name: longer names first.
    unusual = sorted(items, key=lambda item: -len(item.module))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # not always whole; PEFT only divides it by r
        rank_pattern={re.escape(i.module): i.rank for i in unusual if i.rank != rank},
        alpha_pattern={
            re.escape(i.module): i.rank * i.scale for i in unusual if i.rank * i.scale != alpha
        },
        # One expression for whole names: a list would also match names that merely end alike.
        target_modules="|".join(re.escape(path) for path in inspection.modules),
        init_lora_weights=False,
        inference_mode=True,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        inject_adapter_in_model(config, model, name, low_cpu_mem_usage=True)


def _assign(model: nn.Module, name: str, inspection: Inspection, dtype: torch.dtype | None) -> None:
    layers = lora_layers(model)
    for path, item in inspection.modules.items():
        layer = layers[path]
        weight = layer.get_base_layer().weight
        device = torch.device("cpu") if weight.is_meta else weight.device
        for side, key, rows in ((layer.lora_A, item.a, None), (layer.lora_B, item.b, item.rows)):
            stored = _tensor(inspection, key, rows)
            kind = dtype or (weight.dtype if weight.dtype in COMPUTE_TYPES else stored.dtype)
            side[name].weight = nn.Parameter(stored.to(device, kind), requires_grad=False)
        layer.train(layer.get_base_layer().training)


def _tensor(inspection: Inspection, key: str, rows: tuple[int, int] | None) -> Tensor:
    array = np.array(raw(inspection.header, key)[slice(*rows) if rows else slice(None)])
    if inspection.header.tensors[key].dtype == "BF16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _reader(file: Path) -> safe_open:
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise OmnixError(f"The adapter {file} cannot be read back ({error}).") from error


def _weights(layer: LoraLayer, name: str) -> tuple[Tensor, Tensor]:
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def _same(weight: Tensor, stored: Tensor) -> bool:
    """Whether a weight equals a file's tensor bit for bit, once that is in the weight's type."""
    if weight.is_meta or weight.shape != stored.shape:
        return False
    bits = stored.to(weight.dtype).contiguous().view(torch.uint8)
    return torch.equal(weight.detach().cpu().contiguous().view(torch.uint8), bits)


def _identity(model: nn.Module) -> dict[str, tuple[int, int, torch.dtype, torch.device]]:
    """Which tensor objects the base's weights are, and how often each was written to in place."""
    return {
        path.replace(".base_layer.", "."): (
            id(tensor),
            0 if tensor.is_inference() else tensor._version,
            tensor.dtype,
            tensor.device,
        )
        for path, tensor in [*model.named_parameters(), *model.named_buffers()]
        if ".lora_" not in path
    }

# SPDX-License-Identifier: GPL-3.0-or-later
"""Injection puts exactly the files' tensors into the model; routing and effects are measured."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from blender_omnix.adapters import effect, report
from blender_omnix.adapters.find import task_files
from blender_omnix.adapters.inject import (
    activate,
    adapter_names,
    inject,
    lora_layers,
    module_shapes,
    remove,
    verify,
)
from blender_omnix.adapters.layout import FLUX_DEV, flux_modules
from blender_omnix.adapters.routing import routing, routing_error
from blender_omnix.errors import OmnixError
from tests.adapter_files import (
    ADAPTER,
    ADAPTERS,
    PREFIX,
    changes,
    fused,
    good,
    kohya,
    save,
    tiny_flux,
)

TASK = "rgb_camray_to_normal"
NAMES = ["rgb", "camray", "normal"]


@pytest.fixture
def model():
    return tiny_flux()


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return before.keys() == after.keys() and all(
        torch.equal(before[key].view(torch.uint8), after[key].view(torch.uint8)) for key in before
    )


def probe(model: nn.Module, elements: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(8, 3)
    ids[:, 2] = torch.arange(8)
    with torch.inference_mode():
        return model(
            hidden_states=torch.randn(1, 8, 64, generator=generator).expand(elements, -1, -1),
            encoder_hidden_states=torch.randn(1, 4, 32, generator=generator).expand(
                elements, -1, -1
            ),
            pooled_projections=torch.randn(1, 32, generator=generator).expand(elements, -1),
            timestep=torch.full((elements,), 0.5),
            guidance=torch.full((elements,), 3.5),
            img_ids=ids,
            txt_ids=torch.zeros(4, 3),
        ).sample


def test_three_adapters_live_in_one_model_bit_for_bit(model):
    before = bits(model)
    files = task_files(ADAPTERS, TASK)
    assert list(files) == NAMES
    injected = inject(model, files)
    layers = lora_layers(model)
    assert len(layers) == 21
    for name, file in files.items():
        assert (injected[name].modules, injected[name].tensors_equal) == (21, 42)
        stored = load_file(file)
        for path, layer in layers.items():
            for role, side in (("A", layer.lora_A), ("B", layer.lora_B)):
                tensor = stored.pop(f"{PREFIX}{path}.lora_{role}.weight")
                assert torch.equal(side[name].weight, tensor)
            assert layer.scaling[name] == 1
        assert not stored
    assert adapter_names(model) == NAMES
    remove(model, NAMES)
    assert not lora_layers(model)
    assert not hasattr(model, "peft_config")
    assert same(before, bits(model))


def test_output_is_that_of_the_merged_weights(model):
    """The change of every weight, computed apart from PEFT, gives the same output."""
    merged = tiny_flux()
    with torch.no_grad():
        for path, change in changes(good()).items():
            weight = merged.get_submodule(path).weight
            weight.copy_(weight.double() + change)
    expected = probe(merged, 1)
    inject(model, {"rgb": ADAPTER})
    assert torch.allclose(probe(model, 1), expected, atol=1e-5)


@pytest.mark.parametrize("alpha", [4.0, 2.0, 3.0])
def test_fused_projections_and_alpha_arrive_in_the_model(model, tmp_path, alpha):
    tensors = kohya(fused(), alpha)
    injected = inject(model, {"foreign": save(tmp_path, tensors)})["foreign"]
    assert (injected.modules, injected.tensors_equal) == (21, 33)
    for path, change in changes(tensors).items():
        layer = lora_layers(model)[path]
        a, b = layer.lora_A["foreign"].weight, layer.lora_B["foreign"].weight
        product = layer.scaling["foreign"] * (b.double() @ a.double())
        assert torch.allclose(product, change, rtol=1e-12, atol=0)


def test_modules_may_differ_in_rank_and_alpha(model, tmp_path):
    tensors = fused()
    key = "double_blocks.1.img_mlp.0"
    tensors[f"{key}.lora_A.weight"] = torch.randn(6, 32)
    tensors[f"{key}.lora_B.weight"] = torch.randn(128, 6)
    tensors = kohya(tensors, 4.0)
    tensors["lora_unet_double_blocks_0_img_attn_proj.alpha"] = torch.tensor(1.0)
    inject(model, {"x": save(tmp_path, tensors)})
    layers = lora_layers(model)
    assert layers["transformer_blocks.1.ff.net.0.proj"].r["x"] == 6
    assert layers["transformer_blocks.1.ff.net.0.proj"].scaling["x"] == 4 / 6
    assert layers["transformer_blocks.0.attn.to_out.0"].scaling["x"] == 0.25


def test_weights_take_the_base_type(tmp_path):
    model = tiny_flux().bfloat16()
    injected = inject(model, {"rgb": ADAPTER})["rgb"]
    assert injected.tensors_equal == 42
    layer = lora_layers(model)["transformer_blocks.0.attn.to_q"]
    stored = good()[f"{PREFIX}transformer_blocks.0.attn.to_q.lora_A.weight"]
    assert torch.equal(layer.lora_A["rgb"].weight, stored.bfloat16())


def test_values_that_overflow_the_base_type_are_refused(tmp_path):
    model = tiny_flux().half()
    key = f"{PREFIX}transformer_blocks.0.attn.to_q.lora_A.weight"
    tensors = good()
    tensors[key][0, 0] = 1e6
    with pytest.raises(OmnixError, match=rf"{key} overflows torch\.float16"):
        inject(model, {"rgb": save(tmp_path, tensors)})
    assert not lora_layers(model)


def test_values_that_the_base_type_leaves_no_trace_of_are_refused(tmp_path):
    model = tiny_flux().half()
    key = f"{PREFIX}transformer_blocks.0.attn.to_q.lora_B.weight"
    file = save(tmp_path, good() | {key: torch.full((32, 4), 1e-9)})
    with pytest.raises(OmnixError, match=rf"{key} is nothing but zeros in torch\.float16"):
        inject(model, {"rgb": file})
    assert not lora_layers(model)


@pytest.mark.parametrize("spoil", ["value", "sign of zero", "scale", "absent", "extra"])
def test_verification_sees_what_was_changed_in_the_model(model, tmp_path, spoil):
    tensors = good()
    path = "transformer_blocks.0.attn.to_q"
    tensors[f"{PREFIX}{path}.lora_A.weight"][0, 0] = 0.0
    item = inject(model, {"rgb": save(tmp_path, tensors)})["rgb"].inspection
    verify(model, "rgb", item)
    layer = lora_layers(model)[path]
    with torch.no_grad():
        if spoil == "value":
            layer.lora_B["rgb"].weight[0, 0] += 1e-3
            words = rf"differs from what is in the model: {PREFIX}{path}\.lora_B\.weight"
        elif spoil == "sign of zero":
            layer.lora_A["rgb"].weight[0, 0] = -0.0
            words = rf"differs from what is in the model: {PREFIX}{path}\.lora_A\.weight"
        elif spoil == "scale":
            layer.scaling["rgb"] = 0.5
            words = rf"{path} is scaled by 0\.5, not 1\.0"
        elif spoil == "absent":
            layer.delete_adapter("rgb")
            words = rf"1 not injected \({path}\)"
        else:
            del item.modules[path]
            words = rf"1 extra \({path}\)"
    with pytest.raises(OmnixError, match=words):
        verify(model, "rgb", item)


@pytest.mark.parametrize(("alpha", "equal"), [(None, 42 - 2), (4.0, 33 - 3)])
def test_only_what_was_compared_counts_as_equal(model, tmp_path, alpha, equal):
    file = ADAPTER if alpha is None else save(tmp_path, kohya(fused(), alpha))
    path = "transformer_blocks.0.attn.to_out.0"
    item = inject(model, {"rgb": file})["rgb"].inspection
    lora_layers(model)[path].delete_adapter("rgb")
    del item.modules[path]
    assert verify(model, "rgb", item).tensors_equal == equal


def test_a_failure_after_injection_leaves_the_model_as_it_was(model, monkeypatch):
    inject(model, {"rgb": ADAPTER})
    before, output = bits(model), probe(model, 1)

    def fail(*_):
        raise OmnixError("differs")

    monkeypatch.setattr("blender_omnix.adapters.inject.verify", fail)
    with pytest.raises(OmnixError, match="differs"):
        inject(model, {"second": ADAPTER})
    assert adapter_names(model) == ["rgb"]
    assert same(before, bits(model))
    assert torch.equal(probe(model, 1), output)


@pytest.mark.parametrize("earlier", [{}, task_files(ADAPTERS, TASK)], ids=["none", "three"])
def test_a_failure_after_injection_leaves_modes_and_gradients_as_they_were(
    model, monkeypatch, earlier
):
    if earlier:
        inject(model, earlier)
        activate(model, "camray")
    model.transformer_blocks[0].train()
    model.proj_out.requires_grad_(bool(earlier))  # unlike the others

    def state():
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        return trained, {name: module.training for name, module in model.named_modules()}

    before, output = state(), probe(model, 1)
    monkeypatch.setattr("blender_omnix.adapters.inject._identity", lambda _: object())
    with pytest.raises(OmnixError, match="changed weights of the base"):
        inject(model, {"second": ADAPTER})
    assert state() == before
    assert torch.equal(probe(model, 1), output)


def test_adapters_take_the_mode_of_their_module(model):
    model.transformer_blocks[0].train()
    inject(model, {"rgb": ADAPTER})
    modes = {name: module.training for name, module in model.named_modules() if name}
    assert all(mode == name.startswith("transformer_blocks.0") for name, mode in modes.items())


def test_a_changed_base_weight_is_noticed(model, monkeypatch):
    from blender_omnix.adapters import inject as module

    genuine = module._assign

    def careless(model, *arguments):
        genuine(model, *arguments)
        with torch.no_grad():
            model.proj_out.weight.mul_(1.0)

    monkeypatch.setattr(module, "_assign", careless)
    with pytest.raises(OmnixError, match="changed weights of the base"):
        inject(model, {"rgb": ADAPTER})


@pytest.mark.parametrize("name", ["a.b", "__base__", "keys", "rgb"])
def test_impossible_names_are_refused(model, name):
    inject(model, {"rgb": ADAPTER})
    with pytest.raises(OmnixError, match="name"):
        inject(model, {name: ADAPTER})
    assert adapter_names(model) == ["rgb"]


def test_a_model_of_another_kind_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(OmnixError, match=r"lacks 1 of the 2 modules .*1"):
        inject(model, {"x": ADAPTER}, ["0", "1"])


class Wrapped(nn.Module):
    """Convolution and linear layer, two names of which end alike."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Linear(4, 5)
        self.deep = nn.ModuleDict({"head": nn.Linear(5, 5)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deep["head"](self.head(self.conv(x).mean((2, 3))))


def test_convolutions_are_adapted_and_names_match_whole(tmp_path):
    torch.manual_seed(0)
    model = Wrapped()
    a, b = torch.randn(2, 3, 3, 3), torch.randn(4, 2, 1, 1)
    file = save(
        tmp_path,
        {
            "conv.lora_A.weight": a,
            "conv.lora_B.weight": b,
            "head.lora_A.weight": torch.randn(2, 4),
            "head.lora_B.weight": torch.randn(5, 2),
        },
    )
    inject(model, {"x": file}, ["conv", "head"])
    assert set(lora_layers(model)) == {"conv", "head"}
    image = torch.randn(1, 3, 9, 9)
    change = torch.einsum("or,rikl->oikl", b[..., 0, 0], a)
    plain = model.conv.get_base_layer()
    expected = nn.functional.conv2d(image, plain.weight + change, plain.bias, stride=2)
    assert torch.allclose(model.conv(image), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"dilation": 2}, {"padding_mode": "circular", "padding": 1}, {"groups": 2}]
)
def test_convolutions_that_peft_would_get_wrong_are_refused(options):
    model = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, **options)})
    with pytest.raises(OmnixError, match="conv has a padding mode, dilation or groups"):
        module_shapes(model, ["conv"])


def test_routing_gives_each_element_its_own_adapter(model):
    inject(model, task_files(ADAPTERS, TASK))
    with routing(model, [*NAMES, None]) as count:
        assert count == 21
        mixed = probe(model, 4)
    for element, name in zip(mixed, [*NAMES, None], strict=True):
        activate(model, name)
        assert torch.allclose(element, probe(model, 1)[0], atol=1e-5)
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(mixed[i], mixed[j], atol=1e-2)
    assert routing_error(model, lambda n: probe(model, n), NAMES) < 1e-5


def test_routing_error_sees_a_module_that_ignores_its_route(model):
    inject(model, task_files(ADAPTERS, TASK))
    layer = lora_layers(model)["transformer_blocks.1.attn.to_v"]
    genuine = layer.forward

    def deaf(x, *args, adapter_names=None, **kwargs):
        routed = adapter_names and {"adapter_names": ["rgb"] * len(x)}
        return genuine(x, *args, **kwargs, **(routed or {}))

    layer.forward = deaf
    assert routing_error(model, lambda n: probe(model, n), NAMES) > 1e-3


def test_routing_refuses_what_peft_would_skip(model):
    inject(model, {"rgb": ADAPTER})
    with pytest.raises(OmnixError, match="camray is absent from 21 modules"), routing(model, NAMES):
        pass
    lora_layers(model)["transformer_blocks.0.attn.to_q"].delete_adapter("rgb")
    with pytest.raises(OmnixError, match=r"rgb is absent from 1 modules: transformer_blocks\.0"):
        activate(model, "rgb")


def test_a_plain_model_cannot_be_routed():
    with pytest.raises(OmnixError, match="no adapters"), routing(nn.Linear(2, 2), ["rgb"]):
        pass


def test_effects_are_numbers_and_a_copy_is_found_out(model):
    files = task_files(ADAPTERS, TASK)
    injected = inject(model, files | {"copy": files["rgb"]})

    def run(name: str | None) -> torch.Tensor:
        activate(model, name)
        return probe(model, 1)

    same = run(None)
    measured = effect.effects(run, NAMES, same)
    effect.require(measured)
    assert all(0.05 < e.off < 5 and e.swapped and 0.05 < e.swapped < 5 for e in measured.values())
    entry = report.entry(TASK, injected["rgb"], measured["rgb"])
    assert entry["effect_off"] == measured["rgb"].off
    assert list(entry) == [
        *("task", "name", "file", "sha256", "format", "rank", "alpha", "dtype", "tensors"),
        *("modules_expected", "modules_injected", "tensors_equal", "effect_off", "effect_swapped"),
    ]
    assert (entry["rank"], entry["alpha"], entry["dtype"]) == (4, None, "F32")
    with pytest.raises(OmnixError, match="rgb does exactly what another adapter does"):
        effect.require(effect.effects(run, ["rgb", "copy"], same))


def test_an_adapter_without_effect_is_an_error():
    outputs = {None: torch.ones(3), "dead": torch.ones(3), "loud": torch.full((3,), float("inf"))}

    def measured(name: str) -> dict[str, effect.Effect]:
        return effect.effects(outputs.__getitem__, [name], torch.ones(3))

    assert measured("dead")["dead"].swapped is None
    with pytest.raises(OmnixError, match="dead changes nothing"):
        effect.require(measured("dead"))
    with pytest.raises(OmnixError, match="loud makes the model's output NaN or infinite"):
        effect.require(measured("loud"))
    with pytest.raises(OmnixError, match=re.escape(f"The adapter {ADAPTER} changes nothing")):
        effect.require({"dead": effect.Effect(0.0, None)}, {"dead": ADAPTER})


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_what_rounding_does_is_no_effect(kind):
    plain = torch.ones(9, dtype=kind)
    moved = effect.nudged(plain)
    assert torch.equal(moved, plain + torch.finfo(kind).eps)
    assert torch.equal(effect.nudged(-plain), -moved)
    outputs = {None: plain, "lost": moved, "slight": plain + (moved - plain) * 3}
    found = effect.effects(outputs.__getitem__, ["lost", "slight"], moved)
    assert found["lost"].off == 0
    assert found["slight"].off > 0 and found["slight"].swapped > 0


def test_flux_dev_takes_228_modules_and_456_tensors(tmp_path):
    """The real architecture on the meta device; the adapter's own weights are real."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(**FLUX_DEV, guidance_embeds=True)
    linear = {name for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    shapes = flux_modules()
    assert len(shapes) == 228
    assert shapes.keys() <= linear
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for module, (rows, columns) in shapes.items():
        a = torch.randn(2, columns, generator=generator)
        b = torch.randn(rows, 2, generator=generator)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a.bfloat16()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b.bfloat16()
    assert len(tensors) == 456
    injected = inject(model, {"rgb": save(tmp_path, tensors)})["rgb"]
    assert (injected.modules, injected.tensors_equal) == (228, 456)
    for path, layer in lora_layers(model).items():
        weight = model.get_submodule(path).get_base_layer().weight
        assert weight.is_meta
        assert layer.lora_A["rgb"].weight.shape == (2, weight.shape[1])
        assert layer.lora_B["rgb"].weight.shape == (weight.shape[0], 2)
    lost = {k: v for k, v in tensors.items() if "single_transformer_blocks.37.attn.to_v" not in k}
    with pytest.raises(OmnixError, match=r"missing \(single_transformer_blocks\.37\.attn\.to_v\)"):
        inject(model, {"second": save(tmp_path, lost)})

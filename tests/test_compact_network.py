# SPDX-License-Identifier: GPL-3.0-or-later
"""The compact network on the sphere: rolls, poles, sizes, and adapters that do what PEFT says."""

from __future__ import annotations

import pytest
import torch

from blender_omnix.adapters.inject import activate, inject
from blender_omnix.engines.compact.network import (
    STRIDE,
    TASKS,
    Block,
    CompactNetwork,
    adapted_modules,
    pad_sphere,
)
from training import export, lora
from training.train import Model

HEIGHT = 64


def random_model(seed: int = 0) -> Model:
    """Random weights whose adapters and heads are far from zero."""
    torch.manual_seed(seed)
    model = Model().eval().requires_grad_(False)
    for adapter in model.adapters.values():
        for key, value in adapter.items():
            if "lora_B" in key:
                value.normal_(std=0.05)
    for head in model.network.heads.values():
        head.conv.weight.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)
    return random_model()


@pytest.fixture(scope="module")
def injected(model, tmp_path_factory) -> CompactNetwork:
    """The same weights as the engine has them: from files, injected by PEFT, in half precision."""
    folder = tmp_path_factory.mktemp("weights")
    model.half().float()
    export.write(model, folder, {})
    network = CompactNetwork().eval().requires_grad_(False)
    network.load_state_dict(model.network.state_dict())
    files = {task: folder / f"{task}.safetensors" for task in TASKS}
    inject(network, files, adapted_modules(network))
    return network


def all_maps(network: CompactNetwork, panorama: torch.Tensor) -> dict[str, torch.Tensor]:
    features = network.encode(panorama)
    maps = {}
    for task in TASKS:
        activate(network, task)
        maps |= network.decode(features, task, panorama)
    return maps


def unadapted(model: Model, panorama: torch.Tensor) -> dict[str, torch.Tensor]:
    """All maps as the network makes them without its adapters."""
    network = model.network
    hidden = network.decoder(network.encode(panorama))
    tasks = [network.interpret(hidden, task, panorama) for task in TASKS]
    return {name: value for maps in tasks for name, value in maps.items()}


def test_size_of_the_network():
    parameters = sum(p.numel() for p in CompactNetwork().parameters())
    assert 2e6 <= parameters <= 12e6  # half precision: two bytes each


def test_a_fresh_block_changes_nothing():
    x = torch.randn(1, 16, 4, 8)
    assert torch.equal(Block(16)(x), x)


def test_training_in_weight_space_is_the_same_function_as_peft(model, injected):
    panorama = torch.rand(1, 3, HEIGHT, 2 * HEIGHT)
    merged, layered = model(panorama), all_maps(injected, panorama)
    plain = unadapted(model, panorama)
    for name in merged:
        torch.testing.assert_close(merged[name], layered[name], rtol=0, atol=2e-4)
        assert (merged[name] - plain[name]).abs().max() > 1e-2, name


@pytest.mark.parametrize("steps", [1, 3])
def test_yaw_rolls_commute_with_adapters_on(injected, steps):
    panorama = torch.rand(1, 3, HEIGHT, 2 * HEIGHT)
    shift = steps * STRIDE
    rolled = all_maps(injected, panorama.roll(shift, -1))
    for name, value in all_maps(injected, panorama).items():
        torch.testing.assert_close(rolled[name], value.roll(shift, -1), rtol=0, atol=1e-4)


def test_no_azimuth_is_encoded(injected):
    rows = torch.rand(1, 3, HEIGHT, 1).expand(-1, -1, -1, 2 * HEIGHT).contiguous()
    for _name, value in all_maps(injected, rows).items():
        columns = value.reshape(*value.shape[:3], -1, STRIDE)
        torch.testing.assert_close(
            columns, columns[:, :, :, :1].expand_as(columns), rtol=0, atol=1e-4
        )


def test_padding_continues_over_the_poles():
    # The latitude's cosine times a wave of one turn is smooth over the pole.
    height, width = 16, 32
    v = (torch.arange(height) + 0.5) * torch.pi / height
    u = (torch.arange(width) + 0.5) * 2 * torch.pi / width
    x = (v.sin()[:, None] * u.cos()[None, :])[None, None]
    padded = pad_sphere(x)[0, 0]
    assert padded.shape == (height + 2, width + 2)
    beyond = (-torch.tensor(0.5 * torch.pi / height)).sin() * u.cos()
    torch.testing.assert_close(padded[0, 1:-1], beyond)
    torch.testing.assert_close(padded[-1, 1:-1], beyond)
    torch.testing.assert_close(padded[1:-1, 0], x[0, 0, :, -1])
    torch.testing.assert_close(padded[1:-1, -1], x[0, 0, :, 0])


def test_the_gradient_of_padding_is_that_of_its_slices():
    x = torch.rand(2, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pad_sphere, (x,))


@pytest.mark.parametrize("height", [32, 96])
def test_other_sizes(injected, height):
    maps = all_maps(injected, torch.rand(2, 3, height, 2 * height))
    channels = {name: value.shape[1] for name, value in maps.items()}
    assert channels == {
        "albedo": 3,
        "normal": 3,
        "roughness": 1,
        "metallic": 1,
        "log_depth": 1,
        "sky": 1,
    }
    for value in maps.values():
        assert value.shape[2:] == (height, 2 * height)
        assert value.isfinite().all()
    torch.testing.assert_close(maps["normal"].norm(dim=1), torch.ones(2, height, 2 * height))
    assert maps["albedo"].min() >= 0 and maps["albedo"].max() <= 1


def test_fresh_adapters_change_nothing():
    torch.manual_seed(0)
    fresh = Model().eval()
    panorama = torch.rand(1, 3, HEIGHT, 2 * HEIGHT)
    for adapted, plain in zip(
        fresh(panorama).values(), unadapted(fresh, panorama).values(), strict=True
    ):
        torch.testing.assert_close(adapted, plain, rtol=0, atol=1e-6)


def test_every_convolution_of_the_decoder_is_adapted(model):
    names = {key.split(".lora_")[0] for key in lora.tensors(model.adapters["depth"])}
    convolutions = {
        f"decoder.{name}"
        for name, module in model.network.decoder.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }
    assert names == convolutions

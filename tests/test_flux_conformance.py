# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine against what the official code computed, and the command that compares them."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from blender_omnix.engines.flux import conformance
from tests.flux_tiny import GOLDEN

# Recorded as omnix-tiny was, on a model of other sizes: rows that are no power of two, an
# autoencoder that tiles when it encodes and decodes, no guidance, another schedule, adapters in
# bfloat16, two conditions.
OTHER = GOLDEN.with_name("omnix-other")
TASKS = json.loads((GOLDEN / "conformance.json").read_text())["tasks"]


def run(folder) -> int:
    parser = argparse.ArgumentParser()
    conformance.add_parser(parser.add_subparsers())
    args = parser.parse_args(["conformance", str(folder)])
    return args.run(args)


@pytest.fixture(scope="module")
def runner():
    return conformance.Runner(conformance.read(GOLDEN))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_equals_the_official_code(runner, task):
    difference = runner.compare(task)
    assert difference.condition_latents <= 1e-5
    assert difference.target_latents <= 1e-4
    assert difference.target_image <= 1e-4


def test_another_set_of_other_sizes_agrees(capsys):
    assert run(OTHER) == 0
    out = capsys.readouterr().out
    assert "2 of 2 tasks agree" in out
    for line in out.splitlines()[1:3]:
        assert max(float(number) for number in line.split()[1:]) < 2e-5


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The set with one task of two steps, as this engine computes it: what the command makes of
    differences takes no more."""
    folder = tmp_path_factory.mktemp("short") / "set"
    shutil.copytree(GOLDEN, folder)
    edit(folder, tasks={"rgb_to_pbr": ["rgb", "pbr"]}, num_inference_steps=2)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            conformance, "_largest", lambda result, _: results.append(result.contiguous()) or 0.0
        )
        conformance.Runner(conformance.read(folder)).compare("rgb_to_pbr")
    file = folder / "expected_rgb_to_pbr.safetensors"
    keys = ("condition_latents", "target_latents", "target_image")
    save_file(load_file(file) | dict(zip(keys, results, strict=True)), file)
    return folder


@pytest.fixture
def recorded(short, tmp_path):
    """A copy of the short set, one that can be spoiled."""
    return shutil.copytree(short, tmp_path / "set")


def edit(folder, **changes) -> None:
    file = folder / "conformance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def spoil(file, key, change) -> None:
    tensors = load_file(file)
    tensors[key] = change(tensors[key])
    save_file(tensors, file)


def contents(folder) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_agreement_exits_0_and_writes_nothing(recorded, capsys):
    before = contents(recorded)
    assert run(recorded) == 0
    assert contents(recorded) == before
    line = next(line for line in capsys.readouterr().out.splitlines() if "rgb_to_pbr" in line)
    assert len([float(number) for number in line.split()[1:]]) == 3


@pytest.mark.parametrize("key", ["condition_latents", "target_latents", "target_image"])
def test_a_difference_exits_1(recorded, capsys, key):
    spoil(recorded / "expected_rgb_to_pbr.safetensors", key, lambda tensor: tensor + 2e-4)
    assert run(recorded) == 1
    assert "differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change", [lambda tensor: tensor * torch.nan, lambda tensor: tensor[..., :-1].contiguous()]
)
def test_nan_and_another_shape_differ(recorded, change):
    spoil(recorded / "expected_rgb_to_pbr.safetensors", "target_image", change)
    assert run(recorded) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"num_inference_steps": 3},
        {"guidance_scale": 3.0},
        {"blend_extend": 4},
        {"tasks": {"rgb_to_pbr": ["pbr", "rgb"]}},
        {"rank": 8},
        {"modules_per_adapter": 20},
    ],
)
def test_every_parameter_is_read(recorded, changes):
    edit(recorded, **changes)
    assert run(recorded) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 64},
        {"width": 128},
        {"height": -128},
        {"num_inference_steps": 0},
        {"num_inference_steps": 1.5},
        {"blend_extend": 3},
        {"blend_extend": 40},
        {"blend_extend": -2},
        {"num_inference_steps": 10**14},
        {"rank": None},
        {"tasks": []},
        {"tasks": {"rgb_to_pbr": [["rgb"], "pbr"]}},
        {"tasks": {"rgb_to_pbr": ["rgb", "rgb"]}},
        {"tasks": {"rgb_to_pbr": ["pbr"]}},
        {"tasks": {"rgb_to_pbr": ["rgb", "../pbr"]}},
        {"tasks": {"\ud800": ["rgb", "pbr"]}},
        {"tasks": {"x" * 400: ["rgb", "pbr"]}},
    ],
)
def test_a_description_that_cannot_be_true_exits_2(recorded, capsys, changes):
    edit(recorded, **changes)
    assert run(recorded) == 2
    assert "Nothing was compared" in capsys.readouterr().err


def test_nothing_need_be_appended(recorded):
    """The official code takes 0 columns too; these were recorded with 6."""
    edit(recorded, blend_extend=0)
    assert run(recorded) == 1


@pytest.mark.parametrize("key", ["target_noise", "posterior_noise"])
def test_noise_of_another_shape_fails_the_task(recorded, capsys, key):
    spoil(
        recorded / "expected_rgb_to_pbr.safetensors", key, lambda tensor: tensor[:, :8].contiguous()
    )
    assert run(recorded) == 1
    assert f"failed: {key} in" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["target_noise", "target_latents"])
def test_what_is_not_recorded_in_floats_fails_the_task(recorded, capsys, key):
    spoil(recorded / "expected_rgb_to_pbr.safetensors", key, lambda tensor: tensor > 0)
    assert run(recorded) == 1
    assert f"failed: {key} in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("panorama_u8", lambda tensor: tensor.bfloat16()),
        ("prompt_embeds", lambda tensor: tensor.int()),
        ("panorama_u8", lambda tensor: tensor[..., 0].contiguous()),
        ("prompt_embeds", lambda tensor: tensor[0].contiguous()),
        ("pooled_prompt_embeds", lambda tensor: tensor.repeat(2, 1)),
    ],
)
def test_inputs_of_another_shape_or_type_exit_2(recorded, capsys, key, change):
    spoil(recorded / "inputs.safetensors", key, change)
    assert run(recorded) == 2
    assert f"{key} in" in capsys.readouterr().err


def test_an_adapter_that_is_refused_fails_the_task(recorded, capsys):
    file = recorded / "adapters" / "rgb_to_pbr" / "pbr" / "pytorch_lora_weights.safetensors"
    spoil(file, next(iter(load_file(file))), torch.zeros_like)
    assert run(recorded) == 1
    assert "failed: " in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["expected_rgb_to_pbr.safetensors", "conformance.json"])
def test_nothing_to_compare_exits_2(recorded, missing, capsys):
    (recorded / missing).unlink()
    assert run(recorded) == 2
    assert "Nothing was compared" in capsys.readouterr().err


def test_an_empty_description_exits_2(recorded):
    edit(recorded, tasks={})
    assert run(recorded) == 2
    (recorded / "conformance.json").write_text("{}")
    assert run(recorded) == 2

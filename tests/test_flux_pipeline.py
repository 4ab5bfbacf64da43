# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import load_file, save_file

from blender_omnix.adapters import find
from blender_omnix.engines.flux import autoencoder, components, pipeline
from blender_omnix.engines.flux.prompt import Prompt
from blender_omnix.engines.flux.sampler import Sampler
from blender_omnix.errors import OmnixError
from tests.flux_tiny import ADAPTERS, GOLDEN, MODEL

torch.set_num_threads(1)


@pytest.fixture
def tiny():
    return components.load(MODEL, torch.float32)


def test_tokens_and_positions_are_those_of_diffusers():
    latents = torch.randn(2, 16, 8, 22)
    packed = FluxPipeline._pack_latents(latents, 2, 16, 8, 22)
    assert torch.equal(pipeline.pack(latents), packed)
    assert torch.equal(pipeline.unpack(packed, 8, 22), latents)
    ids = FluxPipeline._prepare_latent_image_ids(1, 4, 11, "cpu", torch.float32)
    assert torch.equal(pipeline.position_ids(4, 11), ids)


def test_schedule_shifts_by_the_token_count(tiny):
    sigmas = np.linspace(1.0, 0.2, 5)
    mu = calculate_shift(1000)
    expected = [1000 * np.exp(mu) / (np.exp(mu) + 1 / sigma - 1) for sigma in sigmas]
    # 40 x (94 + 6) latents are 1000 tokens of 2 x 2.
    timesteps = pipeline.schedule(tiny.scheduler, torch.zeros(1, 16, 40, 94), 5)
    np.testing.assert_allclose(timesteps, expected, rtol=1e-5)


def denoise(tiny, conditions, noise, **options):
    generator = torch.Generator().manual_seed(5)
    prompt = Prompt(
        torch.randn(1, 7, 32, generator=generator), torch.randn(1, 32, generator=generator)
    )
    timesteps = pipeline.schedule(tiny.scheduler, noise, 2)
    return pipeline.denoise(
        tiny.transformer, tiny.scheduler, conditions, noise, prompt, timesteps, **options
    )


def test_elements_attend_to_one_another(tiny):
    pipeline.attend_across(tiny.transformer)
    conditions, noise = torch.randn(1, 16, 8, 16), torch.randn(1, 16, 8, 16)
    assert not torch.allclose(
        denoise(tiny, conditions, noise), denoise(tiny, conditions + 1, noise), atol=1e-3
    )


def test_a_batch_of_equal_elements_is_plain_attention(tiny):
    """Doubling every key and value leaves a softmax average as it is."""
    states = torch.randn(1, 12, 64)
    arguments = {
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "pooled_projections": torch.randn(1, 32),
        "encoder_hidden_states": torch.randn(1, 7, 32),
    }
    ids = {"txt_ids": torch.zeros(7, 3), "img_ids": pipeline.position_ids(3, 4)}
    with torch.no_grad():
        alone = tiny.transformer(hidden_states=states, **arguments, **ids).sample
        pipeline.attend_across(tiny.transformer)
        twice = {name: torch.cat([value, value]) for name, value in arguments.items()}
        pair = tiny.transformer(hidden_states=states.repeat(2, 1, 1), **twice, **ids).sample
    torch.testing.assert_close(pair, alone.repeat(2, 1, 1), atol=1e-5, rtol=1e-5)


def test_any_number_of_conditions(tiny):
    pipeline.attend_across(tiny.transformer)
    for count in (0, 1, 4):
        latents = denoise(tiny, torch.randn(count, 16, 4, 8), torch.randn(1, 16, 4, 8))
        assert latents.shape == (1, 16, 4, 8)
        assert torch.isfinite(latents).all()


def test_steps_are_counted_and_can_stop_the_loop(tiny):
    class Stop(Exception):
        pass

    seen = []

    def on_step(index):
        seen.append(index)
        if index == 1:
            raise Stop

    with pytest.raises(Stop):
        denoise(tiny, torch.randn(1, 16, 4, 8), torch.randn(1, 16, 4, 8), on_step=on_step)
    assert seen == [0, 1]


@pytest.mark.parametrize("fp8", [False, True])
def test_bfloat16_runs_and_stays_near_the_official_float32(fp8):
    """What an accelerator computes in; the same code, so the types are seen to fit here."""
    task = "rgb_camray_to_normal"
    parts = components.load(MODEL, torch.bfloat16)
    inputs = load_file(GOLDEN / "inputs.safetensors")
    sampler = Sampler(parts, Prompt(inputs["prompt_embeds"], inputs["pooled_prompt_embeds"]))
    if fp8:
        components.store_in_fp8(parts.transformer)
    sampler.add(task, find.task_files(ADAPTERS, task))
    recorded = load_file(GOLDEN / f"expected_{task}.safetensors")
    latents = sampler.sample(task, recorded["condition_latents"], recorded["target_noise"])
    image = autoencoder.decode(parts.vae, latents)
    assert latents.dtype == image.dtype == torch.float32
    assert (image - recorded["target_image"]).abs().mean() < 0.02


@pytest.mark.parametrize(("factor", "counts"), [(1e-4, False), (0.1, True)])
def test_an_effect_in_bfloat16_is_told_from_its_rounding(tmp_path, factor, counts):
    parts = components.load(MODEL, torch.bfloat16)
    inputs = load_file(GOLDEN / "inputs.safetensors")
    sampler = Sampler(parts, Prompt(inputs["prompt_embeds"], inputs["pooled_prompt_embeds"]))
    files = {name: tmp_path / f"{name}.safetensors" for name in find.TASKS["rgb_to_pbr"]}
    for name, file in find.task_files(ADAPTERS, "rgb_to_pbr").items():
        tensors = load_file(file)
        save_file({k: v * (factor if "B" in k else 1) for k, v in tensors.items()}, files[name])
    with nullcontext() if counts else pytest.raises(OmnixError, match="changes nothing in the mod"):
        sampler.add("rgb_to_pbr", files)


def test_a_prompt_of_another_network_is_refused(tiny):
    with pytest.raises(OmnixError, match=r"channels where the transformer takes \(32, 32\)"):
        Sampler(tiny, Prompt(torch.zeros(1, 8, 4096), torch.zeros(1, 768)))

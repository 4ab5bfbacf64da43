# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import errno
import importlib.util
import itertools
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from blender_omnix import engines, maps
from blender_omnix.adapters.find import PUBLISHED_NAME
from blender_omnix.adapters.inject import inject
from blender_omnix.engines.flux import components, pipeline, prompt, readout, sampler
from blender_omnix.engines.flux import engine as flux_engine
from blender_omnix.engines.flux.attention import CrossAdapterAttnProcessor
from blender_omnix.engines.flux.engine import FluxEngine, best_device, network_size
from blender_omnix.errors import Cancelled, OmnixError
from blender_omnix.extract import Settings, extract
from blender_omnix.panorama import frames
from tests.flux_tiny import ADAPTERS, GOLDEN, MODEL, make_weights, watch

torch.set_num_threads(1)

ALL = ("albedo", "normal", "roughness", "metallic", "depth", "semantic")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("flux") / "weights")


@pytest.fixture(scope="module")
def engine(weights):
    engine = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=2)
    engine.load(ignore)
    return engine


def ignore(stage, fraction):
    pass


def picture(height):
    return np.random.default_rng(3).random((height, 2 * height, 3), np.float32)


def predict(engine, names, panorama=None, seed=0):
    panorama = picture(70) if panorama is None else panorama
    return engine.predict(panorama, names, ignore, lambda: False, seed)


@pytest.mark.parametrize(
    ("height", "size"),
    [
        (720, (720, 1440)),
        (512, (512, 1024)),
        (1024, (720, 1440)),
        (4096, (720, 1440)),
        (500, (496, 992)),
        (50, (64, 128)),
    ],
)
def test_the_network_works_at_multiples_of_16_up_to_1440(height, size):
    assert network_size(height) == size


@pytest.mark.parametrize("height", [20, 64, 71, 130])
def test_any_panorama_gives_maps_at_the_networks_size(engine, height):
    prediction = predict(engine, ("albedo", "depth"), picture(height))
    assert prediction["albedo"].shape == (64, 128, 3)
    assert prediction["depth"].shape == prediction["sky"].shape == (64, 128)


def test_the_method_is_that_of_the_paper():
    """What the recorded sets bring along, so that they cannot tell if it changed here."""
    assert prompt.TEXT == "[EQUIRECTANGULAR]"
    assert (pipeline.GUIDANCE, pipeline.STEPS, pipeline.WRAP_COLUMNS) == (3.5, 28, 6)


@pytest.mark.parametrize("task", ["rgb_to_depth", "rgb_camray_to_normal"])
def test_a_prediction_is_what_the_official_code_computed(weights, monkeypatch, task):
    """The engine's own path from the panorama to the decoded image, at its own settings."""
    inputs = load_file(GOLDEN / "inputs.safetensors")
    recorded = load_file(GOLDEN / f"expected_{task}.safetensors")
    target, posterior = recorded["target_noise"], recorded["posterior_noise"].split(1)
    # The engine draws for the rays whether or not a task sees them.
    drawn, genuine = itertools.chain([target, *posterior], itertools.repeat(target)), torch.randn

    def randn(shape, **options):
        return next(drawn) if shape == tuple(target.shape) else genuine(shape, **options)

    embeddings = prompt.Prompt(inputs["prompt_embeds"], inputs["pooled_prompt_embeds"])
    monkeypatch.setattr(prompt, "load", lambda *_: embeddings)
    monkeypatch.setattr(torch, "randn", randn)
    monkeypatch.setattr(flux_engine, "needed", lambda *_: [task])
    monkeypatch.setattr(readout, "read", lambda task, image: {task: image})
    engine = FluxEngine(weights, ADAPTERS, device="cpu")
    engine.load(ignore)
    image = predict(engine, ("depth",), inputs["panorama_u8"].numpy() / np.float32(255))[task]
    expected = recorded["target_image"][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-4)


def test_maps_are_in_range(engine):
    prediction = predict(engine, ALL)
    assert set(prediction) == {*ALL, "sky"}
    assert all(array.dtype == np.float32 for array in prediction.values())
    for name in ("albedo", "roughness", "metallic", "semantic", "sky"):
        assert 0 <= prediction[name].min() <= prediction[name].max() <= 1
    assert prediction["depth"].min() > 0
    normal = prediction["normal"]
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
    assert (np.sum(normal * frames.directions(64, 128), axis=-1) <= 1e-6).all()


def test_the_sky_comes_with_every_map(engine):
    assert set(predict(engine, ("albedo",))) == {"albedo", "depth", "sky"}
    assert set(predict(engine, ("depth",))) == {"depth", "sky"}


def test_the_seed_decides_and_other_maps_do_not(engine):
    alone = predict(engine, ("depth",), seed=4)["depth"]
    among = predict(engine, ALL, seed=4)["depth"]
    assert np.array_equal(alone, among)
    assert not np.allclose(alone, predict(engine, ("depth",), seed=5)["depth"])


def test_camera_rays_change_the_normals_alone(weights, engine):
    other = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=2, camera_rays=True)
    other.load(ignore)
    names = ("albedo", "normal")
    plain, guided = predict(engine, names), predict(other, names)
    assert np.array_equal(plain["albedo"], guided["albedo"])
    assert not np.allclose(plain["normal"], guided["normal"], atol=1e-2)
    assert [entry["name"] for entry in other.adapters()[2:5]] == ["rgb", "camray", "normal"]


def test_the_autoencoder_keeps_32_bits_beside_a_transformer_of_16():
    parts = components.load(MODEL, torch.bfloat16)
    assert parts.transformer.dtype == torch.bfloat16
    assert {weight.dtype for weight in parts.vae.parameters()} == {torch.float32}


def test_fp8_halves_the_linears_and_spares_adapters():
    transformer = components.load(MODEL, torch.float32).transformer
    components.store_in_fp8(transformer)
    files = {name: ADAPTERS / "rgb_to_pbr" / name / PUBLISHED_NAME for name in ("rgb", "pbr")}
    inject(transformer, files, dtype=transformer.dtype)
    layer = transformer.transformer_blocks[0].attn.to_q
    assert layer.base_layer.weight.dtype == torch.float8_e4m3fn
    assert layer.lora_A["rgb"].weight.dtype == torch.float32
    kinds = {weight.dtype for weight in transformer.time_text_embed.parameters()}
    assert kinds == {torch.float32}


def test_fp8_stays_close_to_full_precision(weights, engine):
    other = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=2, fp8=True)
    other.load(ignore)
    full, stored = predict(engine, ("albedo",)), predict(other, ("albedo",))
    difference = np.abs(full["albedo"] - stored["albedo"]).mean()
    assert 0 < difference < 0.02


def test_the_report_names_the_adapters_in_use(engine):
    predict(engine, ("roughness",))
    entries = engine.adapters()
    assert [(entry["task"], entry["name"]) for entry in entries] == [
        ("rgb_to_pbr", "rgb"),
        ("rgb_to_pbr", "pbr"),
        ("rgb_to_depth", "rgb"),
        ("rgb_to_depth", "depth"),
    ]
    for entry in entries:
        assert entry["modules_injected"] == entry["modules_expected"] == 21
        assert entry["tensors_equal"] == entry["tensors"] == 42
        assert entry["effect_off"] > 0.01
        assert entry["effect_swapped"] > 0.01


def test_progress_rises_and_cancelling_stops(engine):
    seen = []
    predict_all = lambda cancelled: engine.predict(  # noqa: E731
        picture(64), ("albedo", "depth"), lambda *step: seen.append(step), cancelled
    )
    predict_all(lambda: False)
    fractions = [fraction for _stage, fraction in seen]
    assert fractions == sorted(fractions)
    assert {stage for stage, _fraction in seen} == {"Loading Adapters", "Albedo", "Depth"}
    loading = [fraction for stage, fraction in seen if stage == "Loading Adapters"]
    assert loading[0] == 0 < loading[1]

    seen.clear()
    with pytest.raises(Cancelled):
        predict_all(lambda: any(stage == "Albedo" for stage, _fraction in seen))
    assert [stage for stage, _ in seen if stage != "Loading Adapters"] == ["Albedo"]
    assert set(predict_all(lambda: False)) == {"albedo", "depth", "sky"}


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_a_cancel_takes_effect_while_adapters_are_loaded(weights, asked):
    """Before each task's, and in what measures them."""
    engine = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=1)
    engine.load(ignore)
    seen, left = [], iter(range(asked - 1))
    with pytest.raises(Cancelled):
        engine.predict(
            picture(64), ALL, lambda *step: seen.append(step), lambda: next(left, None) is None
        )
    assert len(seen) == min(asked - 1, 1)
    assert engine._entries == {}
    assert "albedo" in predict(engine, ("albedo",))


def test_a_cancel_takes_effect_within_a_step(engine):
    predict(engine, ("albedo",))  # the adapters are in
    asked = []

    def cancelled():
        asked.append(True)
        return len(asked) > 6

    seen = []
    with pytest.raises(Cancelled):
        engine.predict(picture(64), ("albedo",), lambda *step: seen.append(step), cancelled)
    # Before each task's adapters, the latents and the first step, then before each of its blocks.
    assert [stage for stage, _ in seen].count("Albedo") == 1
    assert len(asked) == 7
    assert "albedo" in predict(engine, ("albedo",))


def test_folders_that_do_not_fit_are_named(weights, tmp_path):
    with pytest.raises(OmnixError, match="needs two folders"):
        engines.create("flux", {})
    with pytest.raises(OmnixError, match="it lacks transformer, vae, scheduler"):
        FluxEngine(tmp_path, ADAPTERS).load(ignore)
    with pytest.raises(OmnixError, match="holds no adapters"):
        FluxEngine(weights, tmp_path).load(ignore)
    with pytest.raises(OmnixError, match="nowhere is no folder"):
        FluxEngine(weights, tmp_path / "nowhere").load(ignore)
    with pytest.raises(OmnixError, match="not between 1 and 1000"):
        FluxEngine(weights, ADAPTERS, steps=10**14)


@pytest.mark.parametrize("name", ["nonsense", "meta", "hpu", "cuda:99"])
def test_a_device_that_cannot_compute_is_named(weights, name):
    with pytest.raises(OmnixError, match=f"no device {name} that FLUX can use"):
        FluxEngine(weights, ADAPTERS, device=name).load(ignore)


def test_damaged_weights_are_named(weights, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["x_embedder.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(OmnixError, match=r"1 tensors are missing .*x_embedder"):
        FluxEngine(folder, ADAPTERS, device="cpu").load(ignore)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OmnixError, match=r"model\.safetensors is truncated"):
        FluxEngine(folder, ADAPTERS, device="cpu").load(ignore)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_pickled_weights_are_not_opened(weights, tmp_path, part, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    (file,) = (folder / part).glob("*.safetensors")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(OmnixError, match=f"{part} cannot be read"):
        FluxEngine(folder, ADAPTERS, device="cpu").load(ignore)


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2"])
def test_an_index_that_names_pickles_is_refused(weights, tmp_path, part, monkeypatch):
    """Loaders open whatever the index of a model in parts lists."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    (folder / part).mkdir(exist_ok=True)
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    torch.save({}, folder / part / "evil.bin")
    index = folder / part / "model.safetensors.index.json"
    for named in ("evil.bin", "../evil.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a": named}}))
        with pytest.raises(OmnixError, match="names files that are not safetensors files beside"):
            FluxEngine(folder, ADAPTERS, device="cpu").load(ignore)
    index.write_text("[]")
    with pytest.raises(OmnixError, match="is no index of weights"):
        FluxEngine(folder, ADAPTERS, device="cpu").load(ignore)


@pytest.mark.parametrize(
    "file", ["transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
)
@pytest.mark.parametrize("text", ["", "{", '"black-forest-labs/FLUX.1-dev"', "[" * 99999])
def test_a_damaged_configuration_is_named_and_nothing_is_downloaded(
    weights, tmp_path, monkeypatch, file, text
):
    monkeypatch.setattr("socket.socket.connect", lambda *address: pytest.fail("went online"))
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    (folder / file).write_text(text)
    with pytest.raises(OmnixError, match=f"{file} is no JSON object"):
        FluxEngine(folder, ADAPTERS, device="cpu").load(ignore)


def test_loading_asks_for_local_files_alone(weights, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *address: pytest.fail("went online"))
    parts = (
        FluxTransformer2DModel,
        components.AutoencoderKL,
        components.FlowMatchEulerDiscreteScheduler,
    )
    asked = watch(monkeypatch, *parts)
    FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=1).load(ignore)
    assert len(asked) == len(parts) and all(asked)


@pytest.mark.parametrize("part", ["transformer", "vae", "scheduler"])
def test_a_configuration_of_something_else_is_named(weights, tmp_path, part):
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    (config,) = (folder / part).glob("*.json")
    config.write_text('{"_class_name": 3}')
    with pytest.raises(OmnixError, match=f"{part} cannot be read"):
        FluxEngine(folder, ADAPTERS, device="cpu").load(ignore)


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("transformer/config.json", {"guidance_embeds": False}, "4 tensors that .*no place for"),
        ("transformer/config.json", {"axes_dims_rope": [2, 2, 2]}, "sum of attention_head_dim"),
        ("transformer/config.json", {"axes_dims_rope": [5, 5, 6]}, "three even numbers"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": False}, "use_dynamic_shif"),
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": True}, "use_karras_sigmas"),
        ("scheduler/scheduler_config.json", {"max_image_seq_len": 256}, "max_image_seq_len"),
        ("scheduler/scheduler_config.json", {"max_shift": "a"}, "max_shift = 'a', which is no"),
        ("vae/config.json", {"shift_factor": None}, "shift_factor = None, which is no number"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor = 0"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(weights, tmp_path, file, changes, words):
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    config = folder / file
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(OmnixError, match=f"{config.parent}.*{words}"):
        FluxEngine(folder, ADAPTERS, device="cpu").load(ignore)


@pytest.mark.parametrize(
    ("part", "model", "changes", "words"),
    [
        ("vae", components.AutoencoderKL, {"latent_channels": 4}, "has 4 latent channels"),
        ("vae", components.AutoencoderKL, {"in_channels": 4}, "other than 3 channels"),
        ("transformer", FluxTransformer2DModel, {"out_channels": 32}, "output is unlike its input"),
    ],
)
def test_another_model_is_named(weights, tmp_path, part, model, changes, words):
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    other = model.from_config(model.load_config(folder / part) | changes)
    other.save_pretrained(folder / part)
    with pytest.raises(OmnixError, match=rf"{part}.config\.json .*{words}"):
        FluxEngine(folder, ADAPTERS, device="cpu").load(ignore)


@pytest.mark.parametrize(
    ("found", "best"),
    [("cuda", "cuda"), ("mps", "mps"), ("xpu", "xpu"), ("hpu", "cpu"), (None, "cpu")],
)
def test_the_best_device_is_used_and_its_memory_given_back(monkeypatch, found, best):
    there = None if found is None else torch.device(found)
    monkeypatch.setattr(
        torch.accelerator,
        "current_accelerator",
        lambda check_available=False: there if check_available else None,
    )
    emptied = []
    for kind in ("cuda", "mps", "xpu"):
        module = getattr(torch, kind)
        monkeypatch.setattr(module, "empty_cache", lambda kind=kind: emptied.append(kind))
    assert best_device() == best
    FluxEngine("weights", "adapters").unload()
    assert emptied == [best] * (best != "cpu")


@pytest.mark.parametrize(("name", "dtype"), [("cuda", torch.bfloat16), ("mps", torch.bfloat16)])
def test_an_accelerator_computes_in_bfloat16(weights, monkeypatch, name, dtype):
    """As far as one gets without the accelerator: to the type that the weights are read in."""
    asked = []

    def load(folder, kind):
        asked.append(kind)
        raise OmnixError("enough")

    monkeypatch.setattr(flux_engine, "_device", torch.device)
    monkeypatch.setattr(components, "load", load)
    with pytest.raises(OmnixError, match="enough"):
        FluxEngine(weights, ADAPTERS, device=name).load(ignore)
    assert asked == [dtype]


def test_metal_has_no_8_bit_floats(weights, monkeypatch):
    monkeypatch.setattr(flux_engine, "_device", torch.device)
    with pytest.raises(OmnixError, match="leave out the engine's option fp8"):
        FluxEngine(weights, ADAPTERS, device="mps", fp8=True).load(ignore)


def test_a_refused_adapter_spoils_neither_the_engine_nor_other_maps(weights, tmp_path):
    root = tmp_path / "adapters"
    shutil.copytree(ADAPTERS, root)
    good = root / "rgb_to_depth" / "rgb" / "pytorch_lora_weights.safetensors"
    twin = root / "rgb_to_depth" / "depth" / "pytorch_lora_weights.safetensors"
    original = twin.read_bytes()
    shutil.copy(good, twin)
    broken = root / "rgb_to_pbr" / "pbr" / "pytorch_lora_weights.safetensors"
    tensors = load_file(broken)
    save_file(dict(list(tensors.items())[2:]), broken)

    engine = FluxEngine(weights, root, device="cpu", height=64, steps=1)
    engine.load(ignore)
    with pytest.raises(OmnixError, match="missing"):
        predict(engine, ("albedo", "metallic"))
    with pytest.raises(OmnixError, match=rf"{good.name}.*may be a copy"):
        predict(engine, ("depth",))
    twin.write_bytes(original)
    assert {"albedo", "depth"} <= set(predict(engine, ("albedo", "depth")))


def test_the_adapters_of_another_task_are_refused(weights, tmp_path):
    """Whatever else their files say."""
    root = tmp_path / "adapters"
    shutil.copytree(ADAPTERS, root)
    for name, other in (("rgb", "rgb"), ("normal", "albedo")):
        taken = load_file(root / "rgb_to_albedo" / other / PUBLISHED_NAME)
        save_file(taken, root / "rgb_to_normal" / name / PUBLISHED_NAME, {"author": "somebody"})
    engine = FluxEngine(weights, root, device="cpu", height=64, steps=1)
    engine.load(ignore)
    with pytest.raises(OmnixError, match=r"rgb_to_normal.* and .*rgb_to_albedo.* are one and"):
        predict(engine, ("albedo", "normal"))
    # Either may be the wrong one: none is used before all are read again.
    with pytest.raises(RuntimeError, match="load"):
        predict(engine, ("albedo",))
    # With the right ones the same engine works.
    for name in ("rgb", "normal"):
        right = ADAPTERS / "rgb_to_normal" / name / PUBLISHED_NAME
        shutil.copy(right, root / "rgb_to_normal" / name / PUBLISHED_NAME)
    engine.load(ignore)
    assert {"albedo", "normal"} <= set(predict(engine, ("albedo", "normal")))


def test_a_copy_of_an_adapter_that_no_map_asked_for_is_refused(weights, tmp_path):
    root = shutil.copytree(ADAPTERS, tmp_path / "adapters")
    shutil.copy(root / "rgb_to_albedo/rgb" / PUBLISHED_NAME, root / "rgb_to_depth/rgb")
    shutil.copy(root / "rgb_to_albedo/albedo" / PUBLISHED_NAME, root / "rgb_to_depth/depth")
    engine = FluxEngine(weights, root, device="cpu", height=64, steps=1)
    engine.load(ignore)
    with pytest.raises(OmnixError, match=r"rgb_to_depth.* and .*rgb_to_albedo.* are one and"):
        predict(engine, ("depth",))


def test_files_that_changed_are_read_again(weights, tmp_path):
    folder, root = tmp_path / "weights", tmp_path / "adapters"
    shutil.copytree(weights, folder)
    for task in ("rgb_to_albedo", "rgb_to_depth"):
        shutil.copytree(ADAPTERS / task, root / task)
    engine = FluxEngine(folder, root, device="cpu", height=64, steps=1)

    def albedo():
        engine.load(ignore)
        return predict(engine, ("albedo",))["albedo"]

    first, kept = albedo(), engine._loaded
    assert np.array_equal(albedo(), first)
    assert engine._loaded is kept

    adapter = root / "rgb_to_albedo" / "albedo" / PUBLISHED_NAME
    shutil.copy(ADAPTERS / "rgb_to_normal" / "normal" / PUBLISHED_NAME, adapter)
    second = albedo()
    assert not np.array_equal(second, first)
    assert engine.adapters()[1]["file"] == str(adapter)
    assert engine.adapters()[1]["sha256"] == maps.sha256(adapter)

    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.5}))
    assert not np.array_equal(albedo(), second)
    adapter.unlink()
    with pytest.raises(OmnixError, match="lacks the adapter albedo"):
        albedo()


def test_a_probe_that_fails_leaves_no_adapter(weights, monkeypatch):
    engine = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=1)
    engine.load(ignore)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(sampler.Sampler, "_measure", full)
        with pytest.raises(OmnixError, match="too little memory"):
            predict(engine, ("albedo",))
    assert "albedo" in predict(engine, ("albedo",))


def test_normals_that_face_away_are_told(weights, monkeypatch):
    engine = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=1)
    engine.load(ignore)
    rays = frames.directions(64, 128)
    away = np.stack([rays[..., 0], rays[..., 2], rays[..., 1]], -1) * 0.5 + 0.5
    for image, share in ((1.0 - away, 0.0), (away, 1.0)):
        decoded = torch.tensor(image.transpose(2, 0, 1)[None].copy())
        monkeypatch.setattr(flux_engine.autoencoder, "decode", lambda *_, d=decoded: d)
        normal = predict(engine, ("normal",))["normal"]
        assert (normal * rays).sum(-1).max() <= 0.0
        assert readout.facing_away(image) == pytest.approx(share)
        assert len(engine.warnings(("normal",))) == share
    assert "faced away from the viewer" in engine.warnings(("normal",))[0]
    assert engine.warnings(("albedo",)) == []


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_an_autoencoder_that_gives_no_numbers_is_named(weights, tmp_path, side):
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    (file,) = (folder / "vae").glob("*.safetensors")
    tensors = load_file(file)
    tensors[f"{side}.conv_in.weight"] *= torch.nan
    save_file(tensors, file, {"format": "pt"})
    engine = FluxEngine(folder, ADAPTERS, device="cpu", height=64, steps=1)
    engine.load(ignore)
    with pytest.raises(OmnixError, match="vae gave no finite numbers; download it again"):
        predict(engine, ("normal",))


@pytest.mark.parametrize(
    ("fp8", "device", "advice"),
    [
        (False, "cpu", "download it again"),
        (False, "cuda", "in bfloat16: try the device cpu"),
        (True, "cpu", "in 8-bit weights: leave them out"),
    ],
)
def test_a_transformer_that_gives_no_numbers_is_named(weights, monkeypatch, fp8, device, advice):
    """Reduced precision is blamed where it is in use alone."""
    engine = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=1, fp8=fp8)
    engine.load(ignore)

    def overflow(*_, **__):
        engine._loaded = dataclasses.replace(engine._loaded, device=torch.device(device))
        return torch.full((1, 16, 8, 16), torch.nan)

    monkeypatch.setattr(engine._loaded.sampler, "sample", overflow)
    with pytest.raises(OmnixError, match=f"transformer gave no finite numbers; .*{advice}"):
        predict(engine, ("normal",))


def test_a_missing_task_is_named(weights, tmp_path):
    root = tmp_path / "adapters"
    shutil.copytree(ADAPTERS, root)
    shutil.rmtree(root / "rgb_to_semantic")
    engine = FluxEngine(weights, root, device="cpu", height=64, steps=1)
    engine.load(ignore)
    with pytest.raises(OmnixError, match="lacks the adapter rgb and semantic of rgb_to_semantic"):
        predict(engine, ("semantic",))


def test_too_little_memory_says_what_to_change(weights, monkeypatch):
    """Raised where an accelerator raises it: inside the transformer."""
    engine = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=1)
    engine.load(ignore)

    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(CrossAdapterAttnProcessor, "__call__", full)
    with pytest.raises(OmnixError, match="8-bit weights or a smaller network height"):
        predict(engine, ("albedo",))


def no_memory(kind):
    """As torch on the CPU, Python, the system and, in its place, Diffusers tell of it."""
    if kind == "torch":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 GB")
    if kind == "system":
        raise OSError(errno.ENOMEM, "no room")
    try:
        raise MemoryError
    except MemoryError:
        if kind == "python":
            raise
        raise OSError("Unable to load weights from checkpoint file")  # noqa: B904


@pytest.mark.parametrize("kind", ["torch", "system", "python", "diffusers"])
def test_too_little_memory_of_the_computer_is_not_told_as_damage(weights, monkeypatch, kind):
    engine = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(components.AutoencoderKL, "from_pretrained", lambda *_, **__: no_memory(kind))
        with pytest.raises(OmnixError, match=r"too little memory to read .*vae; close other"):
            engine.load(ignore)
    engine.load(ignore)
    monkeypatch.setattr(CrossAdapterAttnProcessor, "__call__", lambda *_: no_memory(kind))
    with pytest.raises(OmnixError, match="This computer has too little memory for FLUX"):
        predict(engine, ("albedo",))


def test_unload_gives_the_memory_back(weights):
    engine = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=1)
    engine.load(ignore)
    transformer = weakref.ref(engine._loaded.sampler._transformer)
    engine.unload()
    assert transformer() is None


def test_unload_and_load_again(weights):
    engine = FluxEngine(weights, ADAPTERS, device="cpu", height=64, steps=1)
    engine.load(ignore)
    first = predict(engine, ("albedo",))["albedo"]
    engine.unload()
    assert engine.adapters() == []
    engine.load(ignore)
    assert np.array_equal(first, predict(engine, ("albedo",))["albedo"])


def studio_light(name):
    """One of the panoramas that Blender ships, found without importing bpy."""
    spec = importlib.util.find_spec("bpy")
    if spec is None or spec.origin is None:
        pytest.skip("bpy is not installed")
    return next(Path(spec.origin).parent.glob(f"*/datafiles/studiolights/world/{name}.exr"))


def test_an_hdri_becomes_a_complete_map_set(weights, tmp_path):
    """The path of a real job: a shipped HDRI in, all maps out, at the source's size."""
    settings = Settings(
        engine="flux",
        maps=maps.REQUESTABLE,
        size=256,
        options={
            "weights": str(weights), "adapters": str(ADAPTERS), "device": "cpu", "height": 64,
            "steps": 1,
        },
    )  # fmt: skip
    report = extract(studio_light("interior"), tmp_path / "set", settings)
    arrays = maps.load(tmp_path / "set")
    assert set(arrays) == {*maps.REQUESTABLE, "panorama"}
    for name, array in arrays.items():
        assert array.shape[:2] == (128, 256), name
        assert np.isfinite(array).all(), name
    assert (tmp_path / "set" / maps.PREVIEW).is_file()
    assert report["engine"] == "flux"
    assert report["size"] == [256, 128]
    assert len(report["adapters"]) == 10
    assert report["checks"]

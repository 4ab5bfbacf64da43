# SPDX-License-Identifier: GPL-3.0-or-later
"""The compact engine: verified weights, real adapters, continuous and deterministic maps."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from blender_omnix.adapters.inject import activate
from blender_omnix.engines.base import Engine
from blender_omnix.engines.compact.engine import (
    BASE,
    CARD,
    WEIGHTS,
    CompactEngine,
    finish,
    needed_tasks,
    probe,
    to_world,
    with_mirror_image,
)
from blender_omnix.engines.compact.network import TASKS
from blender_omnix.errors import Cancelled, OmnixError
from blender_omnix.maps import sha256
from blender_omnix.panorama import frames, planes, resample

ALL = ("albedo", "normal", "roughness", "metallic", "depth")


def silent(_stage: str, _fraction: float) -> None:
    pass


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def engine() -> CompactEngine:
    torch.set_num_threads(1)
    engine = CompactEngine()
    engine.load(silent)
    return engine


@pytest.fixture(scope="module")
def prediction(engine):
    return engine.predict(probe(256), ALL, silent, never)


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(WEIGHTS, tmp_path / "weights")


def test_it_is_an_engine(engine):
    checked: Engine = engine
    assert checked.name == "compact"
    assert checked.makes == set(ALL)


def test_maps_have_their_shapes_and_ranges(engine, prediction):
    assert set(prediction) == {*ALL, "sky"}
    for name, value in prediction.items():
        assert (
            value.shape[:2] == (engine.height, 2 * engine.height) and value.dtype == np.float32
        ), name
        assert np.isfinite(value).all()
    for name in ("albedo", "roughness", "metallic", "sky"):
        assert prediction[name].min() >= 0 and prediction[name].max() <= 1
    assert prediction["depth"].min() > 0


def test_normals_are_unit_and_face_the_viewer(prediction):
    normal = prediction["normal"]
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
    assert (normal * frames.directions(*normal.shape[:2])).sum(-1).max() < 0


def test_gravity_frame_to_world():
    up = np.zeros((128, 256, 3), np.float32)
    up[..., 2] = 1
    np.testing.assert_allclose(to_world(up)[100], [[0, 0, 1]] * 256, atol=1e-6)
    facing = np.zeros((128, 256, 3), np.float32)
    facing[..., 1] = -1
    # Column 64 looks along +Y (u = 0.25), so a wall there faces -Y.
    np.testing.assert_allclose(to_world(facing)[64, 64], [0, -1, 0], atol=0.02)


def test_the_same_panorama_gives_the_same_maps(engine, prediction):
    again = engine.predict(probe(256), ALL, silent, never, seed=7)
    for name in ALL:
        np.testing.assert_array_equal(again[name], prediction[name])


def test_a_turned_panorama_gives_turned_maps(engine, prediction):
    turned = engine.predict(np.roll(probe(256), 128, 1), ALL, silent, never)
    quarter = engine.height // 2
    for name in ("albedo", "roughness", "metallic", "depth", "sky"):
        expected = np.roll(prediction[name], quarter, 1)
        np.testing.assert_allclose(turned[name], expected, rtol=1e-3, atol=1e-3)
    # A quarter turn to the right takes +X to -Y.
    x, y, z = np.moveaxis(np.roll(prediction["normal"], quarter, 1), -1, 0)
    np.testing.assert_allclose(turned["normal"], np.stack([y, -x, z], -1), atol=2e-3)


def test_a_mirrored_panorama_gives_mirrored_maps(engine, prediction):
    mirrored = engine.predict(probe(256)[:, ::-1].copy(), ALL, silent, never)
    for name in ("albedo", "roughness", "depth", "sky"):
        np.testing.assert_allclose(
            mirrored[name], prediction[name][:, ::-1], rtol=1e-3, atol=1e-3, err_msg=name
        )
    # Left and right exchanged: Y, which points left, changes its sign.
    normal = mirrored["normal"] * np.array([1, -1, 1], np.float32)
    assert np.mean(np.abs(normal - prediction["normal"][:, ::-1])) < 1e-3


def test_a_map_that_the_card_calls_constant_is_one_and_says_so(copied):
    card = json.loads((copied / CARD).read_text())
    card["constants"] = {"metallic": 0.0}
    (copied / CARD).write_text(json.dumps(card))
    engine = CompactEngine(copied)
    engine.load(silent)
    maps = engine.predict(probe(128), ("roughness", "metallic"), silent, never)
    assert not maps["metallic"].any()
    assert np.ptp(maps["roughness"]) > 0
    (warning,) = engine.warnings(("roughness", "metallic"))
    assert warning.startswith("The metallic map is 0 everywhere")
    assert engine.warnings(("roughness",)) == []


def test_metal_is_raised_and_sharpened_as_the_card_says(engine, copied, monkeypatch):
    def metal(engine):
        return engine.predict(probe(128), ("metallic",), silent, never)["metallic"]

    card = json.loads((copied / CARD).read_text())
    card |= {"constants": {}, "metal": {"raised": -2.0, "gain": 0.5}}
    (copied / CARD).write_text(json.dumps(card))
    told = CompactEngine(copied)
    told.load(silent)
    monkeypatch.setattr(engine, "_constants", {})
    monkeypatch.setattr(engine, "_metal", {"raised": 0.0, "gain": 1.0})
    plain, changed = metal(engine), metal(told)
    logit = np.log(plain / (1 - np.minimum(plain, 1 - 1e-6)))
    np.testing.assert_allclose(changed, 1 / (1 + np.exp(1 - logit / 2)), atol=2e-3)
    assert np.abs(changed - plain).max() > 0.05


@pytest.mark.parametrize("name", ["albedo", "depth"])
def test_no_seam_at_the_edges(prediction, name):
    value = np.atleast_3d(prediction[name])
    steps = np.abs(np.diff(value, axis=1)).mean()
    assert np.abs(value[:, 0] - value[:, -1]).mean() < 4 * steps


def test_adapters_are_reported_and_proven(engine):
    entries = engine.adapters()
    assert [entry["task"] for entry in entries] == list(TASKS)
    for entry in entries:
        assert entry["modules_injected"] == entry["modules_expected"] > 0
        assert entry["tensors_equal"] == entry["tensors"] == 2 * entry["modules_injected"]
        assert entry["effect_off"] > 1e-3 and entry["effect_swapped"] > 1e-3


def test_each_adapter_changes_its_task(engine):
    network = engine.network
    panorama = torch.from_numpy(probe(64).transpose(2, 0, 1).copy())[None]
    with torch.inference_mode():
        features = network.encode(panorama)
        for task in TASKS:
            activate(network, task)
            on = network.decode(features, task, panorama)
            activate(network, None)
            off = network.decode(features, task, panorama)
            assert any((on[name] - off[name]).abs().max() > 1e-3 for name in on), task


@pytest.fixture(scope="module")
def apart(engine):
    """What each task's head gives with that task's adapter, for the panorama of `prediction`."""
    picture = resample.resize(probe(256), engine.height, 2 * engine.height)
    seen = with_mirror_image(picture.astype(np.float32))
    maps = {}
    with torch.inference_mode():
        features = engine.network.encode(seen)
        for task in ("albedo", "normal", "depth"):
            activate(engine.network, task)
            maps |= finish(engine.network.decode(features, task, seen))
    return maps


@pytest.mark.parametrize("name", ["albedo", "depth", "sky"])
def test_each_map_comes_from_its_own_tasks_adapter(prediction, apart, name):
    np.testing.assert_allclose(prediction[name], apart[name], rtol=1e-4, atol=1e-5)


def test_normals_of_planes_are_made_theirs(prediction, apart):
    snapped = planes.snap_normals(apart["normal"], apart["depth"], apart["sky"])
    np.testing.assert_allclose(prediction["normal"], snapped, atol=1e-4)
    assert np.abs(snapped - apart["normal"]).mean() > 1e-3


def test_only_what_is_needed_runs():
    assert needed_tasks(["albedo"]) == ["albedo", "depth"]
    assert needed_tasks(["metallic"]) == ["pbr", "depth"]
    assert needed_tasks(["depth"]) == ["depth"]
    assert needed_tasks(ALL) == list(TASKS)


def test_cancel_between_tasks(engine):
    stages = []
    with pytest.raises(Cancelled):
        engine.predict(probe(64), ALL, lambda s, _: stages.append(s), lambda: len(stages) == 2)
    assert stages == ["Albedo", "Normal"]


def test_progress_rises_to_one(engine):
    seen = []
    engine.predict(probe(64), ALL, lambda stage, part: seen.append((stage, part)), never)
    parts = [part for _, part in seen]
    assert parts == sorted(parts) and parts[-1] == 1
    assert [stage for stage, _ in seen[:-1]] == ["Albedo", "Normal", "PBR", "Depth"]


def test_unload_gives_everything_back():
    engine = CompactEngine()
    engine.load(silent)
    engine.unload()
    assert engine.network is None and engine.adapters() == []
    with pytest.raises(RuntimeError):
        engine.predict(probe(64), ALL, silent, never)


@pytest.mark.parametrize("name", [CARD, BASE, "normal.safetensors"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(OmnixError, match=f"{name} is missing"):
        CompactEngine(copied).load(silent)


@pytest.mark.parametrize("name", [BASE, "albedo.safetensors"])
def test_a_truncated_file_is_named(copied, name):
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[:-100])
    with pytest.raises(OmnixError, match=f"{name} is truncated or altered"):
        CompactEngine(copied).load(silent)


def test_an_altered_file_is_named(copied):
    data = bytearray((copied / "depth.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "depth.safetensors").write_bytes(data)
    with pytest.raises(OmnixError, match=r"depth\.safetensors is truncated or altered"):
        CompactEngine(copied).load(silent)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3}'])
def test_a_damaged_card_is_named(copied, text):
    (copied / CARD).write_text(text)
    with pytest.raises(OmnixError, match=r"card\.json|base\.safetensors"):
        CompactEngine(copied).load(silent)


def test_swapped_adapter_files_are_refused(copied):
    (copied / "depth.safetensors").rename(copied / "keep")
    (copied / "normal.safetensors").rename(copied / "depth.safetensors")
    (copied / "keep").rename(copied / "normal.safetensors")
    with pytest.raises(OmnixError, match=r"normal\.safetensors is truncated or altered"):
        CompactEngine(copied).load(silent)


def save_anew(weights, name, tensors):
    """Put a file in place of one of the weights, with the card's blessing."""
    save_file(tensors, weights / name)
    card = json.loads((weights / CARD).read_text())
    card["sha256"][name] = sha256(weights / name)
    (weights / CARD).write_text(json.dumps(card))


def test_an_adapter_without_effect_is_refused_whatever_the_card_says(copied):
    tensors = {key: value.float() for key, value in load_file(copied / "depth.safetensors").items()}
    faint = {key: value * (1e-9 if "lora_B" in key else 1.0) for key, value in tensors.items()}
    save_anew(copied, "depth.safetensors", faint)
    with pytest.raises(OmnixError, match=r"depth\.safetensors changes nothing"):
        CompactEngine(copied).load(silent)


@pytest.mark.parametrize(("copy", "original"), [("normal", "albedo"), ("depth", "normal")])
def test_an_adapter_that_is_anothers_copy_is_refused_whatever_the_card_says(copied, copy, original):
    save_anew(copied, f"{copy}.safetensors", load_file(copied / f"{original}.safetensors"))
    with pytest.raises(OmnixError, match=rf"{copy}\.safetensors and .*{original}.* the same"):
        CompactEngine(copied).load(silent)


def test_weights_of_another_version_are_refused_in_a_sentence(copied):
    tensors = load_file(copied / BASE)
    tensors["encoder.stem.bias"] = tensors["encoder.stem.bias"][1:].contiguous()
    tensors["encoder.root.bias"] = torch.zeros(4)
    save_anew(copied, BASE, tensors)
    with pytest.raises(OmnixError, match=r"2 tensors differ.*encoder\.root\.bias") as refused:
        CompactEngine(copied).load(silent)
    assert str(copied / BASE) in str(refused.value) and "\n" not in str(refused.value)


def test_the_shipped_weights_are_small_and_described():
    total = sum(file.stat().st_size for file in WEIGHTS.iterdir())
    assert total < 25e6
    card = json.loads((WEIGHTS / CARD).read_text())
    assert {"version", "code", "command", "data", "recipe", "samples", "sha256"} <= set(card)

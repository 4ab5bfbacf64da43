# SPDX-License-Identifier: GPL-3.0-or-later
"""Data, augmentation, losses, metrics and a few training steps, on small synthetic scenes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from blender_omnix.engines.compact.engine import CompactEngine, verify
from blender_omnix.engines.compact.network import TASKS, CompactNetwork, adapted_modules
from blender_omnix.panorama import frames, tonemap, weighted
from tests.fakes import BoxRoomEngine
from training import augment, export, losses, metrics, pack, sheet
from training.dataset import Scenes, read, relight, sample, scene_files, under
from training.evaluate import (
    PACKAGE,
    Delivered,
    WithoutAdapters,
    box_maps,
    outdated,
    previous_delivered,
    previous_version,
    room_box,
    tilted_axes,
    truth_of,
)
from training.generate import RECIPE
from training.muon import Muon, orthogonalise
from training.train import (
    Batches,
    Model,
    Recipe,
    Run,
    draw,
    grow,
    learning_rate,
    load_average,
    loader,
    main,
    train,
    update,
)

BOX = (-2.0, -3.0, -1.5, 3.0, 2.0, 1.2)
CAMERA_HEIGHT = 1.5
HEIGHT = 128
ABOUT = {
    "code": "-",
    "scenes": 3,
    "samples": 7,
    "cpu_hours": 0.5,
    "height": 128,
    "grown_from": {"samples": 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three empty rooms with one colour per wall, as scene files."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("scenes")
    (root / "train").mkdir()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        depth, normal = box_maps(BOX, HEIGHT)
        wall = (normal @ np.array([1, 2, 3])).astype(int) + 3
        albedo = rng.integers(20, 230, (7, 3), np.uint8)[wall]
        linear = (albedo / 255.0) ** 2.2
        depth[:20, :30] = 0.0
        np.savez_compressed(
            root / "train" / f"{seed:06d}.npz",
            radiance=np.stack([linear, linear / (1 + depth[..., None])]).astype(np.float16),
            lights=rng.uniform(0.5, 2.0, (4, 2, 3)).astype(np.float32),
            albedo=albedo,
            normal=np.round(127 * normal).astype(np.int8),
            depth=depth.astype(np.float16),
            pbr=rng.integers(0, 255, (7, 2), np.uint8)[wall],
            object=wall == 2,
            meta=json.dumps(
                {
                    "seed": seed,
                    "kind": "room",
                    "style": "box",
                    "camera_height": CAMERA_HEIGHT,
                    "tilt_degrees": [0.0, 0.0],
                    "box": BOX,
                }
            ),
        )
    return root


@pytest.fixture(scope="module")
def scene(folder):
    return read(folder / "train" / "000000.npz")


def as_batch(example):
    return {name: torch.from_numpy(value)[None] for name, value in example.items()}


def save_again(weights, name, tensors):
    """Replaces a file of exported weights, and its digest in the card."""
    save_file(tensors, weights / name)
    card = json.loads((weights / "card.json").read_text())
    card["sha256"][name] = hashlib.sha256((weights / name).read_bytes()).hexdigest()
    (weights / "card.json").write_text(json.dumps(card))


def perfect(target):
    """Predictions that equal the target."""
    predicted = {name: target[name] for name in ("albedo", "normal", "log_depth")}
    predicted["roughness"] = torch.logit(target["roughness"], 1e-6)
    predicted["metallic"] = torch.logit(target["metallic"], 1e-6)
    predicted["sky"] = 20 * (1 - 2 * target["valid"])
    return predicted


def test_normals_of_a_box_in_the_gravity_frame(scene):
    normal = scene.truth.normal.astype(np.float32)
    # The floor is up everywhere; the wall straight ahead faces the viewer, outward = -1.
    np.testing.assert_allclose(normal[-1], [[0, 0, 1]] * 2 * HEIGHT, atol=1e-2)
    np.testing.assert_allclose(normal[HEIGHT // 2, HEIGHT], [0, -1, 0], atol=3e-2)


def test_depth_counts_in_camera_heights(scene):
    truth = scene.truth
    assert not truth.valid[:20, :30].any()
    assert np.exp(truth.log_depth[-1]).mean() == pytest.approx(1.0, abs=1e-2)


def test_halving_ignores_the_sky(scene, folder):
    half = read(folder / "train" / f"{scene.name}.npz", HEIGHT // 2).truth
    assert half.valid.shape == (HEIGHT // 2, HEIGHT)
    assert not half.valid[:10, :15].any() and half.valid[:10, 16:].all()
    lengths = np.linalg.norm(half.normal.astype(np.float32), axis=-1)
    np.testing.assert_allclose(lengths[half.valid], 1.0, atol=1e-2)
    full = scene.truth
    assert half.log_depth[half.valid].min() >= full.log_depth[full.valid].min() - 1e-3


def test_new_files_are_picked_up(folder, tmp_path):
    (tmp_path / "train").mkdir()
    scenes = Scenes("train", tmp_path)
    assert len(scenes) == 0
    source = folder / "train" / "000001.npz"
    (tmp_path / "train" / source.name).write_bytes(source.read_bytes())
    assert scenes.refresh() == 1 and scenes.refresh() == 0
    assert len(scenes) == 1


def test_processes_share_the_scenes(folder, tmp_path):
    (tmp_path / "train").mkdir()
    source = (folder / "train" / "000001.npz").read_bytes()
    names = [f"{number:06d}" for number in range(3)]
    (tmp_path / "train" / f"{names[0]}.npz").write_bytes(source)
    assert [len(Scenes("train", tmp_path, rank=rank, of=2)) for rank in (0, 1)] == [1, 1]
    for name in names[1:]:
        (tmp_path / "train" / f"{name}.npz").write_bytes(source)
    parts = [Scenes("train", tmp_path, rank=rank, of=2) for rank in (0, 1)]
    assert [list(part.scenes) for part in parts] == [names[::2], names[1::2]]
    assert list(Scenes("train", tmp_path, limit=2, rank=1, of=2).scenes) == [names[1]]


def test_a_scene_that_is_not_whole_is_named_and_left_until_it_is(folder, tmp_path, capsys):
    whole, copied = (f"{seed:06d}.npz" for seed in range(2))
    (tmp_path / "train").mkdir()
    shutil.copy(folder / "train" / whole, tmp_path / "train")
    data = (folder / "train" / copied).read_bytes()
    for half in (data[: len(data) // 2], data[:1000] + bytes(1000) + data[2000:], b""):
        (tmp_path / "train" / copied).write_bytes(half)
        with pytest.raises(ValueError, match=f"{copied} is no whole scene"):
            read(tmp_path / "train" / copied)
    scenes = Scenes("train", tmp_path)
    assert len(scenes) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert copied in line
    (tmp_path / "train" / copied).write_bytes(data)
    assert scenes.refresh() == 1 and len(scenes) == 2
    for name in (whole, copied):
        (tmp_path / "train" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="no whole scene"):
        Scenes("train", tmp_path)


def test_a_packed_scene_comes_back_nearly_the_same(folder, tmp_path):
    files = sorted((folder / "train").glob("*.npz"))
    with np.load(files[0]) as scene:
        bright = dict(scene)
    bright["radiance"][0, :9] = 6e4
    np.savez(tmp_path / files[0].name, **bright)
    files[0] = tmp_path / files[0].name
    packs = pack.pack(files, tmp_path / "packs", size=0.0)
    assert len(packs) == 3
    there = tmp_path / "back" / "train"
    kept = there / files[2].name
    there.mkdir(parents=True)
    kept.write_bytes(files[2].read_bytes())
    pack.main(["--unpack", *map(str, packs), "--to", str(there)])
    assert kept.read_bytes() == files[2].read_bytes()
    for path in files[:2]:
        with np.load(path) as was, np.load(there / path.name) as back:
            assert was.keys() == back.keys()
            for name in was.keys() - {"meta"}:
                assert (was[name].dtype, was[name].shape) == (back[name].dtype, back[name].shape)
            for name in ("lights", "normal", "object"):
                assert np.array_equal(was[name], back[name])
            meta = json.loads(str(was["meta"]))
            assert json.loads(str(back["meta"])) == meta | {"packed": True}
            assert np.array_equal(was["pbr"][..., 1], back["pbr"][..., 1])
            assert np.array_equal(was["depth"] == 0, back["depth"] == 0)
            solid = was["depth"] > 0
            ratio = back["depth"][solid].astype(float) / was["depth"][solid]
            assert np.abs(np.log(ratio)).max() < 0.6 * pack.STEP + 1e-3
            for name, worst in (("albedo", 3.0), ("pbr", 3.0)):
                assert np.abs(was[name].astype(float) - back[name]).mean() < worst
            radiance = np.minimum(was["radiance"].astype(float), pack.LIMIT)
            error = np.log(back["radiance"].astype(float) + 0.02) - np.log(radiance + 0.02)
            assert np.abs(error).mean() < 0.05


def test_packs_are_refused_where_they_would_be_lost_or_are_damaged(folder, tmp_path, capsys):
    files = sorted((folder / "train").glob("*.npz"))
    [whole] = pack.pack(files, tmp_path / "packs")
    with pytest.raises(ValueError, match="holds packs already"):
        pack.pack(files, tmp_path / "packs")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole.read_bytes()[:5000])
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("../../000001/scene.json", "{}")
    for name in (cut, other):
        with pytest.raises(SystemExit):
            pack.main(["--unpack", str(name), "--to", str(tmp_path / "back")])
        assert f"{name}: damaged, or no pack" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_relighting_is_a_sum_of_components_and_varies(scene):
    truth = scene.truth
    pictures = [relight(truth.radiance, scene.lights, np.random.default_rng(s)) for s in range(6)]
    basis = truth.radiance.astype(np.float32)
    for picture in pictures:
        assert picture.min() >= 0 and np.isfinite(picture).all()
        design = basis[..., 0].reshape(2, -1).T
        _, residual, *_ = np.linalg.lstsq(design, picture[..., 0].ravel(), rcond=None)
        assert residual[0] < 1e-6 * (picture[..., 0] ** 2).sum() + 1e-6
    assert np.std([p.mean() for p in pictures]) > 0.01


def test_a_sheet_shows_scenes_under_their_lights(folder, scene, tmp_path):
    out = tmp_path / "sheet.png"
    assert (
        sheet.main([str(folder / "train"), "--count", "2", "--lights", "0", "--out", str(out)]) == 0
    )
    drawn = np.asarray(Image.open(out))
    assert drawn.shape == (2 * HEIGHT, 7 * 2 * HEIGHT, 3)
    valid = scene.truth.valid[30:]  # below the label
    albedo = drawn[30:HEIGHT, 2 * HEIGHT : 4 * HEIGHT]
    assert (albedo[valid] == scene.truth.albedo[30:][valid]).all()


@pytest.mark.parametrize("seed", range(4))
def test_photographs_are_pictures(scene, seed):
    linear = scene.truth.radiance[0].astype(np.float32) * 50
    picture = augment.photograph(linear, np.random.default_rng(seed))
    assert picture.shape == linear.shape and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1 and picture.std() > 0.02


@pytest.mark.parametrize("seed", range(6))
def test_new_paint_changes_picture_and_albedo_alike(scene, seed):
    """Matt surfaces alone, by one factor, to believable values; light and sky stay."""
    truth = scene.truth
    shape = (*truth.valid.shape, 1)
    maps = {
        "albedo": truth.albedo.astype(np.float32) / 255,
        "normal": truth.normal.astype(np.float32),
        "log_depth": truth.log_depth[..., None],
        "roughness": np.full(shape, 0.7, np.float32),
        "metallic": np.zeros(shape, np.float32),
        "valid": truth.valid[..., None].astype(np.float32),
    }
    maps["roughness"][:, :40], maps["metallic"][:, 40:80] = 0.05, 1.0
    linear = truth.radiance[1].astype(np.float32)
    picture, albedo = augment.repaint(linear, maps, np.random.default_rng(seed))
    before = tonemap.srgb_decode(np.maximum(maps["albedo"], 0.02))
    change = tonemap.srgb_decode(albedo) / before
    painted = np.abs(change - 1).max(-1) > 0.01
    assert 0.01 < painted.mean() < 1.0
    assert not painted[:, :80].any() and not painted[~truth.valid].any()
    np.testing.assert_allclose(picture, linear * change, rtol=0.01, atol=1e-4)
    assert tonemap.srgb_decode(albedo)[painted].min() > 0.01
    assert tonemap.srgb_decode(albedo)[painted].max() < 0.9


def test_patterns_lie_on_the_surfaces_and_fade_where_a_pixel_is_larger():
    depth, normal = box_maps(BOX, HEIGHT)
    points = frames.directions(HEIGHT, 2 * HEIGHT) * depth[..., None]
    for seed in range(8):
        fine, coarse = (
            augment._pattern(points, normal, np.full_like(depth, size), np.random.default_rng(seed))
            for size in (1e-4, 50.0)
        )
        assert fine.shape == depth.shape and fine.min() >= 0 and fine.max() <= 1
        assert fine.std() > 0.02
        assert coarse.std() < 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_a_turned_example_is_a_turned_room(seed):
    """Rolled and mirrored normals agree with those of the turned depth, found independently."""
    rng = np.random.default_rng(seed)
    depth, normal = box_maps(BOX, HEIGHT)
    basis = frames.gravity_basis(HEIGHT, 2 * HEIGHT)
    gravity = np.einsum("hwij,hwj->hwi", basis, normal)
    example = {
        "panorama": np.zeros((HEIGHT, 2 * HEIGHT, 3), np.float32),
        "normal": gravity,
        "log_depth": np.log(depth)[..., None],
    }
    turned = augment.turn(example, rng)
    log_depth = torch.from_numpy(turned["log_depth"].transpose(2, 0, 1).copy())[None]
    found = losses.surface_normals(log_depth)[0].numpy().transpose(1, 2, 0)
    angle = metrics.angles(found, turned["normal"][1:-1])
    assert np.median(angle) < 0.5
    assert np.mean(angle > 5) < 0.1


def test_examples_are_reproducible(scene):
    first, again = (sample(scene, np.random.default_rng(5)) for _ in range(2))
    for name, value in first.items():
        assert value.shape[1:] == (HEIGHT, 2 * HEIGHT)
        np.testing.assert_array_equal(value, again[name])


def test_the_truth_beats_a_disturbed_truth_in_every_loss(scene):
    target = as_batch(sample(scene, np.random.default_rng(0)))
    right = perfect(target)
    best = losses.total(right, target)
    generator = torch.Generator().manual_seed(0)
    wrong = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in right.items()
    }
    wrong["normal"] = torch.nn.functional.normalize(wrong["normal"], dim=1)
    worse = losses.total(wrong, target)
    for task in best:
        assert torch.isfinite(best[task])
        assert worse[task] > best[task] + 0.05, task


def test_aligned_depth_forgives_scale_but_not_shape(scene):
    target = as_batch(sample(scene, np.random.default_rng(0)))
    truth = target["log_depth"]
    scaled = losses.depth(truth + 0.5, target) - losses.depth(truth, target)
    assert scaled == pytest.approx(0.4 * 0.5, abs=0.01)
    assert losses.depth(0.5 * truth, target) > losses.depth(truth, target) + 0.2


def test_relative_depth_is_the_error_that_is_scored():
    error = torch.tensor([-3.0, -0.5, 0.0, 0.5, 1.0])
    torch.testing.assert_close(losses.relative(error), (error.exp() - 1).abs())
    assert losses.relative(torch.tensor(3.0)) == pytest.approx(math.e - 1 + 2 * math.e)


def test_losses_leave_the_sky_out(scene):
    target = as_batch(sample(scene, np.random.default_rng(0)))
    right = perfect(target)
    in_sky = {k: torch.where(target["valid"] > 0, v, v + 0.7) for k, v in right.items()}
    for task in ("albedo", "normal", "pbr"):
        changed = losses.total(in_sky, target)[task]
        assert changed == pytest.approx(float(losses.total(right, target)[task]), abs=1e-5)


def test_metrics_of_the_truth_and_of_known_errors(scene):
    truth = truth_of(scene)
    exact = metrics.score(truth, truth)
    assert exact["albedo PSNR"] > 80 and exact["normal mean"] < 1e-3
    assert exact["depth AbsRel"] < 1e-6 and exact["depth d1"] == 1
    off = dict(truth)
    off["albedo"] = truth["albedo"] * 0.5
    off["depth"] = truth["depth"] * 3
    off["roughness"] = 1 - truth["roughness"]
    found = metrics.score(off, truth)
    assert found["albedo PSNR"] < 20 and found["albedo PSNR, scaled"] > 80
    assert found["depth AbsRel"] < 1e-6
    assert found["roughness correlation"] == pytest.approx(-1, abs=1e-3)


def test_metal_is_scored_where_there_is_some():
    weight = np.ones((4, 8))
    real = np.zeros((4, 8))
    assert np.isnan(metrics.metal_f1(real, real, weight))
    real[:2] = 1
    found = np.zeros((4, 8))
    found[1:3] = 1
    assert metrics.metal_f1(found, real, weight) == pytest.approx(0.5)


def test_sky_is_scored_by_what_the_depth_leaves_empty(scene):
    truth = truth_of(scene)
    maps = {name: truth[name].copy() for name in ("albedo", "normal", "roughness", "metallic")}
    maps["depth"] = np.where(truth["valid"], truth["depth"], 0.0)
    found = metrics.score(maps, truth)
    assert found["sky found"] == 1.0 and found["false sky"] == 0.0
    maps["depth"][HEIGHT // 2 :] = 0.0
    maps["depth"][:10][~truth["valid"][:10]] = 1.0
    found = metrics.score(maps, truth)
    top, whole = (metrics.area(np.ones((HEIGHT, 1), bool))[:n].sum() for n in (10, 20))
    assert found["sky found"] == pytest.approx(1.0 - top / whole)
    surfaces = metrics.area(truth["valid"])
    assert found["false sky"] == pytest.approx(surfaces[HEIGHT // 2 :].sum() / surfaces.sum())
    # Where the maps have a depth it is right, however much of it they lack.
    assert found["depth AbsRel"] == pytest.approx(found["false sky"], rel=1e-3)
    assert found["depth d1"] == pytest.approx(1.0 - found["false sky"], rel=1e-3)
    closed = truth | {"valid": np.ones_like(truth["valid"])}
    assert np.isnan(metrics.score(maps, closed)["sky found"])


class RoomWithSky(BoxRoomEngine):
    """Sees the box room, and sky in a quarter of it."""

    def predict(self, panorama, maps, *_, **__):
        found = super().predict(panorama, maps, lambda *_: None, lambda: False)
        sky = np.zeros(found["depth"].shape, np.float32)
        sky[: len(sky) // 4] = 1.0
        return found | {"sky": sky}


def test_what_is_scored_is_what_extraction_delivers(scene):
    """In metres by the camera's true height, with the sky cut out."""
    linear = np.full((HEIGHT, 2 * HEIGHT, 3), 0.2, np.float32)
    linear[: HEIGHT // 4] = 9.0
    found = Delivered(RoomWithSky())(linear, scene)
    assert (found["depth"][: HEIGHT // 4 - 2] == 0).all()
    assert (found["albedo"][: HEIGHT // 4 - 2] == 0).all()
    assert (found["depth"][HEIGHT // 4 + 2 :] > 0).all()
    assert found["depth"][-1].mean() == pytest.approx(CAMERA_HEIGHT, rel=0.02)


def test_the_box_oracle_is_exact_in_an_empty_room(scene):
    truth = truth_of(scene)
    scores = metrics.score(room_box(np.zeros((HEIGHT, 2 * HEIGHT, 3), np.float32), scene), truth)
    assert scores["normal mean"] < 1 and scores["depth AbsRel"] < 0.01


def test_the_box_oracle_knows_the_tilt_of_the_camera():
    render = pytest.importorskip("training.render")
    pitch, roll = np.radians([3.0, -2.0])
    axes = tilted_axes(pitch, roll)
    np.testing.assert_allclose(axes, render.camera(1.6, pitch, roll), atol=1e-6)
    depth, normal = box_maps(BOX, HEIGHT, (3.0, -2.0))
    rays = frames.directions(HEIGHT, 2 * HEIGHT)
    points = (rays @ axes) * depth[..., None]
    low, high = np.array(BOX[:3]), np.array(BOX[3:])
    assert (np.minimum(points - low, high - points).min(-1) < 1e-4).all()
    # Of every wall the points lie in one plane that its normal belongs to.
    for face in np.unique(normal.round(4).reshape(-1, 3), axis=0):
        on = np.abs(normal - face).max(-1) < 1e-3
        offsets = (rays * depth[..., None])[on] @ face
        assert offsets.max() < 0 and np.ptp(offsets) < 1e-3


def test_training_lowers_the_loss_and_resumes(folder, tmp_path):
    recipe = Recipe(height=64, batch=2, warm_up=2)
    run = Run.open(tmp_path, 0, recipe)
    batch = draw(list(Scenes("train", folder, height=64).scenes.values()), 0, 0, 2)
    before = sum(losses.total(run.model(batch["panorama"]), batch).values())
    train(run, loader(run, folder), minutes=0, steps=6)
    after = sum(losses.total(run.model(batch["panorama"]), batch).values())
    assert after < before
    resumed = Run.open(tmp_path, 0, recipe)
    assert (resumed.step, resumed.samples) == (6, 12)
    for a, b in zip(resumed.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for optimizer, was in zip(resumed.optimizers, run.optimizers, strict=True):
        states, olds = optimizer.state_dict()["state"], was.state_dict()["state"]
        assert states and states.keys() == olds.keys()
        for number, state in states.items():
            for name, value in state.items():
                assert torch.equal(value, olds[number][name])
    train(resumed, loader(resumed, folder), minutes=0, steps=6)
    assert resumed.step == 6
    average, state = load_average(tmp_path)
    assert state["step"] == 6
    assert all(p.isfinite().all() for p in average.parameters())


def test_a_damaged_checkpoint_is_named(folder, tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.pt"
    torch.save({"step": 1, "average": torch.ones(1000)}, file)
    data = file.read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"no checkpoint", bytes(300) + data[300:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is missing or damaged"):
            load_average(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is missing or damaged"):
        Run.open(tmp_path, 0, Recipe())
    monkeypatch.setattr(export, "scene_files", lambda _split: scene_files("train", folder, 1))
    with pytest.raises(SystemExit, match=r"checkpoint\.pt is missing or damaged"):
        export.main([str(tmp_path), "--to", str(tmp_path / "weights")])


def test_a_checkpoint_is_on_the_disk_before_it_takes_the_others_place(tmp_path, monkeypatch):
    run = Run.open(tmp_path, 0, Recipe())
    calls = []

    def recorded(name, call):
        return lambda *given: calls.append(name) or call(*given)

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    run.save()
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("shape", [(24, 24), (16, 90), (90, 16)])
def test_a_muon_step_has_the_singular_vectors_of_the_gradient_and_about_equal_values(shape):
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    values = torch.logspace(0, -2, min(shape))
    assert (torch.linalg.svdvals(orthogonalise(u * values @ v)) - 1.0).abs().max() < 0.35
    # In a step along it, all directions have come as far, whatever their share of the gradient.
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = u * values @ v
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    along = torch.einsum("mk,mn,kn->k", u, weight.detach(), v) / -(0.02 * max(shape) ** 0.5)
    assert along.min() > 0.65 and along.max() < 1.35
    assert torch.equal(orthogonalise(torch.zeros(shape)), torch.zeros(shape))


def test_the_card_names_the_device_its_hours_and_the_command():
    state = {"seed": 5, "step": 9, "samples": 36, "seconds": 7200.0, "cpu_seconds": 1800.0}
    recipe = {"height": 128, "batch": 4, "learning_rate": 1e-3, "processes": 1, "workers": 0}
    state |= {"recipe": recipe, "origin": None}
    cpu = state | {"device": "cpu"}
    assert export.compute(cpu) == {"device": "cpu", "cpu_hours": 0.5}
    assert "--device" not in export.command(cpu) and "--processes" not in export.command(cpu)
    two = cpu | {"recipe": recipe | {"processes": 2}}
    assert "--rate 0.001 --processes 2" in export.command(two)
    gpu = state | {"device": "Some GPU", "origin": {"drop": ["decoder.level0"]}}
    gpu["recipe"] = recipe | {"workers": 6}
    assert export.compute(gpu) == {"device": "Some GPU", "gpu_hours": 2.0}
    end = "--device cuda --workers 6 --grow WEIGHTS --drop decoder.level0"
    assert export.command(gpu).endswith(end)


def test_an_export_is_in_place_once_it_is_calibrated(folder, tmp_path, monkeypatch):
    run = Run.open(tmp_path / "run", 0, Recipe())
    for name, weight in run.average.named_parameters():
        if "lora_B" in name:
            weight.fill_(0.01)
    run.save()
    monkeypatch.setattr(export, "scene_files", lambda _split: scene_files("train", folder, 1))
    call = [str(tmp_path / "run"), "--to", str(tmp_path / "weights")]
    with monkeypatch.context() as broken:
        broken.setattr(export, "constants", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.main(call)
    assert not list((tmp_path / "weights").iterdir())
    export.main(call)
    assert {"metal", "constants"} <= verify(tmp_path / "weights").keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "weights"]


def test_muon_steps_of_weights_of_one_size_do_not_mix():
    generator = torch.Generator().manual_seed(0)

    def weights():
        values = [torch.randn(8, 4, 3, 3, generator=generator) for _ in range(3)]
        return [torch.nn.Parameter(torch.zeros_like(value)) for value in values], values

    together, gradients = weights()
    alone = [torch.nn.Parameter(torch.zeros_like(weight)) for weight in together]
    for some in (together, *([weight] for weight in alone)):
        muon = Muon(some, lr=0.1, weight_decay=0.1)
        for _ in range(2):
            for weight, gradient in zip(together + alone, gradients * 2, strict=True):
                weight.grad = gradient
            muon.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("confusion", [0.5, 2.0])
def test_metal_is_raised_while_it_stays_nearer_to_the_truth_than_none(scene, confusion):
    """Of scores that tell metal from the rest with overlap, that start too low."""
    truth = truth_of(scene)
    rng = np.random.default_rng(0)
    truth["metallic"] = (rng.random(truth["valid"].shape) < 0.1).astype(np.float32)
    area = metrics.area(truth["valid"])
    logit = rng.normal(6.0 * truth["metallic"] - 4.5, confusion)

    def predict(_picture):
        return {"metallic": 1 / (1 + np.exp(-logit))}

    def outcome(raised):
        found = (logit + raised > 0).astype(np.float32)
        error = metrics.average(np.abs(found - truth["metallic"]), area)
        return metrics.metal_f1(found, truth["metallic"], area), error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "truth_of", lambda _scene: truth)
        raised = export.calibrate_metal(predict, [scene])
    score, error = outcome(raised)
    none = metrics.average(truth["metallic"], area)
    unbiased = -math.log(1.0 + losses.METAL_WEIGHT)
    assert error < none
    for other in unbiased + export.RAISES:
        assert outcome(other)[0] <= score or outcome(other)[1] >= none
    assert outcome(unbiased)[0] < score


def test_hopeless_metal_is_left_a_probability(scene):
    def predict(_picture):
        return {"metallic": np.full((HEIGHT, 2 * HEIGHT), 0.99)}

    raised = export.calibrate_metal(predict, [scene])
    assert raised == pytest.approx(-math.log(1.0 + losses.METAL_WEIGHT))


def test_a_map_no_better_than_a_constant_is_entered_as_one(scene):
    truth = truth_of(scene)
    weight = metrics.area(truth["valid"])
    usual = round(weighted.median(truth["roughness"], weight), 3)

    def right(_picture):
        return {name: truth[name] for name in ("roughness", "metallic")}

    def wrong(_picture):
        return {name: 1.0 - truth[name] for name in ("roughness", "metallic")}

    assert export.constants(right, [scene]) == {}
    found = export.constants(wrong, [scene])
    assert found["roughness"] == usual
    constant_error = metrics.average(np.abs(truth["metallic"]), weight)
    wrong_error = metrics.average(np.abs(1.0 - 2.0 * truth["metallic"]), weight)
    assert (found.get("metallic") == 0.0) == (constant_error <= wrong_error)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pgrep") is None, reason="counts processes with pgrep")
def test_processes_that_train_together_end_together(folder, tmp_path):
    """One that stayed would overwrite the checkpoints of whoever resumes the run."""
    options = ["--scenes", str(folder), "--minutes", "9", "--height", "64", "--batch", "1"]
    command = [sys.executable, "-m", "training.train", "--out", str(tmp_path / "run"), *options]
    run = subprocess.Popen(
        [*command, "--processes", "2"], cwd=PACKAGE.parent, start_new_session=True
    )

    def members():
        found = subprocess.run(["pgrep", "-g", str(run.pid)], capture_output=True, check=False)
        return len(found.stdout.split())

    try:
        while members() < 4:  # this one, two that train, and multiprocessing's own
            assert run.poll() is None
            time.sleep(0.2)
        run.terminate()
        run.wait(120)
        deadline = time.monotonic() + 60
        while members() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert members() == 0
    finally:
        if members():
            os.killpg(run.pid, signal.SIGKILL)


def test_the_previous_version_comes_from_the_history_with_its_own_code(tmp_path):
    package = tmp_path / "repository" / "package"
    weights = package / "engines" / "compact" / "weights"
    weights.mkdir(parents=True)
    git = ["git", "-C", str(package), "-c", "user.name=-", "-c", "user.email=-"]
    subprocess.run([*git, "init", "-q"], check=True)

    def commit(file, text):
        file.write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", text], check=True)

    assert previous_version(package, tmp_path / "none") is None
    commit(package / "engines" / "network.py", "network of the first weights")
    commit(weights / "card.json", "first weights")
    assert previous_version(package, tmp_path / "none") is None
    commit(package / "engines" / "network.py", "network of the second weights")
    commit(weights / "card.json", "second weights")
    commit(package / "engines" / "network.py", "network of the second weights, mended")
    before = previous_version(package, tmp_path)
    assert (before / "engines" / "compact" / "weights" / "card.json").read_text() == "first weights"
    assert (before / "engines" / "network.py").read_text().endswith("first weights")
    assert (weights / "card.json").read_text() == "second weights"

    # What is not committed yet comes after what is.
    (weights / "card.json").write_text("third weights")
    for name, chosen in {"uncommitted": weights, "elsewhere": tmp_path / "run"}.items():
        before = previous_version(package, tmp_path / name, chosen)
        card = before / "engines" / "compact" / "weights" / "card.json"
        assert card.read_text() == "second weights"
        subprocess.run([*git, "checkout", "-q", "."], check=True)


def test_scenes_of_an_earlier_recipe_are_told(scene):
    now, before = (replace(scene, meta={"recipe": recipe}) for recipe in (RECIPE, RECIPE - 1))
    assert outdated([now]) is None
    assert outdated([now, before]).startswith("1 of 2 scenes")


def test_another_version_of_the_engine_runs_beside_this_one(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "previous_omnix")
    network = tmp_path / "previous_omnix" / "engines" / "compact" / "network.py"
    network.write_text(network.read_text() + "\nRUNS_BESIDE = True\n")
    delivered = previous_delivered(tmp_path / "previous_omnix")
    assert delivered.extraction.__name__ == "previous_omnix.extract"
    assert delivered.map_set.__name__ == "previous_omnix.maps"
    engine = delivered.engine
    engine.load(lambda _stage, _fraction: None)
    assert not isinstance(engine, CompactEngine)
    assert sys.modules[type(engine.network).__module__].RUNS_BESIDE
    assert not hasattr(sys.modules[CompactNetwork.__module__], "RUNS_BESIDE")


def test_a_wider_network_grows_from_weights_without_losing_a_tensor(tmp_path):
    torch.manual_seed(0)
    narrow = Model()
    export.write(narrow, tmp_path, ABOUT)
    wide = Model()
    found = grow(wide, tmp_path)
    whole = len(narrow.state_dict())
    assert found["tensors"] == {"whole": whole, "in part": 0, "fresh": 0, "dropped": 0}
    assert (found["samples"], found["grown_from"]) == (7, {"samples": 4})
    for name, value in narrow.state_dict().items():
        torch.testing.assert_close(wide.state_dict()[name], value, rtol=1e-3, atol=1e-4)

    # The same weights as those of a network that was narrower in one place.
    cut = load_file(tmp_path / "base.safetensors")
    name = "decoder.level0.conv1.weight"
    cut[name] = cut[name][:5, :7].contiguous()
    save_again(tmp_path, "base.safetensors", cut)
    fresh = Model()
    before = fresh.state_dict()[f"network.{name}"].clone()
    assert grow(fresh, tmp_path)["tensors"]["in part"] == 1
    after = fresh.state_dict()[f"network.{name}"]
    torch.testing.assert_close(after[:5, :7], cut[name].float())
    assert torch.equal(after[5:], before[5:]) and torch.equal(after[:, 7:], before[:, 7:])


def test_modules_that_are_dropped_stay_fresh_and_are_counted(tmp_path):
    export.write(Model(), tmp_path, ABOUT)
    stray = load_file(tmp_path / "base.safetensors")
    stray["decoder.norm9.weight"] = torch.zeros(4)
    save_again(tmp_path, "base.safetensors", stray)
    fresh = Model()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    found = grow(fresh, tmp_path, ["decoder.norm9", "decoder.level0"])
    own = [name for name in before if ".decoder.level0." in name.replace("/", ".")]
    assert found["tensors"]["dropped"] == len(own) + 1 and found["tensors"]["fresh"] == len(own)
    assert found["drop"] == ["decoder.norm9", "decoder.level0"]
    for name in own:
        assert torch.equal(fresh.state_dict()[name], before[name])
    with pytest.raises(ValueError, match="level8"):
        grow(Model(), tmp_path, ["decoder.level8"])


def test_weights_that_have_no_place_in_the_network_are_named(tmp_path):
    export.write(Model(), tmp_path, ABOUT)
    stray = load_file(tmp_path / "depth.safetensors")
    stray["base_model.model.decoder.level9.lora_A.weight"] = torch.zeros(16, 4, 3, 3)
    save_again(tmp_path, "depth.safetensors", stray)
    with pytest.raises(ValueError, match="level9"):
        grow(Model(), tmp_path)


def test_weights_wider_than_the_network_are_named(tmp_path):
    export.write(Model(), tmp_path, ABOUT)
    wide = load_file(tmp_path / "base.safetensors")
    wide["encoder.stem.bias"] = torch.zeros(len(wide["encoder.stem.bias"]) + 1)
    save_again(tmp_path, "base.safetensors", wide)
    with pytest.raises(ValueError, match=r"encoder\.stem\.bias"):
        grow(Model(), tmp_path)


def test_training_without_scenes_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path), "--scenes", str(tmp_path), "--steps", "1"])
    assert stop.value.code == 2
    assert "training.generate" in capsys.readouterr().err


def test_workers_draw_what_the_training_process_would_and_in_order(folder, tmp_path):
    """Two workers hold every other scene each and take turns, those of even and of odd steps."""
    run = Run.open(tmp_path, 3, Recipe(height=64, batch=2, workers=2))
    run.step = 5  # as if resumed there
    parts = [Scenes("train", folder, height=64, rank=number, of=2) for number in range(2)]
    batches = iter(loader(run, folder))
    for step in range(5, 9):
        scenes = list(parts[step % 2].scenes.values())
        expected, found = draw(scenes, 3, step, 2), next(batches)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value)


def test_scenes_rendered_meanwhile_join_the_batches(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Batches, "LOOK", 0.0)
    (tmp_path / "train").mkdir()
    shutil.copy(folder / "train" / "000000.npz", tmp_path / "train")
    run = Run.open(tmp_path, 0, Recipe(height=64, batch=2))
    batches = iter(loader(run, tmp_path))
    next(batches)
    shutil.copy(folder / "train" / "000001.npz", tmp_path / "train")
    both = list(Scenes("train", tmp_path, height=64).scenes.values())
    assert torch.equal(next(batches)["albedo"], draw(both, 0, 1, 2)["albedo"])


def test_a_run_goes_on_where_it_began(tmp_path):
    run = Run.open(tmp_path, 0, Recipe())
    run.save()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(state | {"device": "Some GPU"}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="began on Some GPU"):
        Run.open(tmp_path, 0, Recipe())


def test_a_run_goes_on_as_it_began(tmp_path):
    export.write(Model(), tmp_path / "weights", ABOUT)
    export.write(Model(), tmp_path / "others", ABOUT | {"samples": 8})
    Run.open(tmp_path, 2, Recipe(), tmp_path / "weights").save()
    assert Run.open(tmp_path, 2, Recipe(), tmp_path / "weights").origin["samples"] == 7
    with pytest.raises(ValueError, match="began with batch 8, seed 2; go on with that"):
        Run.open(tmp_path, 3, Recipe(batch=4))
    with pytest.raises(ValueError, match=r"did not begin from .*others"):
        Run.open(tmp_path, 2, Recipe(), tmp_path / "others")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--processes", "2", "--workers", "1"], "--processes is for CPUs"),
        (["--processes", "2", "--device", "cuda"], "--processes is for CPUs"),
        (["--drop", "decoder.level0"], "--drop says what --grow leaves out"),
        (["--limit", "0"], "no scenes in"),
    ],
)
def test_options_that_do_not_go_together_are_named(folder, tmp_path, capsys, options, sentence):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--scenes", str(folder), "--steps", "1", *options])
    assert sentence in capsys.readouterr().err


def test_a_module_to_drop_that_is_not_there_ends_the_command(folder, tmp_path):
    export.write(Model(), tmp_path / "weights", ABOUT)
    options = ["--scenes", str(folder), "--steps", "1", "--grow", str(tmp_path / "weights")]
    with pytest.raises(SystemExit, match="nothing to drop is called level0"):
        main(["--out", str(tmp_path), *options, "--drop", "level0"])


def test_the_psnr_of_the_albedo_counts_objects_once(folder, monkeypatch):
    batch = as_batch(sample(read(folder / "train" / "000000.npz"), np.random.default_rng(0)))
    assert 0 < batch["object"].sum() < batch["valid"].sum()
    guess = batch["albedo"] + 0.2 * batch["object"]
    for part in ("mean", "gradient"):
        monkeypatch.setattr(losses, part, lambda *_: torch.zeros(()))
    share = (losses.area(batch) * batch["object"]).sum() / losses.area(batch).sum()
    expected = 0.2 * torch.log(0.2**2 * share + 1e-3)
    assert losses.albedo(guess, batch) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_one_model(folder, tmp_path):
    """They take the mean of their gradients, so the first model is that of one larger batch."""
    together = tmp_path / "together"
    options = ["--scenes", str(folder), "--steps", "2", "--height", "64", "--batch", "1"]
    main(["--out", str(together), "--processes", "2", *options])
    _, state = load_average(together)
    assert (state["step"], state["samples"]) == (2, 4)

    run = Run.open(tmp_path / "alone", 0, Recipe(height=64, batch=1))
    start = {name: value.clone() for name, value in run.model.state_dict().items()}
    held = [Scenes("train", folder, height=64, rank=number, of=2) for number in range(2)]
    for step in range(2):
        parts = []
        for number in range(2):
            rng = np.random.default_rng([0, step, number])
            scenes = list(held[number].scenes.values())
            chosen = rng.choice(len(scenes), 1, replace=False)
            parts.append(sample(scenes[chosen[0]], rng))
        run.model.zero_grad()
        for part in parts:
            loss = losses.total(run.model(as_batch(part)["panorama"]), as_batch(part))
            (sum(loss.values()) / 2).backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        update(run, learning_rate(run.recipe, step, (step + 1) / 2))
    trained = torch.load(together / "checkpoint.pt", weights_only=True)["model"]
    steps, expected = (
        torch.cat([(weights[name] - value).flatten() for name, value in start.items()])
        for weights in (trained, run.model.state_dict())
    )
    # Adam's first steps take the sign of gradients, also where these are all but zero.
    assert torch.cosine_similarity(steps, expected, dim=0) > 0.99


def test_learning_rate_warms_up_and_cools_down():
    recipe = Recipe()
    assert learning_rate(recipe, 0, 0.0) < 0.01 * recipe.learning_rate
    assert learning_rate(recipe, 10_000, 0.4) == recipe.learning_rate
    assert learning_rate(recipe, 10_000, 1.0) == pytest.approx(0.0, abs=1e-9)


def test_without_adapters_all_else_is_as_it_was(scene):
    """The same network and the same readout; only what the adapters add is missing."""
    engine, without = CompactEngine(), WithoutAdapters()
    for each in (engine, without):
        each.load(lambda _stage, _fraction: None)
    parameters = dict(engine.network.named_parameters())
    zeroed = 0
    for name, weight in without.network.named_parameters():
        if "lora_B" in name:
            zeroed += 1
            assert parameters[name].any() and not weight.any()
        else:
            assert torch.equal(weight, parameters[name])
    assert zeroed == len(TASKS) * len(adapted_modules(CompactNetwork()))
    picture, _ = tonemap.expose(under(scene, 0))
    said = [
        e.predict(picture, ("albedo",), lambda *_: None, lambda: False) for e in (engine, without)
    ]
    assert np.abs(said[0]["albedo"] - said[1]["albedo"]).max() > 0.02

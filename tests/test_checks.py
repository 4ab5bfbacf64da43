# SPDX-License-Identifier: GPL-3.0-or-later
"""Output checks: each passes on a good map set and trips on the fault it is for."""

from __future__ import annotations

import numpy as np
import pytest

from blender_omnix import checks
from blender_omnix.panorama import frames
from tests.fakes import box_room

HEIGHT = 128


def good(height: int = HEIGHT) -> dict[str, np.ndarray]:
    """The box room with blocks of several materials, lit from one side, windows burnt out."""
    maps = box_room(height)
    point = frames.directions(height, 2 * height) * maps["depth"][..., None]
    # Tiles whose joints do not happen to lie on the panorama's edge.
    tiles = (np.floor(point * 2.0 + 0.3).sum(axis=-1) % 2)[..., None]
    albedo = (0.35 + 0.3 * tiles * np.array([1.0, 0.8, 0.6])).astype(np.float32)
    maps["picture"] *= albedo / maps["albedo"]
    maps["albedo"] = albedo
    # Smooth functions of the position in space close around the seam and the poles.
    maps["roughness"] = (0.5 + 0.3 * np.sin(3.0 * point[..., 0] + point[..., 2])).astype(np.float32)
    maps["metallic"] = (np.sin(2.0 * point[..., 1] + 1.0) > 0.6).astype(np.float32)
    light = 1.0 / (1.0 + ((point - (2.0, 1.0, 0.5)) ** 2).sum(axis=-1, keepdims=True))
    maps["picture"] = np.clip(maps["picture"] * (0.3 + 2.0 * light), 0.0, 1.0).astype(np.float32)
    return maps


def run(maps: dict[str, np.ndarray]) -> dict[str, dict]:
    maps = dict(maps)
    panorama = maps.pop("picture")
    return {entry["name"]: entry for entry in checks.check(maps, panorama)}


@pytest.mark.parametrize("few", [0, 4])
def test_a_handful_of_pixels_gives_no_verdict(few):
    clipped = good()
    keep = np.zeros(clipped["picture"].shape[:2], bool)
    keep.flat[: few * 1000 : 1000] = True
    clipped["picture"] = np.where(keep[..., None], clipped["picture"], 1.0).astype(np.float32)
    assert "albedo_copy" not in run(clipped)
    sky = good()
    sky["depth"] = np.where(keep, sky["depth"], 0.0).astype(np.float32)
    assert not {"roughness_luminance", "metallic_luminance"} & run(sky).keys()


def failed(maps: dict[str, np.ndarray]) -> set[str]:
    return {name for name, entry in run(maps).items() if not entry["passed"]}


EVERY = {
    *("finite", "normal_unit", "normal_facing", "normal_floor", "normal_ceiling", "albedo_copy"),
    *("depth_flat", "depth_noise", "pbr_inverse", "roughness_luminance", "metallic_luminance"),
    *("albedo_seam", "normal_seam", "roughness_seam", "metallic_seam", "depth_seam"),
}


@pytest.mark.parametrize("height", [32, 128, 200])
def test_a_good_map_set_passes_every_check(height):
    entries = run(good(height))
    assert set(entries) == EVERY
    assert failed(good(height)) == set()
    for entry in entries.values():
        assert set(entry) == {"name", "value", "threshold", "passed", "message"}
        assert entry["message"].endswith(".")


def test_the_table_names_every_check_and_its_threshold():
    for name, entry in run(good()).items():
        name = "NAME_seam" if name.endswith("_seam") else name
        row = next(line for line in checks.__doc__.splitlines() if f"| {name} " in line)
        assert f"{entry['threshold']:g} |" in " ".join(row.split())


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).random(shape, np.float32)


def rolled_rows(array: np.ndarray) -> np.ndarray:
    """A jump across u = 0/1: brightness grows from the left edge to the right."""
    ramp = np.linspace(0.2, 1.0, array.shape[1], dtype=np.float32)
    return array * (ramp if array.ndim == 2 else ramp[:, None])


def halved(array: np.ndarray) -> np.ndarray:
    """The left half from another place of the panorama: a jump over both edges of the half."""
    left = np.arange(array.shape[1]) < array.shape[1] // 2
    return np.where(left[:, None], array, np.roll(array, array.shape[1] // 8, axis=1))


def luminance(maps: dict[str, np.ndarray]) -> np.ndarray:
    return maps["picture"] @ np.array([0.2126, 0.7152, 0.0722], np.float32)


def broken(maps: dict[str, np.ndarray]) -> np.ndarray:
    depth = maps["depth"].copy()
    depth[3, 5] = np.nan
    return depth


FAULTS = {
    "normals stored as colours": ("normal_unit", "normal", lambda m: m["normal"] * 0.5 + 0.5),
    "normals of opposite sign": ("normal_facing", "normal", lambda m: -m["normal"]),
    "floor upside down": ("normal_floor", "normal", lambda m: -m["normal"]),
    "ceiling upside down": ("normal_ceiling", "normal", lambda m: -m["normal"]),
    "y up, floor": ("normal_floor", "normal", lambda m: m["normal"][..., [0, 2, 1]]),
    "y up, ceiling": ("normal_ceiling", "normal", lambda m: m["normal"][..., [0, 2, 1]]),
    "albedo is the input": ("albedo_copy", "albedo", lambda m: m["picture"]),
    "albedo is the input, brighter": ("albedo_copy", "albedo", lambda m: m["picture"] ** 0.6),
    "flat depth": ("depth_flat", "depth", lambda m: 2.0 + 0.01 * m["depth"]),
    "constant depth": ("depth_flat", "depth", lambda m: np.full_like(m["depth"], 3.0)),
    "noise for depth": ("depth_noise", "depth", lambda m: 1.0 + 4.0 * noise(m["depth"].shape)),
    "metallic from roughness": ("pbr_inverse", "metallic", lambda m: 1.0 - m["roughness"]),
    "roughness from metallic": ("pbr_inverse", "roughness", lambda m: 1.0 - m["metallic"]),
    "roughness is brightness": ("roughness_luminance", "roughness", luminance),
    "roughness is darkness": ("roughness_luminance", "roughness", lambda m: 1.0 - luminance(m)),
    "metallic is brightness": ("metallic_luminance", "metallic", luminance),
    "albedo does not close": ("albedo_seam", "albedo", lambda m: rolled_rows(m["albedo"])),
    "roughness does not close": (
        "roughness_seam",
        "roughness",
        lambda m: rolled_rows(np.full_like(m["roughness"], 0.7)),
    ),
    "metallic does not close": (
        "metallic_seam",
        "metallic",
        lambda m: rolled_rows(np.full_like(m["metallic"], 0.7)),
    ),
    "normals do not close": ("normal_seam", "normal", lambda m: halved(m["normal"])),
    "depth does not close": ("depth_seam", "depth", lambda m: rolled_rows(m["depth"])),
    "a number is missing": ("finite", "depth", broken),
}


def test_every_check_has_a_fault():
    assert {name for name, _, _ in FAULTS.values()} == EVERY


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_trips_its_check(fault):
    name, changed, change = FAULTS[fault]
    maps = good()
    maps[changed] = change(maps)
    assert name in failed(maps)


def test_a_saturated_normal_map_trips_nothing():
    """Axis-aligned surfaces: every pixel of the stored map is a fully saturated colour."""
    maps = good()
    stored = maps["normal"] * 0.5 + 0.5
    assert (np.ptp(stored, axis=-1) >= 0.5).all()
    assert set(np.unique(stored)) == {0.0, 0.5, 1.0}
    assert failed(maps) == set()


def test_sky_and_lamps_are_no_surface():
    """Outdoors: nothing above, so nothing is asked of it; black lamps do not hide a copy."""
    maps = good()
    sky = frames.directions(HEIGHT, 2 * HEIGHT)[..., 2] > 0.2
    rays = frames.directions(HEIGHT, 2 * HEIGHT)
    maps["depth"][sky] = 0.0
    maps["normal"][sky] = -rays[sky]
    maps["albedo"] = maps["picture"].copy()
    maps["albedo"][sky] = 0.0
    maps["albedo"][60:64, 10:40] = 0.0
    assert "normal_ceiling" not in run(maps)
    assert failed(maps) == {"albedo_copy"}


def test_a_facade_that_reaches_up_is_no_ceiling():
    """A street: a third of what lies above is wall, which rightly does not face down."""
    maps = good()
    rays = frames.directions(HEIGHT, 2 * HEIGHT)
    up = rays[..., 2] > 0.5
    facade = up & (abs(np.arctan2(rays[..., 1], rays[..., 0])) < np.pi / 3)
    maps["depth"][up] = 0.0
    maps["normal"][up] = -rays[up]
    maps["depth"][facade] = 3.0 / rays[facade][:, 0]
    maps["normal"][facade] = (-1.0, 0.0, 0.0)
    assert "normal_ceiling" not in run(maps)


def test_few_bad_values_are_not_rounded_to_none():
    maps = good(512)
    maps["depth"][3, 5] = np.nan
    entry = run(maps)["finite"]
    assert not entry["passed"]
    assert entry["value"] > entry["threshold"]


def test_a_room_without_metal_is_no_fault():
    maps = good()
    maps["metallic"] = np.zeros_like(maps["metallic"])
    maps["roughness"] = np.full_like(maps["roughness"], 1.0)
    assert failed(maps) == set()
    assert not {"pbr_inverse", "metallic_luminance", "roughness_luminance"} & set(run(maps))


def test_maps_that_were_not_made_are_not_checked():
    maps = good()
    names = set(run({"albedo": maps["albedo"], "picture": maps["picture"]}))
    assert names == {"finite", "albedo_copy", "albedo_seam"}
    assert run({"picture": maps["picture"], "emission": maps["picture"]}) == {}


def test_noise_at_the_networks_size_is_noise_when_enlarged():
    maps = good(4 * HEIGHT)
    assert "depth_noise" not in failed(maps)
    coarse = 1.0 + 4.0 * noise((HEIGHT, 2 * HEIGHT))
    maps["depth"] = np.kron(coarse, np.ones((4, 4), np.float32))
    assert "depth_noise" in failed(maps)

# SPDX-License-Identifier: GPL-3.0-or-later
"""The eight real HDRIs that Blender ships: sun, stars, lamps, a white studio, negative pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blender_omnix import engines, images, maps
from blender_omnix.extract import extract
from blender_omnix.panorama import clean, emitters, lights, tonemap

pytestmark = pytest.mark.blender

NAMES = ["city", "courtyard", "forest", "interior", "night", "studio", "sunrise", "sunset"]


def _read(name: str) -> np.ndarray:
    bpy = pytest.importorskip("bpy")
    oiio = pytest.importorskip("OpenImageIO")
    world = Path(bpy.utils.resource_path("LOCAL"), "datafiles", "studiolights", "world")
    return np.asarray(oiio.ImageBuf(str(world / f"{name}.exr")).get_pixels(oiio.FLOAT))[..., :3]


@pytest.mark.parametrize("name", NAMES)
def test_exposure_suits_the_place(name):
    linear, _ = clean.repair(_read(name))
    encoded, _ = tonemap.expose(linear)
    assert 0.3 < encoded.mean() < 0.6
    assert np.mean(encoded.min(axis=2) > 0.99) < 0.05
    assert np.mean(encoded.max(axis=2) < 0.05) < 0.15


def test_repairs_are_noted():
    notes = {name: clean.repair(_read(name))[1] for name in NAMES}
    assert sum(any("negative" in note for note in found) for found in notes.values()) == 7


def test_lamps_and_windows_of_the_interior_emit_and_the_white_bed_does_not():
    linear, _ = clean.repair(_read("interior"))
    _, mask = emitters.emission(linear, np.zeros(linear.shape[:2], np.float32), is_hdr=True)

    def around(u: float, v: float) -> np.ndarray:
        x, y = int(u * 1024), int(v * 512)
        return mask[y - 4 : y + 5, x - 4 : x + 5]

    assert around(0.543, 0.47).mean() > 0.9  # window
    assert around(0.255, 0.185).max() == 1.0  # ceiling lamp
    assert around(0.76, 0.58).max() == 0.0  # bed
    assert mask.mean() < 0.08


@pytest.mark.parametrize(
    ("name", "u", "v"), [("sunrise", 0.599, 0.455), ("sunset", 0.6, 0.482), ("city", 0.6, 0.234)]
)
def test_the_sun_is_found_where_it_is(name, u, v):
    linear, _ = clean.repair(_read(name))
    (sun,) = lights.find(linear)
    x, y, z = sun.direction
    assert 0.5 - np.arctan2(y, x) / (2 * np.pi) == pytest.approx(u, abs=0.004)
    assert 0.5 - np.arcsin(z) / np.pi == pytest.approx(v, abs=0.004)
    assert np.degrees(sun.radius) < 1.0


def test_maps_go_on_over_the_edges_however_the_panorama_is_turned(tmp_path):
    """What meets at an edge of the picture differs no more there than where no edge runs."""
    panorama = np.ascontiguousarray(_read("interior")[::2, ::2])
    engine = engines.create("compact", {})

    def extracted(columns: int) -> dict[str, np.ndarray]:
        source, folder = tmp_path / f"{columns}.exr", tmp_path / str(columns)
        images.write(source, np.ascontiguousarray(np.roll(panorama, columns, 1)), "float")
        extract(source, folder, engine=engine)
        return maps.load(folder)

    def jump(image: np.ndarray, column: int) -> float:
        span = max(float(np.ptp(image)), 1e-6)  # a map may be one constant
        return float(np.abs(image[:, column] - image[:, column - 1]).mean()) / span

    plain = extracted(0)
    for columns in (37, 350):
        for name, turned in extracted(columns).items():
            assert jump(turned, 0) < 2 * jump(plain[name], -columns) + 0.01, (name, columns)

# SPDX-License-Identifier: GPL-3.0-or-later
"""The flux engine as users reach it: the operator in Blender, the worker, a real HDRI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blender_omnix import maps
from tests.flux_tiny import ADAPTERS, make_weights

pytestmark = pytest.mark.blender


@pytest.fixture
def preferences(blender, enabled_extension):
    """The extension's preferences, with its folders restored afterwards."""
    chosen = blender.context.preferences.addons[enabled_extension].preferences
    before = chosen.flux_weights, chosen.flux_adapters
    yield chosen
    chosen.flux_weights, chosen.flux_adapters = before


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """For a model this tiny, threads of the worker would mostly wait for one another."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def hdri(blender):
    local = Path(blender.utils.resource_path("LOCAL"))
    return local / "datafiles" / "studiolights" / "world" / "interior.exr"


def test_extract_pbr_with_flux(blender, preferences, hdri, tmp_path):
    preferences.flux_weights = str(make_weights(tmp_path / "weights"))
    preferences.flux_adapters = str(ADAPTERS)
    out = tmp_path / "maps"
    result = blender.ops.omnix.extract_pbr(
        filepath=str(hdri),
        directory=str(out),
        engine="FLUX",
        maps=set(maps.REQUESTABLE),
        size=128,
    )
    assert result == {"FINISHED"}

    report = maps.read_report(out)
    assert report["engine"] == "flux"
    assert report["checks"]
    tasks = {entry["task"] for entry in report["adapters"]}
    assert tasks == {
        "rgb_to_albedo", "rgb_to_normal", "rgb_to_pbr", "rgb_to_depth", "rgb_to_semantic",
    }  # fmt: skip
    for entry in report["adapters"]:
        assert entry["modules_injected"] == entry["modules_expected"]
        assert entry["tensors_equal"] == entry["tensors"]
        assert entry["effect_off"] > 0 and entry["effect_swapped"] > 0

    arrays = maps.load(out)
    assert set(arrays) == {*maps.REQUESTABLE, "panorama"}
    assert all(array.shape[:2] == (64, 128) for array in arrays.values())
    np.testing.assert_allclose(np.linalg.norm(arrays["normal"], axis=-1), 1, atol=2e-3)
    assert "OmniX interior" in blender.data.collections


def test_flux_without_its_folders_says_what_to_choose(blender, preferences, hdri, tmp_path):
    preferences.flux_weights = preferences.flux_adapters = ""
    with pytest.raises(RuntimeError, match="needs two folders"):
        blender.ops.omnix.extract_pbr(
            filepath=str(hdri), directory=str(tmp_path / "maps"), engine="FLUX", size=128
        )
    assert not (tmp_path / "maps").exists()

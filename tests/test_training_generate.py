# SPDX-License-Identifier: GPL-3.0-or-later
"""The scene generator: the contract of its files, its geometry, its seeds and its splits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blender_omnix.panorama.frames import directions
from training.scenes import assets

WIDTH = 64


@pytest.fixture(scope="module")
def generate():
    pytest.importorskip("bpy")
    from training import generate

    return generate


@pytest.mark.blender
@pytest.mark.parametrize("kind", ["room", "outdoor"])
def test_file_keeps_the_contract(generate, kind, tmp_path):
    arrays = generate.make("train", 3, width=WIDTH, kind=kind, samples=2)
    path = tmp_path / "000003.npz"
    generate.save(path, arrays)
    assert [p.name for p in tmp_path.iterdir()] == ["000003.npz"]
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    meta = json.loads(str(data["meta"]))
    h, w = WIDTH // 2, WIDTH
    k = len(meta["components"])
    assert data["radiance"].shape == (k, h, w, 3)
    assert data["radiance"].dtype == np.float16
    assert np.isfinite(data["radiance"]).all()
    assert data["lights"].shape[0] >= 4
    assert data["lights"].shape[1:] == (k, 3)
    assert (data["lights"].sum(axis=(1, 2)) > 0).all()
    assert (data["albedo"].shape, data["albedo"].dtype) == ((h, w, 3), np.uint8)
    assert (data["normal"].shape, data["normal"].dtype) == ((h, w, 3), np.int8)
    assert (data["depth"].shape, data["depth"].dtype) == ((h, w), np.float16)
    assert (data["pbr"].shape, data["pbr"].dtype) == ((h, w, 2), np.uint8)
    assert (data["object"].shape, data["object"].dtype) == ((h, w), np.bool_)
    assert meta["kind"] == kind
    assert 0.8 <= meta["camera_height"] <= 2.5

    normal = data["normal"].astype(float) / 127
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=0.02)
    assert ((normal * directions(h, w)).sum(-1) < 0.02).all()
    assert not (data["object"] & (data["depth"] == 0)).any()
    assert (data["albedo"][data["depth"] == 0] == 0).all()


@pytest.mark.blender
def test_depth_normals_and_albedo_of_a_known_box():
    pytest.importorskip("bpy")
    from training import render
    from training.scenes import lights, meshes
    from training.scenes.materials import Materials

    render.prepare(lights.GROUPS, WIDTH)
    materials = Materials(np.random.default_rng(0), "train")
    low, high, eye = np.array([-2.0, -3, 0]), np.array([4.0, 1.5, 2.5]), 1.5
    grey = materials.plain((0.5, 0.25, 0.75), 0.4, 1.0)
    meshes.add([meshes.box("wall", low, high)], {"wall": grey})
    lights.bulb((1, 0, 2.2), 100, "lamps")
    pitch, roll = np.radians([3.0, -2.0])
    axes = render.camera(eye, pitch, roll)
    maps = render.render(("lamps",), axes, samples=2)

    rays = directions(WIDTH // 2, WIDTH)
    world = rays @ axes
    exits = np.where(world > 0, high - (0, 0, eye), low - (0, 0, eye)) / world
    face = exits.argmin(-1)
    np.testing.assert_allclose(maps["depth"], exits.min(-1), rtol=2e-3)
    expected = -np.sign(world) * np.eye(3)[face]
    agreement = (maps["normal"] @ axes * expected).sum(-1)
    assert np.median(agreement) > 0.9999
    assert (agreement > 0.99).mean() > 0.97  # rays into an edge may meet either face
    linear = ((np.array([0.5, 0.25, 0.75]) + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(
        maps["albedo"], np.broadcast_to(linear, maps["albedo"].shape), atol=2e-3
    )
    np.testing.assert_allclose(maps["roughness"], 0.4, atol=1e-3)
    np.testing.assert_allclose(maps["metallic"], 1.0, atol=1e-3)
    assert maps["lamps"].mean() > 0.01


@pytest.mark.blender
def test_normals_of_smooth_shapes_keep_to_the_side_of_the_surface(monkeypatch):
    bpy = pytest.importorskip("bpy")
    from training import render
    from training.scenes import lights, meshes
    from training.scenes.materials import Materials

    render.prepare(lights.GROUPS, 4 * WIDTH)
    aov = bpy.context.scene.view_layers[0].aovs.add()
    aov.name, aov.type = "true", "COLOR"
    grey = Materials(np.random.default_rng(0), "train").plain((0.5, 0.5, 0.5), 0.5)
    nodes = grey.node_tree.nodes
    true, geometry = nodes.new("ShaderNodeOutputAOV"), nodes.new("ShaderNodeNewGeometry")
    true.aov_name = "true"
    grey.node_tree.links.new(geometry.outputs["True Normal"], true.inputs["Color"])
    profile = [(0.1, 0.0), (0.5, 0.3), (0.4, 0.7), (0.5, 1.0), (0.1, 1.3)]
    meshes.add([meshes.lathe("vase", profile, 10)], {"vase": grey}, (1.2, 0, 0))
    lights.bulb((0, 0, 2), 100, "lamps")
    layers, read = {}, render._read

    def kept(path):
        layers.update(found := read(path))
        return found

    monkeypatch.setattr(render, "_read", kept)
    maps = render.render(("lamps",), render.camera(0.6), samples=1)

    solid = maps["depth"] > 0
    rays, normal = directions(*solid.shape)[solid], maps["normal"][solid]
    true = layers["true"][solid][:, :3]
    true /= np.linalg.norm(true, axis=-1, keepdims=True)
    assert ((true * rays).sum(-1) < 1e-3).all()
    assert (normal * rays).sum(-1).max() < 1e-5
    assert (normal * true).sum(-1).min() > 0.5
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)


@pytest.mark.blender
def test_upright_camera_looks_along_x():
    pytest.importorskip("bpy")
    from training import render
    from training.scenes import lights, meshes
    from training.scenes.materials import Materials

    render.prepare(lights.GROUPS, WIDTH)
    materials = Materials(np.random.default_rng(0), "train")
    wall = materials.plain((0.5, 0.5, 0.5), 0.5)
    meshes.add(
        [meshes.box("w", (3, -9, 0), (3.2, 9, 9)), meshes.box("w", (-9, 5, 0), (9, 5.2, 9))],
        {"w": wall},
    )
    lights.bulb((0, 0, 2), 100, "lamps")
    maps = render.render(("lamps",), render.camera(1.5), samples=1)
    middle = WIDTH // 4
    centre, left = (middle, WIDTH // 2), (middle, WIDTH // 4)
    np.testing.assert_allclose(maps["normal"][centre], (-1, 0, 0), atol=1e-3)
    np.testing.assert_allclose(maps["depth"][centre], 3, rtol=0.01)
    np.testing.assert_allclose(maps["normal"][left], (0, -1, 0), atol=1e-3)
    np.testing.assert_allclose(maps["depth"][left], 5, rtol=0.01)
    # Nothing behind the camera: sky.
    assert maps["depth"][middle, 0] == 0
    assert maps["metallic"][middle, 0] == 0


@pytest.mark.blender
def test_what_stands_right_before_the_camera_is_there():
    pytest.importorskip("bpy")
    from training import render
    from training.scenes import lights, meshes
    from training.scenes.materials import Materials

    render.prepare(lights.GROUPS, WIDTH)
    corners = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    card = meshes.quad("card", *((0.05, 0.05 * y, 1.5 + 0.05 * z) for y, z in corners))
    grey = Materials(np.random.default_rng(0), "train").plain((0.5, 0.5, 0.5), 0.5)
    meshes.add([card], {"card": grey})
    lights.bulb((0, 0, 2), 100, "lamps")
    axes = render.camera(1.5)
    nearest, share = render.surroundings(0.15)
    assert nearest == pytest.approx(0.05, abs=1e-3)
    assert share == pytest.approx(1 / 6, abs=0.01)  # one side of a cube around the camera
    assert render.surroundings(0.04) == (np.inf, 0.0)
    depth = render.render(("lamps",), axes, samples=1)["depth"]
    assert depth[WIDTH // 4, WIDTH // 2] == pytest.approx(0.05, abs=1e-3)


@pytest.mark.blender
@pytest.mark.parametrize("found", [(0.02, 0.001), (0.1, 0.02)])
def test_a_camera_that_stands_in_something_is_refused(generate, found, monkeypatch):
    from training import render

    monkeypatch.setattr(render, "surroundings", lambda _: found)
    with pytest.raises(generate.UnusableError, match="right before the camera"):
        generate.make("train", 3, width=32, kind="room", samples=1)


@pytest.mark.blender
def test_same_seed_same_place(generate):
    first, again, other = (
        generate.make("train", seed, width=32, kind="room", samples=1) for seed in (5, 5, 6)
    )
    for name in ("depth", "normal", "object", "lights"):
        np.testing.assert_array_equal(first[name], again[name])
    assert np.mean(first["depth"] != other["depth"]) > 0.5


def inside(outline: tuple[tuple[float, float], ...], points: np.ndarray) -> np.ndarray:
    """Which points (N, 2) lie in a polygon: rays to the east cross its edges an odd number of
    times."""
    found = np.zeros(len(points), bool)
    x, y = points.T
    for (x0, y0), (x1, y1) in zip(outline, (*outline[1:], outline[0]), strict=True):
        if y0 != y1:
            crossing = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
            found ^= ((y0 > y) != (y1 > y)) & (x < crossing)
    return found


@pytest.mark.blender
def test_the_flat_is_the_same_place_from_every_view(generate):
    from training.scenes import flat

    middle = np.mean(flat.CORNERS, axis=0)
    shrunken = tuple(tuple(middle + 0.97 * (np.array(c) - middle)) for c in flat.CORNERS)
    views = {}
    for seed in (0, 3, 4, 6):
        data = views[seed] = generate.make("flat", seed, width=WIDTH, samples=1)
        meta = json.loads(str(data["meta"]))
        assert meta["kind"] == "flat"
        assert meta["components"] == ["environment", "sun", "lamps", "lamps2"]
        eye = np.array(flat.VIEWS[seed % len(flat.VIEWS)])
        assert meta["camera_height"] == eye[2]
        depth = data["depth"].astype(float)[..., None]
        points = (directions(*depth.shape[:2]) * depth + eye).reshape(-1, 3)
        assert points[:, 2].min() > -0.45  # the ground outside
        # Between floor and ceiling nothing but furniture stands in the outline.
        bare = ~data["object"].ravel() & (depth.ravel() > 0)
        bare &= (points[:, 2] > 0.2) & (points[:, 2] < flat.LOWERED - 0.1)
        assert bare.sum() > 100
        assert not inside(shrunken, points[bare, :2]).any()
        # The east wall stands where it is drawn.
        wall = bare & (points[:, 0] > 7.9) & (points[:, 1] > 0.1) & (points[:, 1] < 3.1)
        assert np.abs(points[wall, 0] - 8.2).max(initial=0.0) < 0.03
        assert 0.1 < data["object"].mean() < 0.6
    # Another seed for the same view: other materials on the same surfaces.
    np.testing.assert_array_equal(views[0]["depth"], views[6]["depth"])
    assert np.mean(views[0]["albedo"] != views[6]["albedo"]) > 0.3
    with pytest.raises(ValueError, match="no room"):
        generate.make("flat", 0, kind="room")


def test_furniture_has_the_colours_of_its_palette():
    name = "couch"
    *_, parts = assets.furniture_mesh(name)
    colours = assets.furniture_colours(name)
    assert set(colours) == set(parts.tolist())
    assert all(colour.min() >= 0 and colour.max() <= 1 for colour in colours.values())
    blue = max(colours.values(), key=lambda colour: colour[2] - colour[0])
    assert blue[2] - blue[0] > 0.2  # the couch's cover


def test_splits_share_no_assets():
    for sheet in sorted(p.stem for p in (assets.ASSETS / "textures").glob("*.webp")):
        train = {tile.tobytes() for tile in assets.swatches(sheet, "train")}
        test = {tile.tobytes() for tile in assets.swatches(sheet, "test")}
        assert not train & test, sheet
    assert not set(assets.hdris("train")) & set(assets.hdris("test"))
    assert not set(assets.furniture("train", "")) & set(assets.furniture("test", ""))
    assert assets.hdris("val") == assets.hdris("train")
    assert assets.hdris("flat") == assets.hdris("test")
    assert len(assets.hdris("test")) >= 2
    assert len(assets.furniture("test", "")) >= 8
    with pytest.raises(ValueError, match="unknown split"):
        assets.swatches("Wood", "holdout")


def test_every_material_kind_has_swatches_in_every_split():
    pytest.importorskip("bpy")
    from training.scenes.materials import KINDS

    for split in assets.SPLITS:
        for name, kind in KINDS.items():
            if kind.sheets and kind.flat < 1:
                assert any(assets.swatches(sheet, split) for sheet in kind.sheets), (name, split)


@pytest.mark.blender
@pytest.mark.parametrize("seed", range(6))
def test_markings_are_flat_parts_of_the_ground_within_their_bounds(seed):
    bpy = pytest.importorskip("bpy")
    from training.scenes import markings, meshes
    from training.scenes.materials import Materials

    bpy.ops.wm.read_factory_settings(use_empty=True)
    rng = np.random.default_rng(seed)
    low, high = np.array([-3.0, -2.0]), np.array([4.0, 5.0])
    markings.add(rng, Materials(rng, "train"), low, high, 1.5)
    items = list(bpy.data.objects)
    assert items
    for item in items:
        assert item.pass_index == meshes.SHELL
        points = np.array([item.matrix_world @ v.co for v in item.data.vertices])
        assert (points[:, :2] >= low - 1e-5).all() and (points[:, :2] <= high + 1e-5).all()
        assert points[:, 2].min() > 0 and points[:, 2].max() < 0.02


@pytest.mark.blender
def test_light_passes_through_a_sheer_curtain():
    pytest.importorskip("bpy")
    from training import render
    from training.scenes import furniture, lights, meshes
    from training.scenes.materials import Materials

    rng = np.random.default_rng(0)
    radiance = {}
    for cloth in ("sheer", "linen"):
        render.prepare(lights.GROUPS, WIDTH)
        materials = Materials(rng, "train")
        shape = meshes.moved(furniture.curtain(rng, 4.0, 4.0, cloth), (0, 0, -2.0))
        meshes.add(shape, {part.slot: materials.new(cloth) for part in shape}, (0, 1.0, 0))
        lights.bulb((0.0, 3.0, 0.0), 200.0, "lamps", 0.2)
        maps = render.render(("lamps",), render.camera(0.0), 8)
        radiance[cloth] = maps["lamps"][maps["depth"] > 0].mean()
    assert radiance["sheer"] > 5 * radiance["linen"]


def test_conditions_cover_day_and_night():
    pytest.importorskip("bpy")
    from training.scenes.lights import conditions

    names = ["environment", "sun", "lamps", "lamps2"]
    weights = conditions(np.random.default_rng(1), names)
    assert weights.shape == (8, 4, 3)
    assert (weights >= 0).all()
    daylight, lamps = weights[:, :2].sum((1, 2)), weights[:, 2:].sum((1, 2))
    assert (lamps == 0).any()
    assert (daylight < 0.1).any()
    only = conditions(np.random.default_rng(1), ["environment", "sun"])
    assert (only.sum((1, 2)) > 0).all()


@pytest.mark.blender
def test_low_furniture_stands_beside_the_camera_but_not_under_it(monkeypatch):
    pytest.importorskip("bpy")
    from training.scenes import furnishing, furniture, meshes, plan

    monkeypatch.setattr(furniture, "resolve", lambda shape, materials: {})
    monkeypatch.setattr(meshes, "add", lambda *_: None)
    placed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        camera, cupboard = (-0.4, -0.4, 0.4, 0.4), (-3.0, -3.0, 3.0, -0.5)
        room = plan.Room(np.full(2, -3.0), np.full(2, 3.0), 2.6, [], [camera, cupboard])
        furnishing.beside(rng, None, room, furniture.table(rng))
        assert room.taken[:2] == [camera, cupboard]
        for x0, y0, x1, y1 in room.taken[2:]:
            placed += 1
            away = np.maximum(np.maximum([x0, y0], [-x1, -y1]), 0.0)
            assert 0.0 < np.hypot(*away) <= 0.4
            assert y0 > cupboard[3]
    assert placed > 30


@pytest.mark.blender
@pytest.mark.parametrize("seed", range(12))
def test_a_shelter_keeps_its_posts_and_its_roof_off_the_camera(seed, monkeypatch):
    pytest.importorskip("bpy")
    from training.scenes import furniture, meshes, outdoors

    shapes = []
    monkeypatch.setattr(furniture, "resolve", lambda shape, materials: {})
    monkeypatch.setattr(
        meshes, "add", lambda shape, _, place, yaw: shapes.append(meshes.moved(shape, place, yaw))
    )
    rng = np.random.default_rng(seed)
    outdoors._shelter(outdoors._Yard(rng, None))
    (shape,) = shapes
    for part in shape:
        if part.vertices[:, 2].min() < 2.5:
            flat = part.vertices[:, :2]
            low, high = flat[:, None], flat[None]
            # The nearest point to the camera on any line between two vertices of a post or wall.
            along = high - low
            share = -(low * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
            nearest = low + np.clip(share, 0, 1)[..., None] * along
            assert np.hypot(*nearest.reshape(-1, 2).T).min() > 0.4


@pytest.mark.blender
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_only_training_has_shelters_and_undergrowth(split, monkeypatch):
    pytest.importorskip("bpy")
    from training import render
    from training.scenes import lights, outdoors
    from training.scenes.materials import Materials

    calls = []
    monkeypatch.setattr(outdoors, "_shelter", lambda _: calls.append("shelter"))
    monkeypatch.setattr(outdoors, "_undergrowth", lambda _: calls.append("undergrowth"))
    for seed in range(4):
        for style in ("courtyard", "garden"):
            render.prepare(lights.GROUPS, WIDTH)
            rng = np.random.default_rng(seed)
            outdoors.build(rng, Materials(rng, split), style)
    assert set(calls) == ({"shelter", "undergrowth"} if split == "train" else set())


def test_a_seed_that_fails_leaves_the_others_alone(generate, monkeypatch, tmp_path, capsys):
    def make(split, seed):
        if seed == 1:
            raise RuntimeError("no memory")
        meta = {"kind": "room", "style": "hall", "seconds": 1}
        return {"meta": np.array(json.dumps(meta))}

    monkeypatch.setattr(generate, "make", make)
    call = ["--here", "--out", str(tmp_path), "--count", "3"]
    assert generate.main(call) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.npz", "000002.npz"]
    assert "1: failed, no memory" in capsys.readouterr().err

# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendering the current Blender scene into one training sample.

Two renders share the scene. The *picture* render takes SAMPLES paths a pixel and yields one
denoised radiance image for each light group (Cycles light groups, OIDN through the compositor)
and the antialiased material maps. The *data* render shoots one ray through each pixel's centre
and yields depth, normal and object index, so that no value mixes two surfaces.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import bpy
import numpy as np

from blender_omnix.panorama.frames import directions, solid_angles

WIDTH, HEIGHT = 256, 128
SAMPLES = 8
BOUNCES = 4
AOVS = ("albedo", "pbr", "normal")
FAR = 1e6


def prepare(groups: tuple[str, ...], width: int = WIDTH) -> None:
    """Set up an empty scene for Cycles: one view layer with light groups, AOVs and passes."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y = width, width // 2
    scene.render.resolution_percentage = 100
    scene.render.threads_mode = "FIXED"
    scene.render.threads = 1
    scene.render.use_persistent_data = True
    scene.view_settings.view_transform = "Raw"
    cycles = scene.cycles
    cycles.device = "CPU"
    cycles.use_adaptive_sampling = False
    cycles.use_denoising = False
    cycles.max_bounces = BOUNCES
    cycles.diffuse_bounces = BOUNCES
    cycles.glossy_bounces = 3
    cycles.caustics_reflective = False
    cycles.sample_clamp_indirect = 8.0
    cycles.blur_glossy = 1.0
    layer = scene.view_layers[0]
    layer.use_pass_z = True
    layer.use_pass_object_index = True
    layer.cycles.denoising_store_passes = True
    for group in groups:
        layer.lightgroups.add(name=group)
    for name in AOVS:
        aov = layer.aovs.add()
        aov.name, aov.type = name, "COLOR"


def camera(height: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Add the panoramic camera at (0, 0, height), looking along +X; tilts in radians.

    Returns the rotation (3, 3) whose rows are the image's axes in the scene: centre, left, up.
    """
    from mathutils import Matrix

    data = bpy.data.cameras.new("camera")
    data.type = "PANO"
    data.panorama_type = "EQUIRECTANGULAR"
    data.clip_start = 1e-3
    item = bpy.data.objects.new("camera", data)
    tilt = Matrix.Rotation(pitch, 3, "Y") @ Matrix.Rotation(roll, 3, "X")
    upright = Matrix(((0, 0, -1), (-1, 0, 0), (0, 1, 0)))  # columns: right, up, backward
    item.matrix_world = Matrix.Translation((0, 0, height)) @ (tilt @ upright).to_4x4()
    scene = bpy.context.scene
    scene.collection.objects.link(item)
    scene.camera = item
    return np.array(tilt).T


def surroundings(reach: float) -> tuple[float, float]:
    """How near to the camera surfaces are, found by casting rays: the distance of the nearest in
    metres, infinite beyond `reach`, and the share of the sphere that has one within it."""
    from mathutils import Vector

    scene = bpy.context.scene
    depsgraph = bpy.context.evaluated_depsgraph_get()
    eye = scene.camera.matrix_world.translation
    rays = directions(HEIGHT // 4, WIDTH // 4)
    away = np.full(rays.shape[:2], np.inf)
    for place in np.ndindex(away.shape):
        hit, point, *_ = scene.ray_cast(depsgraph, eye, Vector(rays[place]), distance=reach)
        if hit:
            away[place] = (point - eye).length
    weight = solid_angles(*away.shape)
    share = (np.isfinite(away).mean(axis=1) * weight).sum() / weight.sum()
    return float(away.min()), float(share)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Layers of a multilayer EXR by name, (H, W, channels) float32."""
    import OpenImageIO as oiio

    source = oiio.ImageInput.open(str(path))
    if source is None:
        raise RuntimeError(f"{path}: {oiio.geterror()}")
    spec = source.spec()
    pixels = source.read_image("float")
    source.close()
    if pixels is None:
        raise RuntimeError(f"{path}: the render could not be read back")
    layers: dict[str, list[tuple[int, int]]] = {}
    order = {c: i for i, c in enumerate("RGBAXYZV")}
    for k, channel in enumerate(spec.channelnames):
        layer, _, component = channel.rpartition(".")
        layer = layer.removeprefix("ViewLayer.")
        layers.setdefault(layer, []).append((order.get(component, 9), k))
    return {name: pixels[..., [k for _, k in sorted(ks)]] for name, ks in layers.items()}


def _compositor(groups: tuple[str, ...], folder: Path) -> None:
    """Denoise each light group, write all to one multilayer file."""
    scene = bpy.context.scene
    scene.use_nodes = True
    tree = scene.node_tree
    tree.nodes.clear()
    layers = tree.nodes.new("CompositorNodeRLayers")
    output = tree.nodes.new("CompositorNodeOutputFile")
    output.base_path = str(folder / "picture_")
    output.format.file_format = "OPEN_EXR_MULTILAYER"
    output.format.color_depth = "32"
    output.format.exr_codec = "NONE"
    output.layer_slots.clear()
    for group in groups:
        denoise = tree.nodes.new("CompositorNodeDenoise")
        denoise.prefilter = "NONE"
        # The cheapest OIDN network: at this size no worse to look at than the dearest.
        denoise.quality = "FAST"
        tree.links.new(layers.outputs[f"Combined_{group}"], denoise.inputs["Image"])
        tree.links.new(layers.outputs["Denoising Normal"], denoise.inputs["Normal"])
        tree.links.new(layers.outputs["Denoising Albedo"], denoise.inputs["Albedo"])
        output.layer_slots.new(group)
        tree.links.new(denoise.outputs["Image"], output.inputs[group])
    for name in ("albedo", "pbr"):
        output.layer_slots.new(name)
        tree.links.new(layers.outputs[name], output.inputs[name])


def render(
    groups: tuple[str, ...], axes: np.ndarray, samples: int = SAMPLES
) -> dict[str, np.ndarray]:
    """Render the current scene.

    `axes` is what `camera` returned. Returns float32 arrays: one radiance (H, W, 3) for each
    light group; `albedo` (H, W, 3) linear, `roughness`, `metallic` (H, W); `depth` (H, W) metres
    along the ray, 0 = sky; `normal` (H, W, 3) unit, in the image's frame, smoothed as surfaces are
    shaded but without bump, never facing away from the viewer (sky: minus the ray); `index` (H, W)
    the object index.
    """
    scene = bpy.context.scene
    layer = scene.view_layers[0]
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        _compositor(groups, Path(folder))
        scene.cycles.samples = samples
        bpy.ops.render.render()
        picture = _read(next(Path(folder).glob("picture_*.exr")))

        scene.render.use_compositing = False
        scene.cycles.samples = 1
        scene.cycles.max_bounces = 0
        scene.cycles.pixel_filter_type = "BOX"
        scene.cycles.filter_width = 0.01
        layer.cycles.denoising_store_passes = False
        scene.render.image_settings.file_format = "OPEN_EXR_MULTILAYER"
        scene.render.image_settings.color_depth = "32"
        scene.render.image_settings.exr_codec = "NONE"
        scene.render.filepath = str(Path(folder) / "data.exr")
        bpy.ops.render.render(write_still=True)
        data = _read(Path(folder) / "data.exr")

    depth = data["Depth"][..., 0]
    depth = np.where(depth < FAR, depth, 0.0).astype(np.float32)
    rays = directions(*depth.shape)
    normal = data["normal"][..., :3] @ axes.T
    # A smoothed normal may lean away at a silhouette: it is laid across the ray.
    normal -= np.maximum((normal * rays).sum(-1, keepdims=True), 0.0) * rays
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = np.where(
        (length > 1e-6) & (depth > 0)[..., None], normal / np.maximum(length, 1e-6), -rays
    ).astype(np.float32)
    # Pixels at the sky's edge are covered in part: divide the coverage out.
    cover = np.maximum(picture["pbr"][..., 2:3], 1e-3)
    solid = depth > 0
    albedo = np.clip(picture["albedo"][..., :3] / cover, 0, 1) * solid[..., None]
    pbr = np.clip(picture["pbr"][..., :2] / cover, 0, 1)
    result = {group: np.maximum(picture[group][..., :3], 0.0) for group in groups}
    result["albedo"] = albedo.astype(np.float32)
    result["roughness"] = np.where(solid, pbr[..., 0], 1.0).astype(np.float32)
    result["metallic"] = np.where(solid, pbr[..., 1], 0.0).astype(np.float32)
    result["depth"], result["normal"] = depth, normal
    result["index"] = data["IndexOB"][..., 0].astype(np.int32)
    return result

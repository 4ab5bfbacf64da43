# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to a place: the datablocks that were built for it, and what it was built from.

A place is a collection. Two custom properties of it hold the record, with pointers, so that
renaming loses nothing and nothing of the user's is ever taken for ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import bpy
from mathutils import Matrix

from .... import maps
from ....errors import OmnixError
from ... import paths
from ...identity import BUILT, STATE, is_built, is_place
from .. import material

MATERIALS = ("material", "lamp_material")
# Parts that are there for an object alone.
_SERVES = {
    "surface_mesh": "surface",
    "hull_mesh": "hull",
    "panes_mesh": "panes",
    "camera_data": "camera",
    "preview_mesh": "preview",
    "preview_group": "preview",
}


def places() -> Iterator[bpy.types.Collection]:
    """The collections that are places of this file."""
    return filter(is_place, bpy.data.collections)


def name_of(collection: bpy.types.Collection) -> str:
    """What a place was called when it was built."""
    return collection[STATE]["name"]


def find(name: str, folder: Path | None = None) -> bpy.types.Collection | None:
    """The place called `name`, whatever its collection is called by now. Where several are, since
    one was appended or a scene was copied, that with its maps in `folder`; and of these that of the
    scene at hand."""
    here = bpy.context.scene.collection.children_recursive

    def apart(item: bpy.types.Collection) -> tuple[bool, bool]:
        elsewhere = folder is not None and not paths.same(folder_of(item), folder)
        return elsewhere, item not in here

    return min((item for item in places() if name_of(item) == name), key=apart, default=None)


def refuse_linked(scene: bpy.types.Scene) -> None:
    """Raise OmnixError where nothing can be put into a scene."""
    if scene.library is not None:
        raise OmnixError(
            f"The scene {scene.name} is linked from another file; switch to one of this file first."
        )


def made_from(folder: Path) -> list[bpy.types.Collection]:
    """The places whose maps lie in `folder`."""
    return [item for item in places() if paths.same(folder_of(item), folder)]


def linked_from(folder: Path) -> list[str]:
    """The names of places of other files, linked into this one, whose maps lie in `folder`."""
    others = [item for item in bpy.data.collections if is_built(item) and not is_place(item)]
    return [name_of(item) for item in others if paths.same(folder_of(item), folder)]


def changed_maps(collection: bpy.types.Collection) -> list[str]:
    """The maps of a place's set that somebody has worked on since: files that are no longer what
    the report says, and packed pictures that are no longer what the file holds."""
    folder, own = folder_of(collection), own_maps(collection)
    if not maps.is_map_set(folder):
        return []
    report, images = maps.read_report(folder), images_of(collection)
    shown = {
        name: (images.get(name), file)
        for name, file in maps.map_files(folder).items()
        if name not in own
    }
    return [
        name
        for name, (image, file) in shown.items()
        if image is not None and (maps.was_changed(file, report) or _is_packed_anew(image, file))
    ]


def _is_packed_anew(image: bpy.types.Image, file: Path) -> bool:
    packed = image.packed_file
    if packed is None:
        return False
    return packed.size != file.stat().st_size or packed.data != file.read_bytes()


def own_maps(collection: bpy.types.Collection) -> dict[str, bpy.types.Image]:
    """The maps of a place that are the user's: a file that was put in place of one of the set, and
    what was painted and not saved. What can no longer be read is none of them."""
    folder = folder_of(collection)
    return {
        name: image
        for name, image in images_of(collection).items()
        if (image.is_dirty or not _is_of_set(image, folder / maps.MAPS[name].filename))
        and image.size[0] > 0  # asked last: for this Blender reads the file
    }


def return_unpacked(collection: bpy.types.Collection) -> None:
    """Let a place show the files of its set again instead of those that were packed and unpacked
    beside the .blend. To be called before the set is renewed, which these would no longer equal."""
    folder = folder_of(collection)
    for name, image in images_of(collection).items():
        file = folder / maps.MAPS[name].filename
        if not image.is_dirty and _is_unpacked(image, file):
            # Not `filepath`, which would read the file.
            image.filepath_raw = paths.stored(file)


def _is_of_set(image: bpy.types.Image, file: Path) -> bool:
    shown = Path(paths.absolute(image.filepath))
    return paths.same(shown, file) or _is_unpacked(image, file)


def _is_unpacked(image: bpy.types.Image, file: Path) -> bool:
    """Whether an image shows a copy of a map file where Blender unpacks one, in `//textures`. Any
    other copy was put in place by the user, to be kept."""
    shown = Path(paths.absolute(image.filepath))
    if shown.parent.name != "textures" or not paths.is_file(shown) or _is_packed_anew(image, shown):
        return False
    if not maps.is_map_set(file.parent):
        return False
    written = maps.read_report(file.parent).get("files", {}).get(file.name)
    return written is not None and written["sha256"] == maps.sha256(shown)


def part(collection: bpy.types.Collection, key: str) -> bpy.types.ID | None:
    """One of the datablocks of a place: 'root', 'surface', 'hull', 'material', 'map_albedo' ...

    None where the place has no such part or the user has deleted it.
    """
    item = built_of(collection).get(key)
    return None if item is None or is_deleted(item) else item


def images_of(collection: bpy.types.Collection) -> dict[str, bpy.types.Image]:
    """The maps a place has, by name."""
    there = recorded(collection)
    return {name: there[f"map_{name}"] for name in maps.MAPS if f"map_{name}" in there}


def folder_of(collection: bpy.types.Collection) -> Path:
    """The map set a place was built from.

    It is the one that most of its images lie in: where the .blend was saved elsewhere since,
    Blender has kept their paths right, and what is recorded is right where they have gone.
    """
    overridden = collection.override_library
    library = (overridden.reference if overridden else collection).library
    recorded = Path(paths.absolute(collection[STATE]["folder"], library=library))
    images_in = (
        Path(paths.absolute(image.filepath, library=image.library)).parent
        for image in images_of(collection).values()
    )
    # Of as many the recorded one, which is counted first.
    likely = [folder for folder, _ in Counter((recorded, *images_in)).most_common()]
    return next(filter(maps.is_map_set, likely), recorded)


def set_folder(collection: bpy.types.Collection, folder: str) -> None:
    """Note that the map set was moved."""
    collection[STATE]["folder"] = folder


def has_controls(collection: bpy.types.Collection) -> bool:
    """False where the user has deleted a node group of a place, or a node of it that controls."""
    group, surface = (part(collection, key) for key in ("controls_group", "surface_group"))
    return group is not None and surface is not None and material.is_intact(group, surface)


def damage(collection: bpy.types.Collection) -> str | None:
    """What to tell where the user has deleted something without which a place cannot be changed."""
    needed = (part(collection, key) for key in (*MATERIALS, "map_depth"))
    if has_controls(collection) and None not in needed:
        return None
    return (
        f"Materials, node groups or the depth map of {name_of(collection)} were deleted; undo "
        f"that, or load the maps in {folder_of(collection)} again."
    )


def source_of(collection: bpy.types.Collection) -> bpy.types.Image | None:
    """The image of a place's original light: its panorama, or the map of what the engine saw; None
    where the user has deleted it."""
    surface = part(collection, "surface_group")
    node = None if surface is None else surface.nodes.get("source")
    return None if node is None else node.image


def control(collection: bpy.types.Collection, label: str) -> bpy.types.NodeSocket:
    """One of the exposed controls of a place's material, by its label."""
    return material.control(built_of(collection)["controls_group"], label)


def panel_controls(
    collection: bpy.types.Collection,
) -> list[tuple[str, bpy.types.NodeSocket]]:
    """All exposed controls of a place's material, label and socket."""
    return [(label, control(collection, label)) for label in material.LABELS]


def viewpoint(collection: bpy.types.Collection) -> Matrix:
    """The capture frame in the world: 4 x 4, from panorama coordinates to world coordinates."""
    return _world_of(root_of(collection))


def _world_of(item: bpy.types.Object) -> Matrix:
    """4 x 4, from an object's coordinates to the world's.

    Its `matrix_world` lags behind until the next evaluation, and is lost with a file that is closed
    where the object is excluded, or hidden with its collection. It is asked all the same of what
    constraints, physics or parts of the parent move.
    """
    parent = item.parent
    on_part = parent is not None and (
        parent.type == "CURVE" or item.parent_type in ("BONE", "VERTEX", "VERTEX_3")
    )
    if on_part or item.constraints or item.rigid_body is not None:
        return item.matrix_world.copy()
    if parent is None:
        return item.matrix_basis.copy()
    return _world_of(parent) @ item.matrix_parent_inverse @ item.matrix_basis


def root_of(collection: bpy.types.Collection) -> bpy.types.Object:
    """The empty at the viewpoint. Raises OmnixError where the user has deleted it."""
    root = part(collection, "root")
    if root is None:
        raise OmnixError(
            f"The empty at the viewpoint of {name_of(collection)} was deleted; undo that, or load "
            f"the maps in {folder_of(collection)} again."
        )
    return root


def built_of(collection: bpy.types.Collection) -> dict[str, bpy.types.ID]:
    """The datablocks of a place, by part, without objects that the user has deleted and their data.

    But the empty at the viewpoint goes on carrying the others until it is put back.
    """
    there = {
        key: item
        for key, item in recorded(collection).items()
        if key == "root" or not is_deleted(item)
    }
    return {key: item for key, item in there.items() if _SERVES.get(key, key) in there}


def recorded(collection: bpy.types.Collection) -> dict[str, bpy.types.ID]:
    """The datablocks of a place that are in the file, by part."""
    return {key: item for key, item in collection[BUILT].items() if item is not None}


def is_deleted(item: bpy.types.ID) -> bool:
    """True for an object that the user has deleted, which only our record keeps in the file."""
    return isinstance(item, bpy.types.Object) and not item.users_collection


def tidy(collection: bpy.types.Collection) -> dict[str, bpy.types.ID]:
    """Take away what the user's deleting has left behind, so that its name is free for what takes
    its place; the datablocks that the place still has."""
    built = built_of(collection)
    keep(collection, built)
    return built


def keep(collection: bpy.types.Collection, built: Mapping[str, bpy.types.ID]) -> None:
    """Record the datablocks of a place.

    Earlier ones that are not among them any more go, unless something of the user's uses them.
    """
    earlier = [item for item in recorded(collection).values() if item not in built.values()]
    ours = [*built.values(), *earlier]
    collection[BUILT] = built
    delete_unused(earlier, ours)


def delete_unused(items: Sequence[bpy.types.ID], ours: Sequence[bpy.types.ID]) -> None:
    """Delete those of our datablocks `items` that nothing else uses."""
    unused = left = items
    while unused:
        # In rounds, since an object uses its mesh, and a node group its images.
        unused = [item for item in left if not item.users]
        left = [item for item in left if item.users]
        release(unused, ours)
        delete(unused)


def release(parents: Sequence[bpy.types.ID], ours: Sequence[bpy.types.ID]) -> None:
    """Let objects of the user's that hang on one of `parents` stay where they are without it."""
    for item in bpy.data.objects:
        if item.parent in parents and item not in ours:
            here = _world_of(item)
            item.parent = None
            item.matrix_world = here


def delete(datablocks: Iterable[bpy.types.ID]) -> None:
    bpy.data.batch_remove(list(datablocks))


def shells_of(built: Mapping[str, bpy.types.ID]) -> dict[str, bpy.types.Object]:
    """The mesh objects of a place, by part."""
    return {key: built[key] for key in ("surface", "hull", "panes") if key in built}

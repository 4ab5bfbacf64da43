# SPDX-License-Identifier: GPL-3.0-or-later
"""A place and the world that shows its panorama: one follows the other, or is made for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bpy
from mathutils import Euler, Matrix

from .... import maps
from ....errors import OmnixError
from ... import paths
from ...world_nodes import Dial, Showing, signs
from .. import images, world
from .record import (
    built_of,
    control,
    folder_of,
    has_controls,
    name_of,
    part,
    places,
    recorded,
    root_of,
    source_of,
    viewpoint,
)

# What the place's drivers follow. A driver does not count as a user: a world that no scene has any
# more would not be saved, and the place would fall back to zero.
_FOLLOWED = "omnix_followed"


def follow_world(collection: bpy.types.Collection, showing: Showing) -> None:
    """Turn the place as a world turns that shows its panorama, and give it that strength.

    Drivers keep it so when the world's nodes change, in animations too, until `stop_following`; a
    world that is deleted leaves the place as it is now. What they cannot follow (see `Showing`), as
    that the world mirrors the panorama, is taken over as it is now. A strength that is another's
    too (`shared_strength`) stays.
    """
    stop_following(collection)
    root, strength = root_of(collection), control(collection, "Strength")
    if root.parent is not None:
        raise OmnixError(
            f"{name_of(collection)} is turned by {root.parent.name}, its parent; clear the parent "
            "for it to follow the world."
        )
    dial = showing.turned_by
    mirror = Matrix.Diagonal(showing.mirror)
    root.scale = [abs(s) * m for s, m in zip(root.scale, showing.mirror, strict=True)]
    # The world's nodes turn the direction that is looked up, so the picture turns the other way;
    # the inverse of angles about X, Y, Z is their negatives about Z, Y, X. They mirror before they
    # turn, as the place does: in a mirror, turns about the axes that lie in it are reversed.
    inverse = dial is not None and dial.inverse
    order = "XYZ" if inverse else "ZYX"
    turn = mirror @ Euler(showing.rotation, "XYZ").to_matrix() @ mirror
    root.rotation_mode = order
    root.rotation_euler = turn.inverted().to_euler(order)
    if dial is not None:
        for axis in range(3):
            now = root.rotation_euler[axis]
            curve = root.driver_add("rotation_euler", axis)
            same = inverse or mirror.determinant() * showing.mirror[axis] < 0
            _drive(curve, replace(dial, path=f"{dial.path}[{axis}]"), now, "" if same else "-")
    dials = {"turned_by": dial}
    strengthened_by, others = showing.strengthened_by, _strength_target(collection)
    if others is None or (strengthened_by is not None and others.id == strengthened_by.owner):
        dials["strengthened_by"] = strengthened_by
        strength.default_value = showing.strength
        if strengthened_by is not None:
            strength.driver_remove("default_value")
            _drive(strength.driver_add("default_value"), strengthened_by, showing.strength)
    collection[_FOLLOWED] = {key: by.owner for key, by in dials.items() if by is not None}


def stop_following(collection: bpy.types.Collection) -> None:
    """Leave rotation and strength as they are now, for the user to set; but a strength that is
    another's too (`shared_strength`) as that has it."""
    # Other drivers are the user's.
    followed = collection.pop(_FOLLOWED, {})
    if "turned_by" in followed:
        root_of(collection).driver_remove("rotation_euler")
    if _strength_target(collection) is not None and _sharer(collection) is None:
        control(collection, "Strength").driver_remove("default_value")


def is_following(collection: bpy.types.Collection) -> bool:
    """True where drivers of ours turn the place or set its strength."""
    return bool(_followed(collection))


def has_lost_world(collection: bpy.types.Collection) -> bool:
    """True where the user has deleted the world that the place follows: it stands as it stood when
    it began to follow, until `stop_following`."""
    return None in _followed(collection).values()


def shared_strength(collection: bpy.types.Collection) -> str | None:
    """What to tell where the strength of a place follows another world than the place does: since
    it was copied, with its scene for one, it has the strength of another place."""
    other = _sharer(collection)
    if other is None or "strengthened_by" in _followed(collection):
        return None
    return (
        f"The strength still follows {_strength_target(collection).id.name}, as {other.name} does, "
        "which has the same material."
    )


def _followed(collection: bpy.types.Collection) -> dict[str, bpy.types.ID | None]:
    """What the place's drivers follow; None where that was deleted."""
    followed, target = dict(collection.get(_FOLLOWED, {})), _strength_target(collection)
    if target is None or target.id != followed.get("strengthened_by"):
        followed.pop("strengthened_by", None)
    return followed


def _sharer(collection: bpy.types.Collection) -> bpy.types.Collection | None:
    """Another place with the same material that follows the world which sets the strength now."""
    target = _strength_target(collection)
    if target is None or target.id is None:
        return None
    group = part(collection, "controls_group")
    for other in places():
        follows = other.get(_FOLLOWED, {}).get("strengthened_by") == target.id
        if follows and other != collection and part(other, "controls_group") == group:
            return other
    return None


def _strength_target(collection: bpy.types.Collection) -> bpy.types.DriverTarget | None:
    """What a driver of ours on the strength follows."""
    if not has_controls(collection):
        return None
    strength = control(collection, "Strength")
    animation = strength.id_data.animation_data
    drivers = () if animation is None else animation.drivers
    path = strength.path_from_id("default_value")
    for driver in (curve.driver for curve in drivers if curve.data_path == path):
        if "typed" in driver.variables:
            return driver.variables["typed"].targets[0]
    return None


def use_as_world(context: bpy.types.Context, collection: bpy.types.Collection) -> None:
    """Give the scene a new world that shows the panorama of a place, turned and as strong as the
    place is now.

    World and picture are the user's, as if made by hand: what becomes of the place changes neither.
    Raises OmnixError, with the scene unchanged, where the panorama is gone.
    """
    stands, mirror = viewpoint(collection).to_3x3(), _mirror_of(collection)
    image = source_of(collection)
    if image is None or image == built_of(collection).get("map_panorama") or images.is_lost(image):
        path = maps.read_report(folder_of(collection)).get("source", {}).get("path")
        raise OmnixError(
            f"The panorama that {name_of(collection)} was made from is gone. Put "
            f"{path or 'its image'} back and load the maps again."
        )
    context.scene.world = world.panorama_world(
        name_of(collection),
        _own_picture(image),
        turned=(stands @ mirror).to_quaternion().to_matrix(),
        mirrored=mirror,
        strength=control(collection, "Strength").default_value,
    )


def _mirror_of(collection: bpy.types.Collection) -> Matrix:
    """The axes (3 x 3, diagonal, 1 or -1) that a place is mirrored along before it is turned."""
    mirror = Matrix.Diagonal(signs(root_of(collection).scale))
    if (viewpoint(collection).to_3x3() @ mirror).determinant() < 0:
        mirror.negate()  # its parent mirrors it too
    return mirror


def _drive(curve: bpy.types.FCurve, dial: Dial, now: float, sign: str = "") -> None:
    """Let a property that is `now` be the dial's value, called `typed`, or its negative."""
    driver = curve.driver
    typed = _variable(driver, "typed", dial.owner, dial.path)
    # Else the place would fall back to zero, and be black, once the node is renamed or gone.
    typed.use_fallback_value, typed.fallback_value = True, -now if sign else now
    # Of a world that the user deletes outright every variable is zero, whatever it falls back to;
    # the number of its type never is while it is there.
    _variable(driver, "there", dial.owner, "id_type")
    # So simple that Blender evaluates it without Python, also where scripts may not run.
    driver.expression = f"{sign}typed if there else {now:.9g}"


def _variable(
    driver: bpy.types.Driver, name: str, owner: bpy.types.ID, path: str
) -> bpy.types.DriverTarget:
    """Let a driver know the property `path` of a datablock by a name."""
    variable = driver.variables.new()
    variable.name = name
    target = variable.targets[0]
    target.id_type = owner.id_type
    target.id, target.data_path = owner, path
    return target


def _own_picture(image: bpy.types.Image) -> bpy.types.Image:
    """The user's image of the same file as one that a place made for itself: one that is there, or
    a copy called like the file. Any other image is the user's already."""
    ours = [item for other in places() for item in recorded(other).values()]
    if image not in ours:
        return image
    for other in bpy.data.images:
        same_space = other.colorspace_settings.name == image.colorspace_settings.name
        if other not in ours and other.filepath == image.filepath and same_space:
            return other
    own = image.copy()
    own.name = Path(paths.absolute(image.filepath)).name
    return own

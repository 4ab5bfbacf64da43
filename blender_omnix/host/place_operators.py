# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user does with a place once it stands: thin operators over `build.place`.

Each acts on the place called `name`; without one, on the place of the active object, else on the
scene's first.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import bpy

from .. import maps
from ..errors import OmnixError
from . import job, operators, paths, renewal, world_nodes
from .geometry_settings import NUMBERS
from .identity import active, is_built, is_place

MODES = (
    ("ORIGINAL", "Original Light", "The panorama's own light, unlit: true to the photograph"),
    ("RELIGHT", "Relight", "The light that was photographed is out, the scene's lights are in"),
)
ENCLOSED = (
    ("AUTO", "Automatic", "Closed where little sky is seen"),
    ("YES", "Closed", "Outside light enters through the sky that is seen, and nowhere else"),
    ("NO", "Open", "Outside light enters through every gap"),
)
_MAP_ITEMS = tuple(
    (name, spec.label, "", index) for index, (name, spec) in enumerate(maps.MAPS.items())
)
_REQUESTABLE_ITEMS = tuple(item for item in _MAP_ITEMS if item[0] in maps.REQUESTABLE)
_CUT = (*NUMBERS, "enclosed")


def _linked(collections: Iterable[bpy.types.Collection]) -> bpy.types.Collection | None:
    """A place among collections that belongs to another file."""
    return next((c for c in collections if is_built(c) and not is_place(c)), None)


def _advice(linked: bpy.types.Collection) -> str:
    return (
        f"{linked.name} is linked from another file: change it there, append it, or make all of it "
        "local"
    )


def _shows_place(item: bpy.types.Object) -> bool:
    """True for an instance of a collection that is or holds a place."""
    shown = item.instance_collection if item.instance_type == "COLLECTION" else None
    return shown is not None and any(map(is_built, (shown, *shown.children_recursive)))


class _PlaceOperator:
    """Runs `change(place, context, collection)` on a place, with the module `build.place`, which is
    slow to import; what goes wrong is told in one sentence."""

    bl_options = {"REGISTER", "UNDO"}
    takes_damage = False  # whether it acts on a place of which the user has deleted parts

    name: bpy.props.StringProperty(
        name="Name",
        description="Name of the place. Empty takes the active one",
        # Else Blender would hand the place of one call to the next.
        options={"HIDDEN", "SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if any(map(is_place, bpy.data.collections)):
            return True
        linked = _linked(bpy.data.collections)
        cls.poll_message_set(
            "There is no place in this file" if linked is None else _advice(linked)
        )
        return False

    def chosen(self, context: bpy.types.Context) -> bpy.types.Collection:
        """The place to act on. Raises OmnixError where it is not there."""
        from .build import place

        collection = place.find(self.name, self.folder()) if self.name else active(context)
        if collection is None:
            called = f"called {self.name} in this file" if self.name else "in this scene"
            linked = _linked(context.scene.collection.children_recursive)
            advice = "" if linked is None else f" {_advice(linked)}."
            instance = next(filter(_shows_place, context.scene.objects), None)
            if instance is not None:
                advice += (
                    f" {instance.name} is an instance of one: link its collection into the scene, "
                    "or append it without Instance Collections."
                )
            raise OmnixError(f"There is no place {called}.{advice}")
        if not self.takes_damage and (damage := place.damage(collection)):
            raise OmnixError(damage)
        return collection

    def folder(self) -> Path | None:
        """That of the maps of the place, where it tells places of one name apart."""
        return None

    def execute(self, context: bpy.types.Context) -> set[str]:
        from .build import place

        try:
            self.change(place, context, self.chosen(context))
        except OmnixError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class OMNIX_OT_set_mode(_PlaceOperator, bpy.types.Operator):
    """Switch a place between the light that was photographed and the scene's lights"""

    bl_idname = "omnix.set_mode"
    bl_label = "Set Light Mode"

    mode: bpy.props.EnumProperty(name="Mode", description="What lights the place", items=MODES)

    def change(self, place, _context, collection) -> None:
        place.set_mode(collection, self.mode)


class OMNIX_OT_adjust_geometry(_PlaceOperator, bpy.types.Operator):
    """Drag detail, jump and fill on a quick stand-in before the mesh is built anew"""

    bl_idname = "omnix.adjust_geometry"
    bl_label = "Adjust Geometry"

    def change(self, place, _context, collection) -> None:
        place.start_adjusting(collection)


class OMNIX_OT_apply_geometry(_PlaceOperator, bpy.types.Operator):
    """Build the full mesh with the settings that the stand-in was left at"""

    bl_idname = "omnix.apply_geometry"
    bl_label = "Apply Geometry"

    def change(self, place, _context, collection) -> None:
        place.finish_adjusting(collection, apply=True)


class OMNIX_OT_keep_geometry(_PlaceOperator, bpy.types.Operator):
    """Leave the mesh as it was and take the stand-in away"""

    bl_idname = "omnix.keep_geometry"
    bl_label = "Keep Geometry"

    def change(self, place, _context, collection) -> None:
        place.finish_adjusting(collection, apply=False)


def _number(name: str) -> object:
    default, least, most, description = NUMBERS[name]
    kind = bpy.props.IntProperty if isinstance(default, int) else bpy.props.FloatProperty
    return kind(name=name.title(), description=description, default=default, min=least, max=most)


class OMNIX_OT_rebuild_place(_PlaceOperator, bpy.types.Operator):
    """Cut the geometry anew from the maps as they are now"""

    bl_idname = "omnix.rebuild_place"
    bl_label = "Rebuild Geometry"

    detail: _number("detail")
    jump: _number("jump")
    fill: _number("fill")
    smooth: _number("smooth")
    enclosed: bpy.props.EnumProperty(
        name="Enclosure", description="Whether the place is closed to outside light", items=ENCLOSED
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        from .build import place

        collection = active(context)
        if collection is not None:
            settings = place.settings_of(collection)
            for key in _CUT:
                setattr(self, key, getattr(settings, key))
        return context.window_manager.invoke_props_dialog(self)

    def change(self, place, _context, collection) -> None:
        changes = {key: getattr(self, key) for key in _CUT if self.properties.is_property_set(key)}
        place.rebuild(collection, **changes)


class OMNIX_OT_use_place(_PlaceOperator, bpy.types.Operator):
    """Let the place catch shadows alone, or let what falls collide with it"""

    bl_idname = "omnix.use_place"
    bl_label = "Use Place"

    shadow_catcher: bpy.props.BoolProperty(
        name="Shadow Catcher",
        description="Cycles shows nothing of the place but the shadows that objects cast on it, "
        "for compositing; with Relight, and with Transparent in the film settings",
        options={"SKIP_SAVE"},
    )
    collision: bpy.props.BoolProperty(
        name="Collision",
        description="Cloth, soft bodies and particles collide with the place",
        options={"SKIP_SAVE"},
    )

    def change(self, place, _context, collection) -> None:
        if self.properties.is_property_set("shadow_catcher"):
            place.set_shadow_catcher(collection, self.shadow_catcher)
        if self.properties.is_property_set("collision"):
            place.set_collision(collection, self.collision)


class OMNIX_OT_set_scale(_PlaceOperator, bpy.types.Operator):
    """Give the place its true size by a distance that is known"""

    bl_idname = "omnix.set_scale"
    bl_label = "Set Known Distance"

    measured: bpy.props.FloatProperty(
        name="Measured",
        description="The distance as it is now, by default from the viewpoint to the 3D cursor",
        default=1.0,
        min=0.001,
        unit="LENGTH",
    )
    distance: bpy.props.FloatProperty(
        name="True",
        description="The same distance as it is known to be",
        default=1.0,
        min=0.001,
        unit="LENGTH",
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        from .build import place

        collection = active(context)
        if collection is not None:
            here = place.viewpoint(collection).translation
            self.measured = self.distance = (context.scene.cursor.location - here).length
        return context.window_manager.invoke_props_dialog(self)

    def change(self, place, _context, collection) -> None:
        place.scale(collection, self.distance / self.measured)


class OMNIX_OT_follow_world(_PlaceOperator, bpy.types.Operator):
    """Turn and brighten the place whenever the scene's world does, or leave it as it is now"""

    bl_idname = "omnix.follow_world"
    bl_label = "Follow World"

    follow: bpy.props.BoolProperty(
        name="Follow", description="Whether the place follows the scene's world", default=True
    )

    def change(self, place, context, collection) -> None:
        notes = ()
        if self.follow:
            showing = world_nodes.showing(context.scene.world)
            place.follow_world(collection, showing)
            notes = showing.notes
        else:
            place.stop_following(collection)
        for note in filter(None, (*notes, place.shared_strength(collection))):
            self.report({"WARNING"}, note)


class OMNIX_OT_use_as_world(_PlaceOperator, bpy.types.Operator):
    """Show the place's panorama in a new world, which the place follows unless it has a parent"""

    bl_idname = "omnix.use_as_world"
    bl_label = "Use as World"

    def change(self, place, context, collection) -> None:
        place.use_as_world(context, collection)
        if place.part(collection, "root").parent is None:
            place.follow_world(collection, world_nodes.showing(context.scene.world))
        else:
            # It is turned by that object.
            place.stop_following(collection)
        if note := place.shared_strength(collection):
            self.report({"WARNING"}, note)


class OMNIX_OT_show_map(_PlaceOperator, bpy.types.Operator):
    """Show one of the maps on the place, without light"""

    bl_idname = "omnix.show_map"
    bl_label = "Show Map"

    map: bpy.props.EnumProperty(
        name="Map",
        description="What the place shows",
        items=(("NONE", "Place", "The place itself", 99), *_MAP_ITEMS),
    )

    def change(self, place, _context, collection) -> None:
        if self.map != "NONE" and self.map not in place.images_of(collection):
            raise OmnixError(
                f"The place has no {self.map} map; extract it, or choose one that it has."
            )
        place.show_map(collection, None if self.map == "NONE" else self.map)


class OMNIX_OT_replace_map(_PlaceOperator, bpy.types.Operator):
    """Use a file of one's own for one of the maps"""

    bl_idname = "omnix.replace_map"
    bl_label = "Replace Map"

    map: bpy.props.EnumProperty(name="Map", description="The map to replace", items=_MAP_ITEMS)
    filepath: bpy.props.StringProperty(
        name="File", description="Equirectangular image for this map", subtype="FILE_PATH"
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def change(self, place, _context, collection) -> None:
        place.replace_map(collection, self.map, paths.chosen(self.filepath))

    def folder(self) -> Path:
        return paths.chosen(self.filepath).parent


class OMNIX_OT_extract_map(operators.Extraction, _PlaceOperator, bpy.types.Operator):
    """Extract this map alone again, as the report of the maps says; the others stay as they are"""

    bl_idname = "omnix.extract_map"
    bl_label = "Extract Map Again"

    map: bpy.props.EnumProperty(
        name="Map",
        description="The map to extract",
        items=_REQUESTABLE_ITEMS,
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return super().poll(context) and super(operators.Extraction, cls).poll(context)

    def begin(self, context: bpy.types.Context, *, interactive: bool) -> job.Job:
        planned, panorama, settings = renewal.plan(self.chosen(context), self.map)
        chosen = operators.engine_options(context, settings["engine"].upper())
        # Where weights lie and what they run on may have changed since; how large and how exact
        # the map is to be is as the report of the others says.
        moved = {k: v for k, v in chosen.items() if v and k not in ("height", "fp8")}
        started = job.Job(
            source=panorama,
            folder=Path(planned.scratch.name, "maps"),
            camera_height=settings["camera_height"],
            build=True,
            scene=context.scene.session_uid,
            notes=[],
            renewal=planned,
        )
        job.start(context, started, settings | {"options": settings["options"] | moved})
        return started


class OMNIX_OT_save_maps(_PlaceOperator, bpy.types.Operator):
    """Save the maps of the place, replaced ones included, to a folder"""

    bl_idname = "omnix.save_maps"
    bl_label = "Save Maps As"
    bl_options = {"REGISTER"}

    directory: bpy.props.StringProperty(
        name="Folder",
        description="A new or empty folder, or an earlier map set",
        subtype="DIR_PATH",
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def change(self, place, _context, collection) -> None:
        for note in place.save_maps(collection, paths.chosen(self.directory)):
            self.report({"WARNING"}, note)


class OMNIX_OT_add_camera(_PlaceOperator, bpy.types.Operator):
    """Put the scene's camera at the viewpoint of the panorama"""

    bl_idname = "omnix.add_camera"
    bl_label = "Add Viewpoint Camera"

    panoramic: bpy.props.BoolProperty(
        name="Panoramic", description="Render the whole panorama, in Cycles", default=False
    )

    def change(self, place, context, collection) -> None:
        place.add_camera(context, collection, panoramic=self.panoramic)


class OMNIX_OT_mark_asset(_PlaceOperator, bpy.types.Operator):
    """Offer the place in the asset browser"""

    bl_idname = "omnix.mark_asset"
    bl_label = "Mark Place as Asset"

    def change(self, place, _context, collection) -> None:
        place.mark_asset(collection)


class OMNIX_OT_remove_place(_PlaceOperator, bpy.types.Operator):
    """Take away exactly what was built; the maps stay on disk"""

    bl_idname = "omnix.remove_place"
    bl_label = "Remove Place"
    takes_damage = True

    def change(self, place, context, collection) -> None:
        place.remove(context, collection)


CLASSES = (
    OMNIX_OT_set_mode,
    OMNIX_OT_adjust_geometry,
    OMNIX_OT_apply_geometry,
    OMNIX_OT_keep_geometry,
    OMNIX_OT_rebuild_place,
    OMNIX_OT_use_place,
    OMNIX_OT_set_scale,
    OMNIX_OT_follow_world,
    OMNIX_OT_use_as_world,
    OMNIX_OT_show_map,
    OMNIX_OT_replace_map,
    OMNIX_OT_extract_map,
    OMNIX_OT_save_maps,
    OMNIX_OT_add_camera,
    OMNIX_OT_mark_asset,
    OMNIX_OT_remove_place,
)

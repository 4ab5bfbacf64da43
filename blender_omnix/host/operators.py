# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators: thin, so that a script can do all that a click can."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import bpy

from .. import maps
from ..errors import OmnixError
from . import (
    destination,
    job,
    moving,
    paths,
    preferences,
    properties,
    renewal,
    source,
    world_nodes,
)
from .report import current_folder


class Extraction:
    """Hands a job to the worker: `begin(context, interactive)` starts it and returns it."""

    # No UNDO: the scene changes later, when the result is applied as a step of its own.
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if job.current() is not None:
            cls.poll_message_set("An extraction is running")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """For scripts: returns when the maps are written and the place shows them."""
        if self.options.is_repeat_last:
            # A click that is repeated must not hold the window up either.
            return self.invoke(context, None)
        try:
            started = self.begin(context, interactive=False)
            _wait(started)
        except OmnixError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return conclude(self, context, started)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event | None) -> set[str]:
        """For the window: starts the work and returns; a timer sees to the end.

        A modal operator would keep Blender from saving automatically for as long as it runs.
        """
        try:
            self.begin(context, interactive=True)
        except OmnixError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        _start_timer()
        return {"FINISHED"}


class OMNIX_OT_extract_pbr(Extraction, bpy.types.Operator):
    """Extract PBR maps from a panorama and build a relightable place from them"""

    bl_idname = "omnix.extract_pbr"
    bl_label = "Extract PBR from Panorama"

    filepath: bpy.props.StringProperty(
        name="File",
        description="Equirectangular panorama. Empty takes the panel's source in the window, "
        "and the one of the scene's world in a script",
        subtype="FILE_PATH",
        options={"SKIP_SAVE", *properties.PATH_OPTIONS},
    )
    directory: bpy.props.StringProperty(
        name="Output",
        description="Folder of the maps. Empty uses a folder beside the .blend file, or the "
        "extension's own while the file is not saved",
        subtype="DIR_PATH",
        options={"SKIP_SAVE", *properties.PATH_OPTIONS},
    )
    engine: properties.engine_property(options={"SKIP_SAVE"})
    maps: properties.maps_property(options={"ENUM_FLAG", "SKIP_SAVE"})
    size: properties.size_property(options={"SKIP_SAVE"})
    exposure: properties.exposure_property(options={"SKIP_SAVE"})
    camera_height: properties.camera_height_property(options={"SKIP_SAVE"})
    build: properties.build_property(options={"SKIP_SAVE"})

    def begin(self, context: bpy.types.Context, *, interactive: bool) -> job.Job:
        """What scripts leave out has its default; in the window it is what the panel says."""
        from .build import place

        if interactive:
            choices = context.scene.omnix
            for name in _CHOICES:
                if not self.properties.is_property_set(name):
                    setattr(self, name, getattr(choices, name))
        if self.build:
            place.refuse_linked(context.scene)
        if self.filepath:
            panorama = source.from_file(self.filepath)
        elif interactive:
            panorama = source.from_choices(context.scene)
        else:
            panorama = source.from_world(context.scene.world)
        settings = self._settings(context)
        panorama = destination.named_apart(panorama, settings, in_default_folder=not self.directory)
        if self.directory:
            folder, notes = paths.chosen(self.directory), []
        else:
            folder, notes = destination.default_folder(panorama.name)
        panorama = destination.as_there(panorama, folder)
        destination.refuse_to_lose_maps(folder, panorama.name, self.maps, build=self.build)
        for standing in place.made_from(folder):
            place.return_unpacked(standing)
        started = job.Job(
            source=panorama,
            folder=folder,
            camera_height=self.camera_height,
            build=self.build,
            scene=context.scene.session_uid,
            notes=[*panorama.notes, *notes],
        )
        job.start(context, started, settings)
        return started

    def _settings(self, context: bpy.types.Context) -> dict[str, Any]:
        """What the worker is told, as `blender_omnix.extract.Settings` wants it."""
        return {
            "engine": self.engine.lower(),
            "maps": [name for name in maps.REQUESTABLE if name in self.maps],
            "size": self.size,
            # Blender's floats are single precision; 1.6 is meant, not 1.600000023841858.
            "exposure": round(self.exposure, 6),
            "camera_height": round(self.camera_height, 6),
            "options": engine_options(context, self.engine),
        }


_CHOICES = ("directory", "engine", "maps", "size", "exposure", "camera_height", "build")


def engine_options(context: bpy.types.Context, engine: str) -> dict[str, Any]:
    """What the preferences say about an engine, as `blender_omnix.engines.create` wants it."""
    if engine != "FLUX":
        return {}
    chosen = preferences.get(context)
    folders = {"weights": chosen.flux_weights, "adapters": chosen.flux_adapters}
    options = {key: paths.absolute(folder) for key, folder in folders.items()}
    options |= {"device": chosen.flux_device, "fp8": chosen.flux_fp8, "height": chosen.flux_height}
    return options


def _wait(started: job.Job) -> None:
    """Poll until a job has ended, telling its stages on the terminal. Ctrl-C cancels it."""
    stage = ""
    try:
        while started.state == job.RUNNING:
            time.sleep(job.INTERVAL)
            job.advance()
            if started.stage != stage:
                stage = started.stage
                print(f"OmniX: {started.fraction:4.0%} {stage}", flush=True)
    except KeyboardInterrupt:
        job.cancel()
        while started.state == job.RUNNING:
            time.sleep(job.INTERVAL)
            job.advance()
        started.concluded = True
        raise


def _start_timer() -> None:
    if not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=job.INTERVAL, persistent=True)


def _tick() -> float | None:
    """One look at the worker while the window stays free; the interval to the next, or None."""
    job.advance()
    _redraw_panels()
    if job.running() is not None or is_rendering():
        return job.INTERVAL
    if job.current() is not None:
        window = bpy.context.window_manager.windows[0]
        with bpy.context.temp_override(window=window):
            bpy.ops.omnix.conclude("INVOKE_DEFAULT")
    return None


def is_rendering() -> bool:
    """Whether a render runs, which reads what a place would change."""
    return bpy.app.is_job_running("RENDER")


def _redraw_panels() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"VIEW_3D", "PROPERTIES"}:
                area.tag_redraw()


class OMNIX_OT_conclude(bpy.types.Operator):
    """Report the end of an extraction and apply its result"""

    bl_idname = "omnix.conclude"
    bl_label = "Conclude Extraction"
    bl_options = {"INTERNAL"}

    _timer = _ended = None

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return job.current() is not None and job.running() is None

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        # What an operator called from a timer reports goes to the terminal; one that ends in the
        # window's own event loop is heard in the status bar.
        manager = context.window_manager
        self._ended = job.current()
        self._timer = manager.event_timer_add(job.INTERVAL, window=context.window)
        manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        context.window_manager.event_timer_remove(self._timer)
        _redraw_panels()
        return conclude(self, context, self._ended)

    def cancel(self, context: bpy.types.Context) -> None:
        # Another file was opened, or the window closed: the next tick asks again.
        context.window_manager.event_timer_remove(self._timer)
        _start_timer()


def conclude(operator: bpy.types.Operator, context: bpy.types.Context, ended: job.Job) -> set[str]:
    """Apply what a job has made and report how it went, through the operator that asks. Once: of a
    job that runs, or was concluded, nothing is done."""
    if ended.state == job.RUNNING or ended.concluded:
        return {"CANCELLED"}
    ended.concluded = True
    scratch = contextlib.nullcontext() if ended.renewal is None else ended.renewal.scratch
    with scratch:
        level, message = _conclude(context, ended)
    operator.report({level}, message)
    return {"FINISHED"} if ended.state == job.DONE and not ended.message else {"CANCELLED"}


def _conclude(context: bpy.types.Context, ended: job.Job) -> tuple[str, str]:
    """Apply what a job has made; how serious it is and what to say."""
    if ended.state == job.FAILED:
        return "ERROR", ended.message
    if ended.state == job.CANCELLED:
        return "WARNING", "The extraction was cancelled; nothing was changed."
    folder = ended.folder if ended.renewal is None else ended.renewal.folder
    try:
        if ended.renewal is not None:
            renewal.check(ended.renewal, ended.folder)
            ended.notes += renewal.put(ended.renewal, ended.folder)
        scene = source.alive(bpy.data.scenes, ended.scene)
        if scene is None:
            ended.notes.append("The scene that they were for is gone.")
        else:
            with context.temp_override(scene=scene):
                _apply(ended)
    except (OmnixError, RuntimeError) as error:
        # What a nested operator reports as an error arrives as a RuntimeError.
        ended.message = str(error).removeprefix("Error: ").strip()
        return "ERROR", f"{ended.message} The maps are in {folder}."
    if ended.notes:
        return "WARNING", f"Maps are in {folder}. " + " ".join(ended.notes)
    return "INFO", f"Maps are in {folder}"


def _apply(ended: job.Job) -> None:
    """The result of a job as one undo step."""
    if ended.renewal is None:
        if ended.build:
            # What the nested operator reports goes to the terminal alone.
            ended.notes += _notes(
                ended.source.name,
                ended.folder,
                source.alive(bpy.data.worlds, ended.source.world),
                source.alive(bpy.data.images, ended.source.image),
            )
        else:
            ended.notes += destination.older_geometry(ended.folder)
        bpy.ops.omnix.load_maps(
            "EXEC_DEFAULT",
            True,
            directory=str(ended.folder),
            name=ended.source.name,
            image_uid=ended.source.image or 0,
            world_uid=ended.source.world or 0,
            camera_height=ended.camera_height,
            build=ended.build,
        )
    else:
        file = ended.renewal.folder / maps.MAPS[ended.renewal.map].filename
        bpy.ops.omnix.replace_map(
            "EXEC_DEFAULT",
            True,
            name=ended.renewal.place,
            map=ended.renewal.map,
            filepath=str(file),
        )


class OMNIX_OT_load_maps(bpy.types.Operator):
    """Take a folder of extracted maps and build its place, replacing the earlier one"""

    bl_idname = "omnix.load_maps"
    bl_label = "Load Maps"
    bl_options = {"REGISTER", "UNDO"}

    directory: bpy.props.StringProperty(
        name="Maps",
        description="Folder of a map set",
        subtype="DIR_PATH",
        options=properties.PATH_OPTIONS,
    )
    name: bpy.props.StringProperty(
        name="Name",
        description="Name of the place. Empty takes that of the place made from the folder, or the "
        "folder's own",
        options={"SKIP_SAVE"},
    )
    image: bpy.props.StringProperty(
        name="Panorama",
        description="Image that holds the panorama. Empty takes the one that the maps came from",
        options={"SKIP_SAVE"},
    )
    world: bpy.props.StringProperty(
        name="World",
        description="World that shows the panorama; a new place turns and brightens with it",
        options={"SKIP_SAVE"},
    )
    # Of a linked datablock and one of the file the names may be the same.
    image_uid: bpy.props.IntProperty(
        name="Panorama's Identity",
        description="The session_uid of the image, instead of its name",
        options={"HIDDEN", "SKIP_SAVE"},
    )
    world_uid: bpy.props.IntProperty(
        name="World's Identity",
        description="The session_uid of the world, instead of its name",
        options={"HIDDEN", "SKIP_SAVE"},
    )
    camera_height: properties.camera_height_property(options={"SKIP_SAVE"})
    build: properties.build_property(options={"SKIP_SAVE"})

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            folder = paths.chosen(self.directory)
            report = maps.read_report(folder)
            if not self.properties.is_property_set("camera_height"):
                # What the depth was measured by.
                recorded = report.get("settings", {}).get("camera_height")
                self.camera_height = recorded or self.camera_height
            if self.build:
                self._build(context, folder)
            else:
                self._refresh(folder)
        except OmnixError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        context.scene.omnix.folder = paths.stored(folder)
        return {"FINISHED"}

    def _refresh(self, folder: Path) -> None:
        """Let places that stand on the maps show them as they are now."""
        from .build import place

        for collection in place.made_from(folder):
            place.return_unpacked(collection)
            place.reload_maps(collection)
        for note in destination.older_geometry(folder):
            self.report({"WARNING"}, note)

    def _build(self, context: bpy.types.Context, folder: Path) -> None:
        # Imports numpy, for which enabling the add-on should not wait.
        from .build import place

        name = self.name or destination.name_for(folder)
        image = _meant(bpy.data.images, self.image_uid, self.image)
        world = _meant(bpy.data.worlds, self.world_uid, self.world)
        new = place.find(name, folder) is None
        notes = _notes(name, folder, world, image)
        collection = place.build_place(
            context,
            folder,
            name=name,
            camera_height=self.camera_height,
            source=image,
        )
        # A place that stands follows as it did, or stands as the user has turned it.
        if world is not None and new and _unfollowed(world, image) is None:
            place.follow_world(collection, world_nodes.showing(world))
        for note in notes:
            self.report({"WARNING"}, note)


def _notes(
    name: str, folder: Path, world: bpy.types.World | None, image: bpy.types.Image | None
) -> list[str]:
    """What to tell of a place that is about to be built or renewed: what it keeps and loses, and
    why a new one does not follow the world that it is of."""
    from .build import place

    why = None if world is None else _unfollowed(world, image)
    if why is None or place.find(name, folder) is not None:
        return destination.kept_and_lost(name, folder)
    return [why]


def _unfollowed(world: bpy.types.World, image: bpy.types.Image | None) -> str | None:
    """Why a place cannot follow a world, which may have changed while the maps were made: that
    shows no panorama, or another than the place's, `image`, where that is known."""
    try:
        shown = world_nodes.showing(world).image
    except OmnixError as error:
        return f"The place does not follow the world. {error}"
    if image in (None, shown):
        return None
    return f"The place does not follow the world {world.name}, which shows {shown.name} by now."


def _meant(datablocks: Any, uid: int, name: str) -> Any:
    """The datablock of a `session_uid`, or without one that of a name, if there is any."""
    return source.alive(datablocks, uid) if uid else datablocks.get(name)


class OMNIX_OT_cancel(bpy.types.Operator):
    """Stop the running extraction; earlier maps stay as they are"""

    bl_idname = "omnix.cancel"
    bl_label = "Cancel Extraction"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        running = job.running()
        return running is not None and not running.cancelling

    def execute(self, _context: bpy.types.Context) -> set[str]:
        job.cancel()
        return {"FINISHED"}


class OMNIX_OT_unload_model(bpy.types.Operator):
    """Give the memory of the worker's model back; the next extraction loads it again"""

    bl_idname = "omnix.unload_model"
    bl_label = "Unload Model"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return job.worker_lives()

    def execute(self, _context: bpy.types.Context) -> set[str]:
        job.unload()
        return {"FINISHED"}


class OMNIX_OT_open_log(bpy.types.Operator):
    """Open what the worker and its libraries printed"""

    bl_idname = "omnix.open_log"
    bl_label = "Open Worker Log"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return job.log_path() is not None

    def execute(self, _context: bpy.types.Context) -> set[str]:
        return _open(self, str(job.log_path()))


class OMNIX_OT_open_folder(bpy.types.Operator):
    """Open the folder of the maps in the file browser of the system"""

    bl_idname = "omnix.open_folder"
    bl_label = "Open Maps Folder"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return current_folder(context) is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        return _open(self, str(current_folder(context)))


def _open(operator: bpy.types.Operator, path: str) -> set[str]:
    """Show a file or folder with the system's own program for it."""
    try:
        return bpy.ops.wm.path_open(filepath=path)
    except RuntimeError:
        operator.report({"ERROR"}, f"{path} cannot be opened; see whether it is still there.")
        return {"CANCELLED"}


class OMNIX_OT_move_maps(bpy.types.Operator):
    """Copy the maps to a folder beside the saved .blend file, which uses them from there"""

    bl_idname = "omnix.move_maps"
    bl_label = "Move Maps Next to .blend"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        folder = current_folder(context)
        if not bpy.data.filepath:
            cls.poll_message_set("Save the file first")
            return False
        return folder is not None and not paths.same(folder.parent, destination.beside_blend())

    def execute(self, context: bpy.types.Context) -> set[str]:
        here = current_folder(context)
        there = destination.beside_blend() / here.name
        try:
            moving.move(here, there)
        except OmnixError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        context.scene.omnix.folder = paths.stored(there)
        self.report({"INFO"}, f"Maps are in {there}; this file needs those in {here} no more")
        return {"FINISHED"}


CLASSES = (
    OMNIX_OT_extract_pbr,
    OMNIX_OT_conclude,
    OMNIX_OT_load_maps,
    OMNIX_OT_cancel,
    OMNIX_OT_unload_model,
    OMNIX_OT_open_log,
    OMNIX_OT_open_folder,
    OMNIX_OT_move_maps,
)


def stop_timer() -> None:
    """Stop looking at a worker that is about to be closed."""
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)

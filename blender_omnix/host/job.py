# SPDX-License-Identifier: GPL-3.0-or-later
"""The extraction that runs, and the worker that runs it.

One job at a time, driven by `advance`, which never waits: a script calls it in a loop, the window
on a timer. Across calls datablocks are kept by their `session_uid`: an undo replaces them, the user
renames them, and another file has none of them.
"""

from __future__ import annotations

import sys
import sysconfig
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy

from ..errors import OmnixError
from ..worker.client import WorkerClient
from ..worker.protocol import HEARTBEAT
from . import paths, preferences
from .renewal import Renewal
from .source import Source

WORKER = "blender_omnix.worker.server"
PACKAGE_ROOT = Path(__file__).parents[2]
INTERVAL = 0.1  # seconds between two looks at the worker's events
PATIENCE = 10 * HEARTBEAT

RUNNING, DONE, FAILED, CANCELLED = "RUNNING", "DONE", "FAILED", "CANCELLED"


@dataclass
class Job:
    """One extraction: what was asked, and how far it has come.

    `folder` is where the worker puts the maps. `scene` is the `session_uid` of the scene that wants
    the place. `renewal` says that one of the maps is for a place that stands. `message` is the
    sentence of a failure. `concluded`: what it made was applied, or what became of it was told.
    """

    source: Source
    folder: Path
    camera_height: float
    build: bool
    scene: int
    notes: list[str]
    renewal: Renewal | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = RUNNING
    stage: str = "Starting"
    fraction: float = 0.0
    seconds_left: float | None = None
    message: str = ""
    cancelling: bool = False
    concluded: bool = False


_client: WorkerClient | None = None
_client_options: dict[str, Any] = {}
_job: Job | None = None


def running() -> Job | None:
    """The job that runs now."""
    return _job if _job is not None and _job.state == RUNNING else None


def current() -> Job | None:
    """The job that runs now, or has ended and waits for being concluded."""
    return _job if _job is not None and not _job.concluded else None


def last() -> Job | None:
    """The job that runs, or ran last since Blender started."""
    return _job


def start(context: bpy.types.Context, job: Job, settings: Mapping[str, Any]) -> None:
    """Hand a job to the worker, starting that where needed. Returns at once.

    `settings` are those of `blender_omnix.extract.Settings`. Raises OmnixError when there is a
    `current` job or the worker cannot be started.
    """
    global _job
    if current() is not None:
        raise OmnixError("An extraction is running; wait for its end or cancel it.")
    renews = None if job.renewal is None else (job.renewal.map, str(job.renewal.folder))
    _worker(context).extract(job.id, str(job.source.file), str(job.folder), settings, renews)
    _job = job


def advance() -> None:
    """Bring the running job up to date with what the worker said. Never waits."""
    if _client is None:
        return
    for event in _client.poll():
        if _job is not None and event.get("job") == _job.id:
            _apply(_job, event)


def _apply(job: Job, event: Mapping[str, Any]) -> None:
    kind = event["type"]
    if kind == "progress":
        job.stage = event["stage"]
        job.fraction = event["fraction"]
        job.seconds_left = event["seconds_left"]
    elif kind == "done":
        job.notes += event["warnings"]
        _end(job, DONE)
    elif kind == "failed":
        job.message = event["message"]
        _end(job, FAILED)
    elif kind == "cancelled":
        _end(job, CANCELLED)


def _end(job: Job, state: str) -> None:
    job.state = state
    if job.source.scratch is not None:
        job.source.scratch.cleanup()


def cancel() -> None:
    """Ask the running job to stop; `advance` sees it end within two seconds."""
    job = running()
    if job is not None and _client is not None:
        job.cancelling = True
        _client.cancel(job.id)


def worker_lives() -> bool:
    """True while a worker runs, which may hold a model in memory."""
    return _client is not None and _client.running


def silence() -> float | None:
    """Seconds since a worker was last heard of that should be heard every `HEARTBEAT` seconds; None
    while it is, give or take what a busy machine delays."""
    if _client is None or running() is None or _client.silence < PATIENCE:
        return None
    return _client.silence


def unload() -> None:
    """Ask the worker to give the model's memory back."""
    if _client is not None:
        _client.unload()


def log_path() -> Path | None:
    """The worker's log; None before its first start."""
    return None if _client is None else _client.log_path


def close() -> None:
    """End the worker and whatever it was doing."""
    global _client, _job
    if _client is not None:
        _client.close()
    if running() is not None:
        _end(_job, CANCELLED)
    _client = _job = None


def _worker(context: bpy.types.Context) -> WorkerClient:
    """The worker, as the preferences want it now."""
    global _client, _client_options
    chosen = preferences.get(context)
    external = paths.absolute(chosen.python)
    options = {
        "python": external or sys.executable,
        "module": WORKER,
        # The packages of another Python are its own affair; mixing them would load the wrong ones.
        "extra_paths": () if external else (_extension_packages(),),
        "online": bpy.app.online_access,
        "idle_seconds": chosen.idle_seconds,
    }
    if _client is not None and _client_options != options:
        _client.close()
        _client = None
    if _client is None:
        # Not created by Blender, which says of a failure nothing that the user would see.
        state = bpy.utils.extension_path_user(preferences.ADDON, path="worker")
        _client = WorkerClient(package_root=PACKAGE_ROOT, state_dir=Path(state), **options)
        _client_options = options
    return _client


def _extension_packages() -> Path:
    """Where Blender unpacks the wheels of extensions."""
    python = f"python{sysconfig.get_python_version()}"
    local = Path(bpy.utils.user_resource("EXTENSIONS")) / ".local"
    return local / "lib" / python / "site-packages"

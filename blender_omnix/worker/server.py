# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker process: `python -m blender_omnix.worker.server RUN_DIR IDLE_SECONDS`.

The main thread runs jobs; a reader thread takes commands, so that a cancel or the end of the
host is noticed during a forward pass; a third thread says that the process is alive. Nothing
listens on a port, and the end of stdin ends the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import sys
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, engines, extract, maps
from ..errors import Cancelled, OmnixError, sentence
from .blender_numpy import provide_metadata
from .estimate import TimeLeft
from .protocol import EVENTS, HEARTBEAT, LOG, PASSING, PROTOCOL, LineBuffer, Message, decode, encode

if TYPE_CHECKING:
    from ..engines.base import Engine

# How long a job may take to notice that the host is gone.
FAREWELL = 1.0
PROGRESS_INTERVAL = 0.1


class Events:
    """The event log, written by all threads, one whole line at a time.

    A full disk may cut a line. So each begins on a line of its own, which keeps what was cut from
    swallowing the next message, and one that only tells how a job goes on may be lost.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the process
        self._lock = threading.Lock()

    def send(self, **message: Any) -> None:
        """Raises OSError when the disk is full, but for a message that may be lost."""
        line = b"\n" + encode(message)
        try:
            with self._lock:
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if message["type"] not in PASSING:
                raise


class Worker:
    """The queue of commands, the job being run, and the warm engine."""

    def __init__(self, run_dir: Path, idle_seconds: float) -> None:
        self._events = Events(run_dir / EVENTS)
        self._log = run_dir / LOG
        self._idle_seconds = idle_seconds
        self._changed = threading.Condition()
        # Guarded by _changed. The reader thread fills the queue and closes it; the main thread
        # empties it and says which job it runs, where the heartbeat looks whether there is one.
        self._queue: deque[Message] = deque()
        self._closing = False
        self._current: Message | None = None
        self._stop = threading.Event()  # the current job shall end
        self._ended = threading.Event()  # the main thread is through
        self._engine: Engine | None = None
        self._engine_key: tuple[str, str] | None = None
        self._time_left = TimeLeft()

    # The main thread.

    def serve(self) -> None:
        """Run commands until stdin ends."""
        self._events.send(type="hello", protocol=PROTOCOL, version=__version__, pid=os.getpid())
        # Windows lets nobody look at a pipe while another waits to read from it, and libraries look
        # at stdin when they are loaded: the reader has the pipe to itself.
        self._commands, empty = os.dup(0), os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        reader = threading.Thread(target=self._read_commands, name="reader", daemon=True)
        reader.start()
        threading.Thread(target=self._say_alive, name="heartbeat", daemon=True).start()
        while (command := self._next_command()) is not None:
            if command["type"] == "unload":
                self._drop_engine()
                self._events.send(type="unloaded")
            else:
                self._run(command)
        self._ended.set()
        reader.join()

    def _next_command(self) -> Message | None:
        """The next command; an unload after the idle time, None at the end. What ran is over."""
        with self._changed:
            self._current = None
            idle_seconds = None if self._engine is None else self._idle_seconds
            self._changed.wait_for(lambda: self._queue or self._closing, idle_seconds)
            if self._closing:
                return None
            if not self._queue:
                return {"type": "unload"}
            command = self._queue.popleft()
            if command["type"] == "extract":
                self._current = command
                self._stop.clear()
            return command

    def _run(self, command: Message) -> None:
        job = command["job"]
        started = time.monotonic()
        try:
            settings = _settings(command["settings"])
            progress = self._progress_of(job, settings)
            progress("Loading Engine", 0.0)
            engine = self._warm_engine(settings)
            report = extract.extract(
                Path(command["file"]),
                Path(command["out"]),
                settings,
                engine=engine,
                renews=_renews(command),
                standing=command.get("standing"),
                progress=progress,
                cancelled=self._stop.is_set,
            )
        except Cancelled:
            self._events.send(type="cancelled", job=job)
        except Exception as error:  # noqa: BLE001 - the boundary of the process: a defect in one
            # job is told to the user and logged, and does not end the others.
            if not isinstance(error, OmnixError):
                traceback.print_exc()
                sys.stderr.flush()
                self._drop_engine()
            message = sentence(error) or (
                f"An unexpected error stopped the extraction ({_describe(error)}). "
                f"The log is {self._log}."
            )
            self._events.send(type="failed", job=job, message=message)
        else:
            self._time_left.finish()
            self._events.send(
                type="done",
                job=job,
                folder=command["out"],
                warnings=report["warnings"],
                seconds=time.monotonic() - started,
            )

    def _progress_of(self, job: str, settings: extract.Settings) -> Any:
        """The progress callback of one job; it also stops the job, at every report."""
        self._time_left.start((settings.engine, tuple(settings.maps)))
        sent_stage, sent_at = "", 0.0

        def progress(stage: str, fraction: float) -> None:
            nonlocal sent_stage, sent_at
            if self._stop.is_set():
                raise Cancelled
            seconds_left = self._time_left.update(fraction)
            now = time.monotonic()
            if stage == sent_stage and now - sent_at < PROGRESS_INTERVAL:
                return
            sent_stage, sent_at = stage, now
            self._events.send(
                type="progress",
                job=job,
                stage=stage,
                fraction=round(fraction, 4),
                seconds_left=None if seconds_left is None else round(seconds_left, 1),
            )

        return progress

    def _warm_engine(self, settings: extract.Settings) -> Engine:
        """The engine of the last job when it is the same one, else a new one."""
        key = (settings.engine, repr(sorted(settings.options.items())))
        if self._engine is None or key != self._engine_key:
            self._drop_engine()
            self._engine = engines.create(settings.engine, settings.options)
            self._engine_key = key
        return self._engine

    def _drop_engine(self) -> None:
        if self._engine is not None:
            self._engine.unload()
            self._engine = None
            gc.collect()

    # The reader thread.

    def _read_commands(self) -> None:
        lines = LineBuffer()
        try:
            # Not sys.stdin: its lock, held in a blocked read, would break the interpreter's
            # shutdown.
            while data := os.read(self._commands, 1 << 16):
                for line in lines.feed(data):
                    self._obey(line)
        finally:
            # Whatever ends the reader ends the process, which would be deaf.
            self._leave()

    def _obey(self, line: bytes) -> None:
        # On a full disk nothing can be said; what comes next is done all the same.
        with contextlib.suppress(OSError):
            try:
                self._take(decode(line))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                message = f"The worker was sent something it cannot read ({_describe(error)})."
                self._events.send(type="failed", job=None, message=message)

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "extract":
            self._enqueue(_checked_extract(message))
        elif kind == "unload":
            self._enqueue(message)
        elif kind == "cancel":
            self._cancel(message["job"])
        else:
            raise ValueError(f"unknown message {kind!r}")

    def _enqueue(self, message: Message) -> None:
        with self._changed:
            self._queue.append(message)
            self._changed.notify()

    def _cancel(self, job: str) -> None:
        with self._changed:
            if self._current is not None and self._current["job"] == job:
                self._stop.set()
                return
            waiting = [message for message in self._queue if message.get("job") == job]
            for message in waiting:
                self._queue.remove(message)
        for _ in waiting:
            self._events.send(type="cancelled", job=job)

    def _leave(self) -> None:
        """End the process: through the main thread if it comes in time, else from here."""
        with self._changed:
            self._closing = True
            self._stop.set()
            current = self._current
            self._changed.notify()
        if not self._ended.wait(FAREWELL):
            # A forward pass cannot be interrupted. The host is gone, nobody waits for the maps.
            if current is not None:
                maps.remove_leftovers(Path(current["out"]))
            os._exit(1)

    # The heartbeat thread.

    def _say_alive(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with self._changed:
                busy = self._current is not None
            if busy:
                self._events.send(type="alive")


def _checked_extract(message: Message) -> Message:
    """The message, or ValueError for one that could not be run or answered."""
    for field, kind in (("job", str), ("file", str), ("out", str), ("settings", dict)):
        if not isinstance(message.get(field), kind):
            raise ValueError(f"extract needs {field!r}")
    _renews(message)
    return message


def _renews(message: Message) -> extract.Renews | None:
    """The map set that a job's map is for. Raises what a malformed one leads to."""
    renews = message.get("renews")
    return None if renews is None else extract.Renews(renews["map"], Path(renews["folder"]))


def _settings(fields: dict[str, Any]) -> extract.Settings:
    """Settings from JSON. Raises OmnixError for values that cannot be used."""
    known = {field.name for field in dataclasses.fields(extract.Settings)}
    if unknown := sorted(set(fields) - known):
        raise OmnixError(f"The worker knows no setting called {', '.join(unknown)}.")
    if "maps" in fields:
        fields = fields | {"maps": tuple(fields["maps"])}
    return extract.Settings(**fields)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def main(arguments: list[str]) -> None:
    """Serve from the run folder `arguments[0]`; unload after `arguments[1]` idle seconds."""
    version = tuple(sys.version_info[:2])
    if version < (3, 11):
        sys.exit("It needs Python 3.11 or newer, this is {}.{}".format(*version))
    run_dir, idle_seconds = arguments
    provide_metadata()
    Worker(Path(run_dir), float(idle_seconds)).serve()


if __name__ == "__main__":
    main(sys.argv[1:])

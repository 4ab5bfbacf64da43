# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's side of the worker: starts the process, sends commands, tails its event log.

Runs inside Blender, so it has no thread, never waits (except a moment in `close` and `kill`) and
imports neither bpy nor torch. The host calls `poll` on a timer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import maps
from ..errors import OmnixError
from .protocol import ENDINGS, EVENTS, LOG, PROTOCOL, LineBuffer, Message, decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A job that ignores a cancel for this long is ended with its process, so that the whole takes
# less than two seconds.
CANCEL_GRACE = 1.5
CLOSE_GRACE = 2.0
# Logs stay for the user to read; those of earlier runs go after this many seconds.
KEEP_LOGS = 7 * 24 * 3600.0
_READ_SIZE = 1 << 16


class WorkerClient:
    """One worker process and the jobs it was given.

    `python` is the interpreter to run, `package_root` the folder that holds the package,
    `module` the worker's entry (`blender_omnix.worker.server`), `extra_paths` further folders to
    import from. The event log and the log of the process live in a run folder of their own under
    `state_dir`. `online` lets libraries in the worker use the network.

    A process that has died is started again by the next `extract`.
    """

    def __init__(
        self,
        python: str,
        package_root: Path,
        module: str,
        state_dir: Path,
        *,
        extra_paths: Sequence[Path] = (),
        online: bool = False,
        idle_seconds: float = 600.0,
    ) -> None:
        self.python = python
        self.state_dir = Path(state_dir)
        self.hello: Message | None = None
        self._module = module
        self._paths = [str(package_root), *map(str, extra_paths)]
        self._online = online
        self._idle_seconds = idle_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._run_dir: Path | None = None
        self._events: BinaryIO | None = None
        self._lines = LineBuffer()
        self._jobs: dict[str, Path] = {}  # unfinished jobs, oldest first, and where they write
        self._deadlines: dict[str, float] = {}  # when a cancelled job is ended by force
        self._backlog: list[Message] = []
        self._heard = 0.0

    @property
    def running(self) -> bool:
        """True while the process lives, however slow it is."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path | None:
        """What the process and its libraries printed; None before the first start."""
        return None if self._run_dir is None else self._run_dir / LOG

    @property
    def silence(self) -> float:
        """Seconds since the live process was last heard of. While a job runs it sends a sign of
        life every `protocol.HEARTBEAT` seconds; much more means that the machine is overloaded
        or the process stopped."""
        return time.monotonic() - self._heard if self.running else 0.0

    def start(self) -> None:
        """Start the process unless it runs. Returns at once; `hello` follows as an event.

        Raises OmnixError when the interpreter or the state folder cannot be used.
        """
        if self.running:
            return
        if self._process is not None:
            # It died unnoticed; what that meant for its jobs is kept for the next poll.
            self._backlog = self.poll()
        self._release()
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True)
            _remove_old_runs(self.state_dir)
            self._run_dir = Path(tempfile.mkdtemp(prefix="run-", dir=self.state_dir))
            (self._run_dir / EVENTS).touch()
            self._events = open(self._run_dir / EVENTS, "rb")  # noqa: SIM115 - tailed until close
        except OSError as error:
            raise OmnixError(
                f"The worker cannot write to {self.state_dir} ({error.strerror}); "
                "make that folder writable."
            ) from None
        self._lines = LineBuffer()
        self.hello = None
        self._heard = time.monotonic()
        command = [self.python, "-m", self._module, str(self._run_dir), str(self._idle_seconds)]
        try:
            with open(self._run_dir / LOG, "ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=_environment(os.environ, self._paths, self._online),
                    cwd=self._run_dir,
                    bufsize=0,
                    **_detached(),
                )
        except OSError as error:
            raise OmnixError(
                f"The worker's Python, {self.python}, cannot be started ({error.strerror}); "
                "choose another in the add-on's preferences."
            ) from None

    def extract(
        self,
        job: str,
        file: str,
        out: str,
        settings: Mapping[str, Any],
        renews: tuple[str, str] | None = None,
    ) -> None:
        """Queue one extraction, starting the process first where needed.

        `renews` is a map and the folder of the map set that it is for, which holds others. Raises
        OmnixError when the process cannot be started.
        """
        self.start()
        file, out = os.path.abspath(file), os.path.abspath(out)
        self._jobs[job] = Path(out)
        message: Message = {"type": "extract", "job": job, "file": file, "out": out}
        message |= {"settings": dict(settings), "renews": None, "standing": maps.times(out)}
        if renews is not None:
            name, folder = renews
            message["renews"] = {"map": name, "folder": os.path.abspath(folder)}
        self._send(message)

    def cancel(self, job: str) -> None:
        """Ask a job to stop. `poll` ends the process if the job has not stopped in time."""
        if job in self._jobs and job not in self._deadlines:
            self._deadlines[job] = time.monotonic() + CANCEL_GRACE
            self._send({"type": "cancel", "job": job})

    def unload(self) -> None:
        """Ask the worker to give the model's memory back once its jobs are done."""
        if self.running:
            self._send({"type": "unload"})

    def poll(self) -> list[Message]:
        """What happened since the last call. Never blocks.

        Where the process died, does not fit or had to be ended, the missing endings of its jobs
        are added here.
        """
        died = self._process is not None and not self.running
        events = self._backlog + self._read_events()
        self._backlog = []
        overdue = [job for job, when in self._deadlines.items() if time.monotonic() > when]
        if overdue:
            events += self._give_up(
                "The worker had to be stopped to cancel another job; start this one again.",
                cancelled=overdue,
            )
        elif self.hello is not None and self.hello.get("protocol") != PROTOCOL:
            events += self._give_up(
                f"The worker speaks protocol {self.hello.get('protocol')} and this add-on "
                f"{PROTOCOL}; restart Blender, and if that does not help install the extension "
                "again."
            )
        elif died and self._jobs:
            assert self._process is not None
            reason = _exit_sentence(self._process.returncode, self.log_path, self.python)
            events += self._give_up(f"{reason} The log is {self.log_path}.")
        return events

    def close(self) -> None:
        """End the process, politely at first. Unfinished jobs are dropped without an event."""
        if self._process is not None and self._process.stdin is not None:
            # The pipe breaks when the process went first, which is what is wanted.
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_GRACE)
        self.kill()
        self._release()

    def kill(self) -> None:
        """End the process at once and remove what its jobs left half done."""
        self._end_process()
        self._forget_jobs()

    def _send(self, message: Message) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        # A broken pipe means that the process is gone, which `poll` reports with the reason.
        with contextlib.suppress(OSError):
            self._process.stdin.write(encode(message))

    def _read_events(self) -> list[Message]:
        if self._events is None:
            return []
        events: list[Message] = []
        while data := self._events.read(_READ_SIZE):
            for line in self._lines.feed(data):
                # A disk that filled up leaves cut lines.
                with contextlib.suppress(ValueError):
                    events.append(decode(line))
        if events:
            self._heard = time.monotonic()
        for event in events:
            if event["type"] == "hello":
                self.hello = event
            elif event["type"] in ENDINGS:
                self._jobs.pop(event["job"], None)
                self._deadlines.pop(event["job"], None)
        return events

    def _give_up(self, message: str, cancelled: Sequence[str] = ()) -> list[Message]:
        """End the process; the last events it wrote, then an ending for each job it still had."""
        self._end_process()
        events = self._read_events()
        for job in self._jobs:
            if job in cancelled:
                events.append({"type": "cancelled", "job": job})
            else:
                events.append({"type": "failed", "job": job, "message": message})
        self._forget_jobs()
        return events

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _forget_jobs(self) -> None:
        for out in self._jobs.values():
            maps.remove_leftovers(out)
        self._jobs.clear()
        self._deadlines.clear()

    def _release(self) -> None:
        """Close the files of a process that has ended."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process = None
        if self._events is not None:
            self._events.close()
            self._events = None


def _environment(inherited: Mapping[str, str], paths: list[str], online: bool) -> dict[str, str]:
    """The worker's environment: its own packages, UTF-8, and offline unless told otherwise."""
    env = {key: value for key, value in inherited.items() if key != "PYTHONHOME"}
    env |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
        # `python -m` would otherwise import from the working folder first.
        "PYTHONSAFEPATH": "1",
        # Threads that wait leave the cores to Blender instead of spinning on them.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if not online:
        env |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    return env


def _detached() -> dict[str, Any]:
    """Popen options: no console window, and Ctrl-C in Blender's terminal is not the worker's."""
    if os.name == "nt":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP  # type: ignore[attr-defined, unused-ignore]
        return {"creationflags": flags}
    return {"start_new_session": True}


def _exit_sentence(code: int | None, log: Path | None, python: str) -> str:
    """Why a process of `python` that should still be running is not."""
    # Windows: STATUS_ACCESS_VIOLATION, STATUS_NO_MEMORY and STATUS_DLL_NOT_FOUND.
    windows = {
        0xC0000005: "The worker crashed (access violation).",
        0xC0000017: "The worker ran out of memory; try a smaller size.",
        0xC0000135: "The worker could not start because a library (DLL) is missing.",
    }
    if code is not None and code & 0xFFFFFFFF in windows:
        return windows[code & 0xFFFFFFFF]
    if code is not None and code < 0:
        if -code == getattr(signal, "SIGKILL", None):
            return "The worker was killed, perhaps because memory ran out; try a smaller size."
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"The worker crashed ({name})."
    if code == 0:
        return "The worker ended before its work was done."
    last = _last_line(log)
    if last.startswith(("ModuleNotFoundError:", "ImportError:")):  # before it could say so itself
        return (
            f"The worker's Python, {python}, lacks a package ({last}); choose one that has those "
            "of the extension, as External Python in the preferences, or leave that empty."
        )
    return f"The worker stopped with an error (exit code {code}{': ' + last if last else ''})."


def _last_line(log: Path | None) -> str:
    """The last line of the log, where Python puts an error, or ''."""
    if log is None or not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
        lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _remove_old_runs(state_dir: Path) -> None:
    """Remove the run folders that nothing has written to for KEEP_LOGS seconds."""
    for run in state_dir.glob("run-*"):
        log = run / EVENTS
        # A folder that another Blender removes at the same moment is no loss.
        with contextlib.suppress(OSError):
            if time.time() - log.stat().st_mtime > KEEP_LOGS:
                shutil.rmtree(run)

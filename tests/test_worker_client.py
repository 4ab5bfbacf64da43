# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of client and protocol that need no process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blender_omnix import maps
from blender_omnix.worker import client, protocol
from blender_omnix.worker.estimate import TimeLeft

ROOT = Path(__file__).parents[1]


def test_messages_survive_the_line():
    message = {"type": "done", "folder": "/größe 全景/\udcff", "seconds": 1.5, "job": None}
    line = protocol.encode(message)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert protocol.decode(line) == message


@pytest.mark.parametrize("line", [b"", b"x", b"[]", b"{}", b'{"type": 3}', b"\xff"])
def test_anything_else_is_refused(line):
    with pytest.raises(ValueError):  # noqa: PT011 - json's own messages differ
        protocol.decode(line)


def test_lines_arrive_in_pieces():
    lines = protocol.LineBuffer()
    assert lines.feed(b'{"a"') == []
    assert lines.feed(b":1}\n\n{") == [b'{"a":1}']
    assert lines.feed(b"}\n{}\n") == [b"{}", b"{}"]


def test_the_worker_sees_its_own_packages_and_stays_offline():
    inherited = {"PATH": "/bin", "PYTHONHOME": "/blender", "PYTHONPATH": "/users/own"}
    env = client._environment(inherited, ["/extension", "/extensions/.local"], online=False)
    assert env["PATH"] == "/bin"
    assert "PYTHONHOME" not in env
    assert env["PYTHONPATH"] == os.pathsep.join(["/extension", "/extensions/.local"])
    assert env["PYTHONNOUSERSITE"] == "1"
    assert env["HF_HUB_OFFLINE"] == env["DO_NOT_TRACK"] == "1"
    assert "HF_HUB_OFFLINE" not in client._environment(inherited, [], online=True)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended before its work was done"),
        (-9, "killed, perhaps because memory ran out"),
        (-11, "crashed (SIGSEGV)"),
        (-64 - 1, "crashed (signal 65)"),
        (0xC0000005, "access violation"),
        (0xC0000017 - (1 << 32), "ran out of memory"),
        (0xC0000135, "DLL"),
        (3, "exit code 3: SystemExit: no"),
    ],
)
def test_exit_codes_become_sentences(tmp_path, code, words):
    log = tmp_path / "worker.log"
    log.write_text("Traceback\n  ...\nSystemExit: no\n\n")
    assert words in client._exit_sentence(code, log, "python")


def test_a_python_without_the_packages_is_named(tmp_path):
    bare = client.WorkerClient("python", ROOT, "blender_omnix.worker.server", tmp_path)
    bare.python = str(tmp_path / "bare")
    Path(bare.python).write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    Path(bare.python).chmod(0o755)
    bare.extract("1", "room.png", "set", {})
    bare._process.wait()
    (event,) = bare.poll()
    assert f"The worker's Python, {bare.python}, lacks a package" in event["message"]
    assert "as External Python in the preferences" in event["message"]
    bare.close()


def test_an_older_python_is_told_which_one_is_needed(monkeypatch):
    from blender_omnix.worker import server

    monkeypatch.setattr(sys, "version_info", (3, 10, 14))
    with pytest.raises(SystemExit, match=r"needs Python 3.11 or newer, this is 3.10"):
        server.main(["run", "600"])


def test_old_runs_are_removed_and_recent_ones_stay(tmp_path):
    for name, age in (("run-old", client.KEEP_LOGS + 60), ("run-new", 60)):
        (tmp_path / name).mkdir()
        events = tmp_path / name / protocol.EVENTS
        events.touch()
        os.utime(events, (time.time() - age,) * 2)
    client._remove_old_runs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run-new"]


def test_the_client_loads_nothing_heavy():
    code = (
        "import sys; from blender_omnix.worker import client; "
        "print(*{'bpy', 'torch', 'numpy', 'OpenImageIO'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.split() == []


def test_nothing_in_blenders_process_starts_a_thread_or_a_server():
    package = ROOT / "blender_omnix"
    sources = [*(package / "host").rglob("*.py"), package / "worker" / "client.py"]
    wrong = r"^\s*(import|from)\s+(threading|multiprocessing|concurrent|socket|asyncio)\b"
    assert len(sources) > 1
    for source in sources:
        assert not re.search(wrong, source.read_text(encoding="utf-8"), re.MULTILINE), source


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(estimate: TimeLeft, clock: Clock, course: list[tuple[float, float]]) -> list[float | None]:
    estimate.start("kind")
    began, left = clock.now, []
    for seconds, fraction in course:
        clock.now = began + seconds
        left.append(estimate.update(fraction))
    return left


def test_the_first_job_is_extrapolated():
    clock = Clock()
    left = run(TimeLeft(clock), clock, [(0.1, 0.0), (0.2, 0.5), (1.0, 0.01), (2.0, 0.25)])
    assert left == [None, None, None, pytest.approx(6.0)]


def test_a_later_job_follows_the_course_of_the_last_at_its_own_pace():
    # The first half takes 9 of 10 seconds; a job twice as slow still knows that.
    clock = Clock()
    estimate = TimeLeft(clock)
    run(estimate, clock, [(9.0, 0.5), (10.0, 1.0)])
    estimate.finish()
    left = run(estimate, clock, [(0.0, 0.0), (9.0, 0.25), (18.0, 0.5), (19.0, 0.75)])
    assert left[0] == pytest.approx(10.0)
    assert left[1] == pytest.approx(11.0)
    assert left[2] == pytest.approx(2.0)
    assert left[3] == pytest.approx(1.0)


def leftover(folder: Path, what: str, file: str = "albedo.png") -> Path:
    made = folder.parent / f".{folder.name}.0123abcd.{what}"
    made.mkdir()
    (made / file).write_text(what)
    return made


def test_leftovers_of_a_killed_process_go_and_others_stay(tmp_path):
    folder = tmp_path / "set [1]"
    leftover(folder, "partial")
    other = leftover(tmp_path / "another", "partial")
    maps.remove_leftovers(folder)
    assert list(tmp_path.iterdir()) == [other]


def test_an_earlier_set_comes_back_when_the_new_one_never_arrived(tmp_path):
    leftover(tmp_path / "set", "earlier")
    maps.remove_leftovers(tmp_path / "set")
    assert (tmp_path / "set" / "albedo.png").read_text() == "earlier"


def test_the_users_files_move_on_when_the_new_one_did_arrive(tmp_path):
    (tmp_path / "set").mkdir()
    earlier = leftover(tmp_path / "set", "earlier", "notes.txt")
    maps.remove_leftovers(tmp_path / "set")
    assert (tmp_path / "set" / "notes.txt").is_file()
    assert not earlier.exists()


def test_what_a_full_disk_cut_does_not_swallow_the_ending(tmp_path, monkeypatch):
    from blender_omnix.worker import server

    events = server.Events(tmp_path / "events.jsonl")

    class Full:
        """A file that takes half of each line."""

        def __init__(self, file):
            self.file = file

        def write(self, line):
            return self.file.write(line[: len(line) // 2])

    file = events._file
    monkeypatch.setattr(events, "_file", Full(file))
    events.send(type="progress", job="1", stage="Saving", fraction=0.5, seconds_left=None)
    with pytest.raises(OSError, match="No space left"):
        events.send(type="done", job="1")
    monkeypatch.setattr(events, "_file", file)
    events.send(type="failed", job="1", message="The disk is full.")
    lines = protocol.LineBuffer().feed((tmp_path / "events.jsonl").read_bytes())
    assert protocol.decode(lines[-1])["type"] == "failed"

# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker as a real process: warm model, progress, cancel, every way to die, no orphan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from blender_omnix import __version__, images, maps
from blender_omnix.errors import OmnixError
from blender_omnix.worker import client as worker_client
from blender_omnix.worker import protocol
from blender_omnix.worker.client import WorkerClient
from tests.fakes import box_room

ROOT = Path(__file__).parents[1]
# Long enough for a busy machine; a test that passes does not wait for it.
PATIENCE = 60.0


def make_client(state_dir: Path, **options) -> WorkerClient:
    return WorkerClient(sys.executable, ROOT, "tests.fake_worker", state_dir, **options)


@pytest.fixture
def client(tmp_path):
    client = make_client(tmp_path / "state")
    yield client
    client.close()


@pytest.fixture(scope="module")
def panorama(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "room.png"
    images.write(path, box_room(32)["picture"], "uint8")
    return path


def settings(mode: str = "quick", names: tuple[str, ...] = ("albedo", "depth")) -> dict:
    return {"maps": list(names), "options": {"mode": mode}}


def follow(client: WorkerClient, *until: str, **fields: str) -> list[dict]:
    """Events up to the first of a type in `until` with these fields; later ones are dropped."""
    events: list[dict] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for event in client.poll():
            events.append(event)
            if event["type"] in until and fields.items() <= event.items():
                return events
        time.sleep(0.01)
    raise AssertionError(f"no {until} among {events}")


def finish(client: WorkerClient, job: str) -> dict:
    """The event that ends `job`."""
    return follow(client, *protocol.ENDINGS, job=job)[-1]


def gone(pid: int) -> bool:
    """True once the process has ended (a zombie, unreaped by whoever adopted it, counts)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_a_job_from_hello_to_done(client, panorama, tmp_path):
    client.extract("1", str(panorama), str(tmp_path / "set"), settings())
    events = follow(client, "done", "failed", "cancelled")
    hello, done = events[0], events[-1]
    assert hello["type"] == "hello"
    assert hello == client.hello
    assert hello["protocol"] == protocol.PROTOCOL
    assert hello["version"] == __version__
    report = maps.read_report(tmp_path / "set")
    assert done["type"] == "done"
    assert Path(done["folder"]) == tmp_path / "set"
    assert done["warnings"] == report["warnings"]
    assert report["adapters"][0]["process"] == hello["pid"] != os.getpid()
    assert set(maps.map_files(tmp_path / "set")) == {"albedo", "depth", "panorama"}
    progress = [event for event in events if event["type"] == "progress"]
    fractions = [event["fraction"] for event in progress]
    assert fractions == sorted(fractions)
    assert {"Reading", "Albedo", "Saving"} <= {event["stage"] for event in progress}


def test_the_second_job_finds_the_model_warm(client, panorama, tmp_path):
    for job in ("1", "2"):
        client.extract(job, str(panorama), str(tmp_path / job), settings())
        assert finish(client, job)["type"] == "done"
    first, second = (maps.read_report(tmp_path / job)["adapters"][0] for job in ("1", "2"))
    assert first == second
    assert second["loads"] == 1


def test_other_options_get_another_engine(client, panorama, tmp_path):
    client.extract("1", str(panorama), str(tmp_path / "1"), settings("refuse"))
    assert "model.safetensors is missing" in finish(client, "1")["message"]
    client.extract("2", str(panorama), str(tmp_path / "2"), settings("quick"))
    assert finish(client, "2")["type"] == "done"


def test_an_idle_model_is_unloaded_and_comes_back(panorama, tmp_path):
    client = make_client(tmp_path / "state", idle_seconds=0.1)
    try:
        client.extract("1", str(panorama), str(tmp_path / "1"), settings())
        follow(client, "unloaded")
        client.extract("2", str(panorama), str(tmp_path / "2"), settings())
        assert finish(client, "2")["type"] == "done"
        assert client.running
    finally:
        client.close()


def test_unload_on_request(client, panorama, tmp_path):
    client.extract("1", str(panorama), str(tmp_path / "1"), settings())
    client.unload()
    kinds = [event["type"] for event in follow(client, "unloaded")]
    assert kinds.index("done") < kinds.index("unloaded")


@pytest.mark.parametrize("mode", ["slow", "deaf"])
def test_cancel_leaves_nothing_half_done(client, panorama, tmp_path, mode):
    out = tmp_path / "maps" / "set"
    client.extract("1", str(panorama), str(out), settings("quick"))
    assert finish(client, "1")["type"] == "done"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    client.extract("2", str(panorama), str(out), settings(mode))
    follow(client, "progress", job="2", stage="Albedo")
    client.cancel("2")
    assert finish(client, "2")["type"] == "cancelled"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in out.parent.iterdir()] == ["set"]
    # A job that looks up keeps its process; one that does not is ended with it.
    assert client.running is (mode == "slow")
    client.extract("3", str(panorama), str(out), settings("quick"))
    assert finish(client, "3")["type"] == "done"


def test_a_deaf_job_is_cancelled_within_two_seconds(client, panorama, tmp_path, monkeypatch):
    client.extract("1", str(panorama), str(tmp_path / "1"), settings("deaf"))
    follow(client, "progress", job="1", stage="Albedo")
    now = 100.0
    monkeypatch.setattr(worker_client, "time", SimpleNamespace(monotonic=lambda: now))
    client.cancel("1")
    client.poll()
    assert client.running
    now += 1.9
    assert {"type": "cancelled", "job": "1"} in client.poll()
    assert not client.running


def test_cancelling_a_waiting_job_leaves_the_running_one(client, panorama, tmp_path):
    client.extract("1", str(panorama), str(tmp_path / "1"), settings("slow"))
    client.extract("2", str(panorama), str(tmp_path / "2"), settings())
    follow(client, "progress", job="1", stage="Albedo")
    client.cancel("2")
    assert finish(client, "2")["type"] == "cancelled"
    assert client.running
    client.cancel("1")
    assert finish(client, "1")["type"] == "cancelled"
    client.extract("3", str(panorama), str(tmp_path / "3"), settings())
    assert {event.get("job") for event in follow(client, "done")} <= {"3", None}
    assert not (tmp_path / "2").exists()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("killed", "killed, perhaps because memory ran out"),
        ("crash", "crashed (SIGSEGV)"),
        ("exit", "lacks a package (ModuleNotFoundError: No module named 'torch')"),
    ],
)
def test_a_dead_worker_says_why_and_where_its_log_is(client, panorama, tmp_path, mode, words):
    out = tmp_path / "maps" / "set"
    client.extract("1", str(panorama), str(out), settings(mode))
    client.extract("2", str(panorama), str(tmp_path / "2"), settings())
    message = finish(client, "1")["message"]
    assert words in message
    assert str(client.log_path) in message
    assert client.log_path.is_file()
    assert list(out.parent.iterdir()) == []
    assert not client.running
    client.extract("3", str(panorama), str(out), settings())
    assert finish(client, "3")["type"] == "done"


def test_killed_from_outside_while_idle(client, panorama, tmp_path):
    client.start()
    os.kill(follow(client, "hello")[-1]["pid"], signal.SIGKILL)
    client.extract("1", str(panorama), str(tmp_path / "1"), settings())
    # Depending on who is faster the job meets the dying process or starts a new one.
    ending = finish(client, "1")
    assert ending["type"] == "done" or "was killed" in ending["message"]


def test_a_death_between_two_jobs_is_not_lost(client, panorama, tmp_path):
    client.extract("1", str(panorama), str(tmp_path / "1"), settings("killed"))
    deadline = time.monotonic() + PATIENCE
    while client.running and time.monotonic() < deadline:
        time.sleep(0.01)
    client.extract("2", str(panorama), str(tmp_path / "2"), settings())
    events = follow(client, "done")
    assert [event["job"] for event in events if event["type"] == "failed"] == ["1"]
    assert events[-1]["job"] == "2"


def test_each_job_ends_once_however_often_the_worker_dies_unnoticed(tmp_path):
    client = WorkerClient(sys.executable, ROOT, "this", tmp_path)  # prints its poem and ends
    for job in "123":
        client.extract(job, "room.png", "set", {})
        client._process.wait()
    assert [event["job"] for event in client.poll()] == ["1", "2", "3"]
    client.close()


@pytest.mark.parametrize(
    ("mode", "words", "engines"),
    [
        ("refuse", "model.safetensors is missing; install the extension again.", 1),
        ("memory", "Memory ran out; try a smaller size", 2),
        ("tensors", "Memory ran out; try a smaller size", 2),
        ("runtime", "cannot load a library (DLL load failed); on Windows the Microsoft", 2),
        ("slim", "has no torch; use one that has it, in Blender as External Python", 2),
        ("path", "/disk/weights cannot be reached (Permission denied); check the path.", 2),
        ("defect", "An unexpected error stopped the extraction (TypeError: a defect). The log", 2),
    ],
)
def test_an_exception_ends_the_job_but_not_the_worker(
    client, panorama, tmp_path, mode, words, engines
):
    once = settings(mode)
    once["options"]["once"] = True
    client.extract("1", str(panorama), str(tmp_path / "1"), once)
    assert words in finish(client, "1")["message"]
    logged = client.log_path.read_text()
    assert ("Traceback" in logged) is (mode != "refuse")
    pid = client.hello["pid"]
    client.extract("2", str(panorama), str(tmp_path / "2"), once)
    assert finish(client, "2")["type"] == "done"
    # Where the engine may be broken, with another.
    (used,) = maps.read_report(tmp_path / "2")["adapters"]
    assert (used["process"], used["engines"]) == (pid, engines)


def test_a_library_that_looks_at_stdin_neither_waits_nor_takes_commands(client, panorama, tmp_path):
    client.extract("1", str(panorama), str(tmp_path / "1"), settings("library"))
    assert finish(client, "1")["type"] == "done"


def test_a_refused_file_is_named(client, tmp_path):
    client.extract("1", str(tmp_path / "nothing.hdr"), str(tmp_path / "1"), settings())
    assert f"{tmp_path / 'nothing.hdr'} does not exist" in finish(client, "1")["message"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"maps": ["albido"]}, "no map called albido"),
        ({"brightness": 1}, "no setting called brightness"),
        ({"size": 63}, "size 63"),
    ],
)
def test_wrong_settings_fail_the_job(client, panorama, tmp_path, wrong, words):
    client.extract("1", str(panorama), str(tmp_path / "1"), wrong)
    assert words in finish(client, "1")["message"]


def test_another_protocol_is_refused_in_plain_words(panorama, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_PROTOCOL", "99")
    client = make_client(tmp_path / "state")
    try:
        client.extract("1", str(panorama), str(tmp_path / "1"), settings("slow"))
        message = finish(client, "1")["message"]
        assert "protocol 99" in message
        assert "restart Blender" in message
        assert not client.running
    finally:
        client.close()


def test_spaces_and_other_alphabets_in_every_path(panorama, tmp_path):
    base = tmp_path / "Größe mit Leerzeichen 全景"
    base.mkdir()
    source = base / "Küche nachts é.png"
    source.write_bytes(panorama.read_bytes())
    client = make_client(base / "état")
    try:
        client.extract("1", str(source), str(base / "карты"), settings())
        assert finish(client, "1")["type"] == "done"
        assert maps.read_report(base / "карты")["source"]["path"] == str(source)
    finally:
        client.close()


def test_a_deaf_job_still_shows_signs_of_life(client, panorama, tmp_path):
    client.extract("1", str(panorama), str(tmp_path / "set"), settings("deaf"))
    follow(client, "progress", stage="Albedo")
    follow(client, "alive")
    os.kill(client.hello["pid"], signal.SIGSTOP)
    client.poll()
    silence = client.silence
    time.sleep(0.1)
    assert client.poll() == []
    assert client.silence > silence
    assert client.running


def test_close_ends_a_deaf_worker_and_its_leftovers(client, panorama, tmp_path):
    out = tmp_path / "maps" / "set"
    client.extract("1", str(panorama), str(out), settings("deaf"))
    follow(client, "progress", job="1", stage="Albedo")
    pid = client.hello["pid"]
    client.close()
    assert gone(pid)
    assert list(out.parent.iterdir()) == []


HOST = """
import sys, time
from tests.test_worker_process import make_client, settings, follow
from pathlib import Path
state, file, out, mode = sys.argv[1:]
client = make_client(Path(state))
client.start()
follow(client, "hello")
if mode != "idle":
    client.extract("1", file, out, settings(mode))
    follow(client, "progress", stage="Albedo")
print(client.hello["pid"], flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
@pytest.mark.parametrize("mode", ["idle", "slow", "deaf"])
def test_no_orphan_when_the_host_is_killed(panorama, tmp_path, mode):
    out = tmp_path / "maps" / "set"
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(tmp_path / "state"), str(panorama), str(out), mode],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        pid = int(host.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        assert mode == "idle" or any(out.parent.glob(".set.*.partial"))
    finally:
        host.kill()
        host.wait()
        host.stdout.close()
    assert gone(pid)
    assert mode == "idle" or list(out.parent.iterdir()) == []


def test_garbage_on_stdin_is_answered_and_survived(panorama, tmp_path):
    (tmp_path / protocol.EVENTS).touch()
    commands = [
        b"garbage\n\xff\xfe\n[1]\n{}\n",
        b'{"type":"dance"}\n',
        b'{"type":"extract","job":"0"}\n',
        b'{"type":"extract","job":"0","file":"","out":"","settings":{},"renews":{"map":""}}\n',
        b'{"type":"cancel"}\n',
        b"[" * 100_000 + b"\n",
        b'{"type":"cancel","job":"unheard of"}\n',
        protocol.encode(
            {
                "type": "extract",
                "job": "1",
                "file": str(panorama),
                "out": str(tmp_path / "set"),
                "settings": settings(),
            }
        ),
    ]
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.fake_worker", str(tmp_path), "600"],
        stdin=subprocess.PIPE,
        cwd=ROOT,
    )

    def events():
        log = (tmp_path / protocol.EVENTS).read_bytes()
        return [json.loads(line) for line in protocol.LineBuffer().feed(log)]

    try:
        for command in commands:
            worker.stdin.write(command)
        worker.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "set").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        worker.stdin.close()
        assert worker.wait(PATIENCE) == 0
    finally:
        worker.kill()
        worker.stdin.close()
    failed = [event for event in events() if event["type"] == "failed"]
    assert [event["job"] for event in failed] == [None] * 9
    assert "unknown message 'dance'" in failed[4]["message"]
    assert "done" in [event["type"] for event in events()]


def test_a_full_disk_does_not_leave_the_worker_deaf(tmp_path, monkeypatch):
    from blender_omnix.worker import server

    def full(**_):
        raise OSError(28, "No space left on device")

    worker, left = server.Worker(tmp_path, 600), []
    worker._commands, sent = os.pipe()
    monkeypatch.setattr(worker._events, "send", full)
    monkeypatch.setattr(worker, "_leave", lambda: left.append(list(worker._queue)))
    os.write(sent, b'garbage\n{"type":"unload"}\n')
    os.close(sent)
    worker._read_commands()
    os.close(worker._commands)
    assert left == [[{"type": "unload"}]]


def test_a_python_that_is_not_there_is_named(tmp_path):
    client = WorkerClient(str(tmp_path / "python"), ROOT, "tests.fake_worker", tmp_path / "state")
    with pytest.raises(OmnixError, match=r"cannot be started .* choose another in the add-on"):
        client.start()
    client.close()


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "state").write_text("a file")
    client = make_client(tmp_path / "state")
    with pytest.raises(OmnixError, match=r"cannot write to .*state"):
        client.start()

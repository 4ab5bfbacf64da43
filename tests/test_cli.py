# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line as a shell sees it: exit codes, streams, signals."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from blender_omnix import cli, engines, errors, images, maps
from tests.fakes import box_room

RUN = [sys.executable, "-m", "blender_omnix"]
ADAPTERS = "tests/data/omnix-tiny/adapters"


def run(*arguments, **options):
    return subprocess.run(
        [*RUN, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


def test_no_command_is_a_usage_error():
    assert run().returncode == 2
    assert run("extract", "a.exr").returncode == 2
    assert run("extract", "a.exr", "--out", "b", "--engine", "magic").returncode == 2
    assert "argument --out: no folder is named" in run("extract", "a.exr", "--out", "").stderr


def test_a_missing_file_gives_one_sentence(tmp_path):
    result = run("extract", tmp_path / "no such.exr", "--out", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(
        "no such.exr does not exist; choose an image file."
    )
    assert "Traceback" not in result.stderr


def test_a_python_without_the_packages_gives_one_sentence(tmp_path):
    command = [sys.executable, "-S", *RUN[1:], "extract", "a.exr", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{sys.executable}, has no numpy; use one that has it" in line


def test_ctrl_c_while_libraries_are_imported_is_told_as_that(tmp_path, monkeypatch, capfd):
    parser = cli._parser

    def imports():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:  # as numpy's import does
            raise ImportError("numpy cannot be imported") from None
        return parser()

    monkeypatch.setattr(cli, "_parser", imports)
    assert cli.main(["extract", "a.exr", "--out", str(tmp_path / "out")]) == cli.INTERRUPTED
    told = capfd.readouterr().err.split("\n")
    assert told == [
        "",
        "Stopping; once more stops at once.",
        "Interrupted; nothing was written.",
        "",
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("libgomp.so.1: cannot allocate memory in static TLS block"), "a library (lib"),
        (FileNotFoundError(2, "No such file", "/out of memory/a.exr"), "a.exr cannot be reached"),
        (OSError(12, "Cannot allocate memory"), "Memory ran out"),
        (OSError("The paging file is too small (os error 1455)"), "Memory ran out"),
    ],
)
def test_what_a_failure_is_told_as(error, words):
    assert words in errors.sentence(error)


@pytest.mark.parametrize("met", ["ImportError", "BrokenPipeError"])
def test_ctrl_c_whose_reader_is_gone_ends_the_same(met):
    """Told while a library is imported, which makes what it meets its own, and while one prints."""
    read, write = os.pipe()
    os.close(read)
    code = f"""if True:
        import os, signal
        from blender_omnix import cli
        parser = cli._parser
        def interrupted():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:
                raise ImportError
            if {met} is BrokenPipeError:
                raise BrokenPipeError
            return parser()
        cli._parser = interrupted
        raise SystemExit(cli.main(["extract", "a.exr", "--out", "b"]))
    """
    done = subprocess.run([sys.executable, "-c", code], stderr=write, check=False)
    os.close(write)
    assert done.returncode == cli.INTERRUPTED


def test_too_little_memory_gives_one_sentence_and_a_defect_its_traceback(monkeypatch, capsys):
    def fail(error):
        def create(name, options=None):
            raise error

        monkeypatch.setattr(engines, "create", create)
        return cli.main(["adapters", "check", "blender_omnix/engines/compact/weights"])

    assert fail(MemoryError()) == cli.REFUSED
    assert capsys.readouterr().err == (
        "Memory ran out; try a smaller size, or close other programs.\n"
    )
    with pytest.raises(TypeError):
        fail(TypeError("a defect"))


@pytest.mark.parametrize("command", [("extract", "--out", "out"), ("adapters", "check")])
def test_a_path_that_the_system_refuses_gives_one_sentence(tmp_path, command):
    """Longer than any system takes, though no part of it is."""
    first, *rest = command
    deep = "/".join(["x" * 200] * 40)
    result = run(
        *([first, deep, *rest] if first == "extract" else [*command, deep]),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert result.returncode == 1
    assert "cannot be reached" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_option_of_the_other_engine_is_not_ignored(tmp_path):
    result = run("extract", "a.exr", "--out", tmp_path, "--fp8")
    assert result.returncode == 1
    assert result.stderr.strip() == "--fp8 belongs to the flux engine; add --engine flux."


def test_an_option_is_named_as_it_is_spelt(tmp_path):
    result = run("extract", "a.exr", "--out", tmp_path, "--network-height", 64)
    assert result.stderr.startswith("--network-height belongs to the flux engine")


def test_a_path_that_the_terminal_cannot_show_is_no_failure(tmp_path):
    images.write(tmp_path / "room.exr", box_room(32)["picture"], "float")
    terminal = os.environ | {"PYTHONIOENCODING": "cp1252"}
    out = tmp_path / "\u65e5\u672c"
    result = run("extract", tmp_path / "room.exr", "--out", out, "--maps", "depth", env=terminal)
    assert result.returncode == 0, result.stderr
    assert "\\u65e5\\u672c: 64 x 32" in result.stdout


def test_help_needs_no_heavy_library():
    script = (
        "import sys; from blender_omnix.cli import _parser; _parser();"
        "print([m for m in ('torch', 'peft', 'diffusers', 'OpenImageIO') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.skipif(os.name == "nt", reason="no SIGTERM to send")
def test_a_terminated_extraction_leaves_nothing(tmp_path):
    images.write(tmp_path / "room.exr", box_room(512)["picture"], "float")
    process = subprocess.Popen(
        [*RUN, "extract", tmp_path / "room.exr", "--out", tmp_path / "out"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "Reading" in first
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert "Interrupted; nothing was written." in rest
    assert [path.name for path in tmp_path.iterdir()] == ["room.exr"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has a full device")
@pytest.mark.parametrize("path", [ADAPTERS, f"{ADAPTERS}/rgb_to_albedo/rgb"])
def test_output_that_cannot_be_written_is_a_sentence(path):
    """Whether it is more than Python holds back, or less."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*RUN, "adapters", "check", path],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("What is to be printed cannot be")


@pytest.mark.skipif(os.name == "nt", reason="closes its output in a shell")
def test_closed_output_causes_no_traceback():
    weights = "blender_omnix/engines/compact/weights"
    command = " ".join([*RUN, "adapters", "check", weights, ">&-"])
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="closes its errors in a shell")
def test_closed_errors_are_no_failure(tmp_path):
    images.write(tmp_path / "room.exr", box_room(64)["picture"], "float")
    command = shlex.join([*RUN, "extract", f"{tmp_path}/room.exr", "--out", f"{tmp_path}/out"])
    done = subprocess.run(f"{command} 2>&-", shell=True, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert maps.is_map_set(tmp_path / "out")


def test_a_reader_that_leaves_early_causes_no_traceback():
    process = subprocess.Popen(
        [*RUN, "adapters", "check", ADAPTERS, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    time.sleep(0.1)
    errors = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors

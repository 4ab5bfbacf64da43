# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input through the command line: refused in one sentence with earlier maps untouched, or
handled with a warning in the report."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blender_omnix import cli, engines, images, maps
from tests.fakes import BoxRoomEngine, box_room

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 64, 128


def picture(height: int = HEIGHT) -> np.ndarray:
    return box_room(height)["picture"]


@pytest.fixture
def box_engine(monkeypatch):
    """The command line with an engine that takes no time."""
    monkeypatch.setattr(engines, "create", lambda name, options=None: BoxRoomEngine())


@pytest.fixture
def earlier(tmp_path):
    """A map set that is already where the next one shall go, and its bytes."""
    folder = tmp_path / "maps" / "set"
    maps.save(folder, {"albedo": picture()}, {"engine": "earlier", "warnings": []})
    return folder, contents(folder.parent)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def extract(file: Path, out: Path, *more: str) -> int:
    return cli.main(["extract", str(file), "--out", str(out), "--quiet", *more])


def write(path: Path, pixels: np.ndarray, pixel_type: str = "float") -> None:
    images.write(path, pixels.astype(np.float32), pixel_type)


def write_pillow(path: Path, mode: str, **options) -> None:
    from PIL import Image

    image = Image.fromarray((picture() * 255).astype(np.uint8))
    image = image.quantize(256) if mode == "P" else image.convert(mode)
    if "A" in mode:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path, **options)


def write_truncated(path: Path) -> None:
    """A file of the right header and full declared size that ends in the middle."""
    detailed = np.random.default_rng(0).random((HEIGHT, WIDTH, 3))
    if path.suffix in (".exr", ".hdr"):
        write(path, detailed)
    else:
        write(path, detailed, "uint8")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def with_bad_pixels(share: float, value: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        pixels = picture().reshape(-1, 3).copy()
        count = round(share * len(pixels))
        which = np.random.default_rng(0).choice(len(pixels), count, replace=False)
        pixels[which] = value
        write(path, pixels.reshape(HEIGHT, WIDTH, 3))

    return make


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "too wide": (
        "wide.exr",
        lambda path: write(path, np.resize(picture(), (64, 131, 3))),
        r"131 x 64.*130 x 65",
    ),
    "too high": (
        "high.png",
        lambda path: write(path, np.resize(picture(), (100, 150, 3)), "uint8"),
        r"150 x 100.*150 x 75",
    ),
    "too small": ("small.exr", lambda path: write(path, picture(31)), r"62 x 31.*64 x 32"),
    "missing": ("nothing.exr", lambda path: None, "does not exist"),
    "empty": ("empty.exr", lambda path: path.touch(), "empty"),
    "a folder": ("folder.exr", lambda path: path.mkdir(), "is a folder"),
    "text named png": ("text.png", lambda path: path.write_text("hello " * 100), "cannot be read"),
    "text named exr": ("text.exr", lambda path: path.write_text("hello " * 100), "cannot be read"),
    "another kind": ("film.mp4", lambda path: path.write_bytes(b"\0" * 999), "known kind"),
    **{
        f"truncated {suffix}": (f"cut.{suffix}", write_truncated, "truncated|damaged")
        for suffix in ("exr", "hdr", "png", "jpg", "webp", "tif")
    },
    "1 % NaN": ("nan.exr", with_bad_pixels(0.01, np.nan), "not finite"),
    "0.2 % infinite": ("inf.exr", with_bad_pixels(0.002, np.inf), "not finite"),
    "constant HDR": (
        "grey.exr",
        lambda path: write(path, np.full((HEIGHT, WIDTH, 3), 0.5)),
        "constant",
    ),
    "constant LDR": (
        "black.png",
        lambda path: write(path, np.zeros((HEIGHT, WIDTH, 3)), "uint8"),
        "constant",
    ),
}


@pytest.mark.usefixtures("box_engine")
@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_in_one_sentence(case, tmp_path, earlier, capsys):
    name, make, words = REFUSED[case]
    file = tmp_path / name
    make(file)
    made = file.read_bytes() if file.is_file() else None
    folder, before = earlier
    assert extract(file, folder) == cli.REFUSED
    assert_one_sentence(capsys.readouterr().err, str(file), words)
    assert contents(folder.parent) == before
    assert (file.read_bytes() if file.is_file() else None) == made


def assert_one_sentence(printed: str, named: str, *patterns: str) -> None:
    assert printed.endswith("\n")
    assert printed.count("\n") == 1, printed
    assert "Traceback" not in printed
    assert named in printed
    for pattern in patterns:
        assert re.search(pattern, printed), printed


WEIGHT_FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "base missing": ("base.safetensors", Path.unlink, "is missing"),
    "adapter missing": ("normal.safetensors", Path.unlink, "is missing"),
    "base truncated": (
        "base.safetensors",
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        "truncated",
    ),
    "adapter truncated": (
        "depth.safetensors",
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "truncated",
    ),
    "base altered": ("base.safetensors", lambda path: flip_last_byte(path), "altered"),
    "adapter altered": ("pbr.safetensors", lambda path: flip_last_byte(path), "altered"),
}


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_bad_weights_are_refused(fault, tmp_path, earlier, capsys, monkeypatch):
    from blender_omnix.engines.compact.engine import WEIGHTS, CompactEngine

    name, spoil, words = WEIGHT_FAULTS[fault]
    weights = tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights)
    spoil(weights / name)
    monkeypatch.setattr(engines, "create", lambda name, options=None: CompactEngine(weights))
    write(tmp_path / "room.exr", picture())
    folder, before = earlier
    assert extract(tmp_path / "room.exr", folder) == cli.REFUSED
    assert_one_sentence(capsys.readouterr().err, str(weights / name), words)
    assert contents(folder.parent) == before


@pytest.mark.usefixtures("box_engine")
def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path, capsys):
    write(tmp_path / "room.exr", picture())
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "set"
    assert extract(tmp_path / "room.exr", out) == cli.REFUSED
    assert_one_sentence(capsys.readouterr().err, str(out), "choose another folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.usefixtures("box_engine")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is never writable, not by root")
def test_an_unwritable_output_folder_is_refused(tmp_path, capsys):
    write(tmp_path / "room.exr", picture())
    assert extract(tmp_path / "room.exr", Path("/proc/set")) == cli.REFUSED
    assert_one_sentence(capsys.readouterr().err, "/proc/set", "choose another folder")


@pytest.mark.usefixtures("box_engine")
def test_a_folder_of_other_things_is_refused_and_not_touched(tmp_path, capsys):
    write(tmp_path / "room.exr", picture())
    before = contents(tmp_path)
    assert extract(tmp_path / "room.exr", tmp_path) == cli.REFUSED
    assert_one_sentence(capsys.readouterr().err, str(tmp_path), "not empty")
    assert contents(tmp_path) == before


def test_an_output_folder_that_vanishes_is_named(tmp_path, capsys, monkeypatch):
    class Vandal(BoxRoomEngine):
        def predict(self, *args, **kwargs):
            shutil.rmtree(tmp_path / "maps")
            return super().predict(*args, **kwargs)

    monkeypatch.setattr(engines, "create", lambda name, options=None: Vandal())
    write(tmp_path / "room.exr", picture())
    out = tmp_path / "maps" / "set"
    assert extract(tmp_path / "room.exr", out) == cli.REFUSED
    assert_one_sentence(capsys.readouterr().err, str(out), "choose another folder")
    assert not (tmp_path / "maps").exists()


def grey_exr(path: Path) -> None:
    write(path, picture()[..., 0])


def negative(path: Path) -> None:
    pixels = picture().copy()
    pixels[10:20, 30:40, 1] = -0.25
    write(path, pixels)


HANDLED: dict[str, tuple[str, Callable[[Path], object], str | None]] = {
    "two pixels too wide": (
        "odd.exr",
        lambda path: write(path, np.resize(picture(), (64, 130, 3))),
        None,
    ),
    "negative pixels": ("negative.exr", negative, "negative"),
    "0.05 % NaN": ("nan.exr", with_bad_pixels(0.0005, np.nan), "finite"),
    "0.05 % infinite": ("inf.exr", with_bad_pixels(0.0005, np.inf), "finite"),
    "grey EXR": ("grey.exr", grey_exr, "grey"),
    "grey PNG": ("grey.png", lambda path: write_pillow(path, "L"), "grey"),
    "grey with alpha": ("grey.png", lambda path: write_pillow(path, "LA"), "alpha"),
    "alpha PNG": ("alpha.png", lambda path: write_pillow(path, "RGBA"), "alpha"),
    "alpha WebP": ("alpha.webp", lambda path: write_pillow(path, "RGBA"), "alpha"),
    "palette": ("palette.png", lambda path: write_pillow(path, "P"), None),
    "palette with transparency": (
        "palette.png",
        lambda path: write_pillow(path, "P", transparency=0),
        "alpha",
    ),
}


@pytest.mark.usefixtures("box_engine")
@pytest.mark.parametrize("case", HANDLED)
def test_what_can_be_mended_is_mended_and_told(case, tmp_path, earlier, capsys):
    name, make, words = HANDLED[case]
    make(tmp_path / name)
    folder, _ = earlier
    assert extract(tmp_path / name, folder) == cli.DONE
    report = maps.read_report(folder)
    printed = capsys.readouterr().err
    for warning in report["warnings"]:
        assert f"Warning: {warning}\n" in printed
    if words is not None:
        assert any(re.search(words, warning) for warning in report["warnings"]), report["warnings"]
    loaded = maps.load(folder)
    maps.check_arrays(loaded)
    assert loaded["panorama"].shape == (HEIGHT, WIDTH, 3)
    assert np.ptp(loaded["panorama"]) > 0.2


@pytest.mark.usefixtures("box_engine")
def test_grey_and_palette_show_what_colour_shows(tmp_path):
    """What the engine saw of each differs from the plain image by no more than the format does."""
    seen = {}
    for name, mode in (("plain", "RGB"), ("palette", "P"), ("alpha", "RGBA"), ("grey", "L")):
        write_pillow(tmp_path / f"{name}.png", mode)
        assert extract(tmp_path / f"{name}.png", tmp_path / name) == cli.DONE
        seen[name] = maps.load(tmp_path / name, ("panorama",))["panorama"]
    luma = (seen["plain"] @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    assert abs(seen["palette"] - seen["plain"]).max() < 0.05
    assert abs(seen["alpha"] - seen["plain"]).max() < 1e-6
    assert abs(seen["grey"] - luma).max() < 0.01


@pytest.mark.usefixtures("box_engine")
def test_spaces_and_other_alphabets_in_paths(tmp_path, capsys):
    folder = tmp_path / "Größe mit Leerzeichen" / "全景 é"
    folder.mkdir(parents=True)
    write(folder / "кухня nachts.exr", picture())
    assert extract(folder / "кухня nachts.exr", folder / "карты один") == cli.DONE
    report = maps.read_report(folder / "карты один")
    assert report["source"]["path"] == str(folder / "кухня nachts.exr")
    assert set(maps.map_files(folder / "карты один")) == {*maps.DEFAULT_MAPS, "panorama"}


def run_command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "blender_omnix", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_process_exits_1_with_one_sentence(tmp_path):
    done = run_command("extract", str(tmp_path / "no.exr"), "--out", str(tmp_path / "o"), "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_sentence(done.stderr, str(tmp_path / "no.exr"), "does not exist")
    assert list(tmp_path.iterdir()) == []


def test_the_process_exits_2_on_wrong_usage(tmp_path):
    assert run_command("extract", str(tmp_path / "no.exr")).returncode == 2
    assert run_command("extrude").returncode == 2


def test_the_process_extracts_with_a_warning_and_exits_0(tmp_path):
    negative(tmp_path / "room ü.exr")
    done = run_command("extract", str(tmp_path / "room ü.exr"), "--out", str(tmp_path / "o"))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert any("negative" in warning for warning in maps.read_report(tmp_path / "o")["warnings"])


BOX_COMMAND = """
import sys
from blender_omnix import cli, engines
from tests.fakes import BoxRoomEngine
engines.create = lambda name, options=None: BoxRoomEngine()
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_16384_pixels_are_capped_at_8192_within_4_gb(tmp_path):
    from PIL import Image

    small = Image.fromarray((picture() * 255).astype(np.uint8))
    small.resize((16384, 8192)).save(tmp_path / "huge.png", compress_level=1)
    done = subprocess.run(
        [
            *(sys.executable, "-c", BOX_COMMAND, "extract", str(tmp_path / "huge.png")),
            *("--out", str(tmp_path / "set"), "--maps", "depth,normal", "--quiet"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = maps.read_report(tmp_path / "set")
    assert report["source"]["size"] == [16384, 8192]
    assert report["size"] == [8192, 4096]
    assert any("maps are 8192 x 4096" in warning for warning in report["warnings"])
    assert report["memory_mb"] < 4096
    depth = maps.load(tmp_path / "set", ("depth",))["depth"]
    assert depth.shape == (4096, 8192)
    assert np.isfinite(depth).all()

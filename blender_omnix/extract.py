# SPDX-License-Identifier: GPL-3.0-or-later
"""A panorama file and settings in, a map set out. No bpy, no torch of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__, checks, engines, images, maps
from .errors import Cancelled, OmnixError
from .panorama import clean, emitters, frames, metric, resample, sky, smooth, tonemap

if TYPE_CHECKING:
    from .engines.base import Engine, Prediction

Progress = Callable[[str, float], None]

# Checks and thumbnails look at maps of at most this height: what they measure does not change
# with size, and a 8192-wide set is never held in memory at once.
_CHECK_HEIGHT = 512
_BAND_ROWS = 64

# Of what the engine is shown: encoded values that are black or white to the eye, and the share of
# the sphere above which they are told.
_BLACK, _WHITE, _BLANK = 0.01, 0.99, 0.95

# Where the wait is spent, as the fraction of the whole at which each stage ends. Loading and
# prediction dominate with the slow engine, saving with the fast one; these serve both.
_READ, _LOADED, _PREDICTED, _SAVED = 0.05, 0.15, 0.6, 0.98


@dataclass(frozen=True)
class Settings:
    """What a user may choose; JSON-able with `dataclasses.asdict`.

    `size` is the width of the maps, 0 = the source's; `exposure` is an offset in stops on the
    automatic exposure; `camera_height` is in metres above the floor; `options` are the engine's.
    """

    engine: str = "compact"
    maps: tuple[str, ...] = maps.DEFAULT_MAPS
    size: int = 0
    exposure: float = 0.0
    camera_height: float = 1.6
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [name for name in self.maps if name not in maps.REQUESTABLE]
        if unknown or not self.maps:
            wrong = "No map is chosen"
            if unknown:
                wrong = f"There is no map called {', '.join(unknown)}"
            raise OmnixError(f"{wrong}; choose from {', '.join(maps.REQUESTABLE)}.")
        if self.size and not (64 <= self.size <= maps.MAX_WIDTH and self.size % 2 == 0):
            raise OmnixError(
                f"The size {self.size} is not an even width from 64 to {maps.MAX_WIDTH}."
            )
        if not 0.01 <= self.camera_height <= 1000.0:
            raise OmnixError(
                f"The camera height {self.camera_height:g} m is not between 0.01 and 1000 m."
            )
        if not -20.0 <= self.exposure <= 20.0:
            raise OmnixError(f"The exposure {self.exposure:g} is not between -20 and 20 stops.")
        if abs(self.seed) >= 2**63:
            raise OmnixError(f"The seed {self.seed} is not a number of 64 bits; choose a smaller.")


@dataclass(frozen=True)
class Renews:
    """Says that one map of an extraction is for the map set `folder`, which holds others."""

    map: str
    folder: Path


class _Stages:
    """Seconds per stage, progress of the whole, and the place where a cancel takes effect."""

    def __init__(self, progress: Progress | None, cancelled: Callable[[], bool] | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress or (lambda _stage, _fraction: None)
        self.cancelled = cancelled or (lambda: False)
        self._name = ""
        self._since = 0.0

    def enter(self, name: str, fraction: float) -> None:
        if self.cancelled():
            raise Cancelled
        self.leave()
        self._name, self._since = name, time.perf_counter()
        self._progress(name, fraction)

    def within(self, start: float, end: float) -> Progress:
        """The progress of a part of the whole, of which it takes the fractions `start` to `end`."""
        return lambda name, fraction: self.enter(name, start + fraction * (end - start))

    def leave(self) -> None:
        if self._name:
            spent = time.perf_counter() - self._since
            self.seconds[self._name] = round(self.seconds.get(self._name, 0.0) + spent, 4)
        self._name = ""


def extract(
    file: Path | str,
    out: Path | str,
    settings: Settings | None = None,
    *,
    engine: Engine | None = None,
    renews: Renews | None = None,
    standing: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Extract a map set from the panorama `file` into the folder `out`; returns the report.

    `engine` is a loaded one to reuse; else one is made as the settings say. With `renews` the
    contact sheet is that of the set which one of the maps is for, as it will be with that map.
    `standing` are the times (`maps.times`) of the maps in `out` that may be replaced, by default
    those of now; where one is changed meanwhile, the new set is put beside the earlier one, and
    OmnixError says so. `progress(stage, fraction)` runs 0..1 over the whole. Raises OmnixError with
    a sentence for the user, or Cancelled; in both cases an earlier set in `out` is untouched,
    unless the sentence says that the new one is there and a file of the user's own did not move
    along.
    """
    settings = settings or Settings()
    stages = _Stages(progress, cancelled)
    with maps.MapSetWriter(out) as writer:
        _refuse_own(Path(file), writer.folder)
        standing = maps.times(writer.folder) if standing is None else standing
        stages.enter("Reading", 0.0)
        source, linear, notes = _read(Path(file), settings)
        done = list(notes)
        digest = maps.sha256(file)
        encoded, stops = tonemap.expose(
            linear, settings.exposure, display_referred=not source.linear
        )
        notes += _blankness(Path(file), encoded)

        stages.enter("Loading Engine", _READ)
        engine = engine or engines.create(settings.engine, settings.options)
        wanted = _wanted(settings.maps, engine)
        engine.load(stages.within(_READ, _LOADED))
        prediction = engine.predict(
            encoded,
            wanted,
            stages.within(_LOADED, _PREDICTED),
            stages.cancelled,
            settings.seed,
        )
        _refuse_broken(prediction, engine)
        if "sky" in prediction:
            prediction["sky"] = sky.keep_certain(prediction["sky"])
        _flatten(prediction)
        factor, note = _metric_factor(prediction, settings.camera_height)
        notes += note + engine.warnings(settings.maps)

        is_hdr = source.linear and not emitters.is_clipped(linear)
        small = _write_maps(
            writer, stages, linear, encoded, prediction, factor, settings.maps, is_hdr
        )

        stages.enter("Checking", _SAVED)
        checked = checks.check(small, small["panorama"])
        notes += [entry["message"] for entry in checked if not entry["passed"]]
        if renews is not None:
            small, unreadable = _among_others(renews, small)
            notes += unreadable
        writer.write_preview(small)
        stages.leave()
        report = {
            "engine": engine.name,
            "versions": _versions(),
            "source": _describe(Path(file), digest, source, stops, done),
            "settings": asdict(settings),
            "size": [encoded.shape[1], encoded.shape[0]],
            "adapters": engine.adapters(),
            "checks": checked,
            "warnings": notes,
            "seconds": stages.seconds,
            "memory_mb": peak_memory_mb(),
        }
        if stages.cancelled():
            raise Cancelled
        return writer.publish(report, standing)


def _refuse_own(file: Path, folder: Path) -> None:
    """Raise OmnixError where the source is a file that the new set would replace."""
    own = [path for path in (folder / name for name in sorted(maps.OWN_FILES)) if path.exists()]
    if os.path.exists(file) and any(path.samefile(file) for path in own):
        raise OmnixError(
            f"{file} belongs to the map set in {folder}, which would be replaced; choose another "
            "folder for the maps."
        )


def _read(file: Path, settings: Settings) -> tuple[images.Panorama, np.ndarray, list[str]]:
    """The source, its repaired linear radiance at the size of the maps, and notes on it."""
    source = images.read_panorama(file, settings.size or maps.MAX_WIDTH)
    notes = list(source.notes)
    if not settings.size and source.width > maps.MAX_WIDTH:
        height, width = source.pixels.shape[:2]
        notes.append(
            f"The image is {source.width} x {source.height}; its maps are {width} x {height}, the "
            "largest that are made."
        )
    if settings.size > source.width:
        notes.append(
            f"The image is {source.width} wide; maps are not made larger than their source."
        )
    try:
        linear, repairs = clean.repair(
            source.pixels if source.linear else tonemap.srgb_decode(source.pixels), source.flaws
        )
    except OmnixError as error:
        raise OmnixError(f"{file} {error}.") from None
    return source, linear, notes + repairs


def _blankness(file: Path, encoded: np.ndarray) -> list[str]:
    """A note where the engine is shown next to nothing but black or white.

    Raises OmnixError where it is shown nothing else at all.
    """
    weight = frames.solid_angles(*encoded.shape[:2])
    black, white = encoded.max(axis=-1) <= _BLACK, encoded.min(axis=-1) >= _WHITE
    share = float(((black | white).mean(axis=1) * weight).sum() / weight.sum())
    if share == 1.0:
        raise OmnixError(f"{file} is all black and white at this exposure; choose another.")
    if share <= _BLANK:
        return []
    return [
        f"At this exposure {100 * share:.0f} % of the picture are black or white, where maps are "
        "guesses."
    ]


def _wanted(requested: Collection[str], engine: Engine) -> tuple[str, ...]:
    """The maps to ask the engine for: those requested that it makes, and what extraction finishes
    them with, so that a map is the same, whichever others are requested."""
    lacking = [name for name in requested if name != "emission" and name not in engine.makes]
    if lacking:
        raise OmnixError(
            f"The {engine.name} engine makes no {', '.join(lacking)} map; leave it out or "
            "choose another engine."
        )
    wanted = set(requested)
    if "emission" in wanted:
        wanted.add("albedo")
    if wanted & {"albedo", "depth"}:
        # They tell lamps from lit floors, and give depth its scale and planes.
        wanted.add("normal")
    return tuple(name for name in maps.REQUESTABLE if name in wanted & engine.makes)


def _refuse_broken(prediction: Prediction, engine: Engine) -> None:
    """Raise OmnixError for maps that are not numbers: what follows would make them look sound."""
    broken = [name for name, array in prediction.items() if not np.isfinite(array).all()]
    if broken:
        raise OmnixError(
            f"The {engine.name} engine gave no numbers for {', '.join(broken)}: it may have "
            "overflowed at reduced precision, or its weights are damaged."
        )


def _flatten(prediction: Prediction) -> None:
    """Smooth the predicted depth along the planes that the predicted normals tell of."""
    if "depth" in prediction and "normal" in prediction:
        prediction["depth"] = smooth.plane_guided(
            prediction["depth"], prediction["normal"], prediction.get("sky")
        )


def _metric_factor(prediction: Prediction, camera_height: float) -> tuple[float, list[str]]:
    """Metres per unit of the predicted depth, and a warning where no floor was found."""
    if "depth" not in prediction:
        return 1.0, []
    depth = prediction["depth"]
    normal = prediction.get("normal")
    factor, warning = metric.scale_to_camera_height(
        depth, normal, camera_height, prediction.get("sky")
    )
    return factor, [warning] if warning else []


def _write_maps(
    writer: maps.MapSetWriter,
    stages: _Stages,
    linear: np.ndarray,
    encoded: np.ndarray,
    prediction: Prediction,
    factor: float,
    requested: Collection[str],
    is_hdr: bool,
) -> dict[str, np.ndarray]:
    """Bring each map to full size, write it and keep a small copy for checks and preview."""
    height, width = encoded.shape[:2]
    small: dict[str, np.ndarray] = {}

    def write(name: str, array: np.ndarray, position: float) -> None:
        stages.enter("Saving", position)
        writer.write(name, array)
        small[name] = _reduce(name, array)

    stages.enter("Upsampling", _PREDICTED)
    chance = prediction.get("sky")
    empty = np.zeros((height, width), bool) if chance is None else sky.mask(chance, encoded)

    stages.enter("Emission", _PREDICTED)
    radiance, glow = emitters.emission(
        linear, empty, prediction.get("albedo"), prediction.get("normal"), is_hdr=is_hdr
    )
    if "emission" in requested:
        write("emission", radiance, _PREDICTED)
    del radiance

    names = [name for name in maps.MAPS if name in requested and name in prediction]
    for index, name in enumerate(names):
        position = _PREDICTED + (index + 1) / (len(names) + 1) * (_SAVED - _PREDICTED)
        stages.enter("Upsampling", position)
        full = resample.upsample(prediction[name], encoded, kind=_KINDS[name])
        if name == "albedo":
            # Where the picture shows light it has no surface's detail to give.
            full += (resample.resize(prediction[name], height, width) - full) * glow[..., None]
        write(name, _finish(name, full, empty, factor), position)
    write("panorama", encoded, _SAVED)
    return small


def _among_others(
    renews: Renews, small: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Small copies of the maps of a set once one of them is that in `small`, and notes."""
    shown = {renews.map: small[renews.map]}
    notes = []
    for name in maps.map_files(renews.folder):
        if name == renews.map:
            continue
        try:
            shown[name] = _reduce(name, maps.load(renews.folder, (name,))[name])
        except OmnixError as error:
            # The map that is wanted does not depend on it.
            notes.append(f"The contact sheet lacks a map. {error}")
    return shown, notes


_KINDS = {
    "albedo": "colour",
    "semantic": "scalar",
    "normal": "normal",
    "roughness": "scalar",
    "metallic": "scalar",
    "depth": "depth",
}


def _finish(name: str, full: np.ndarray, empty: np.ndarray, factor: float) -> np.ndarray:
    """Ranges, units and the values that stand for sky, which is where nothing is."""
    if name == "depth":
        return np.where(empty, 0.0, full * np.float32(factor)).astype(np.float32, copy=False)
    if name == "normal":
        # In bands: the rays of all pixels take more memory than the map itself.
        for start in range(0, len(full), _BAND_ROWS):
            rows = slice(start, start + _BAND_ROWS)
            if (band := empty[rows]).any():
                full[rows][band] = -frames.directions(*empty.shape, rows=rows)[band]
        return full
    full = np.clip(full, 0.0, 1.0)
    full[empty] = maps.MAPS[name].sky
    return full


def _reduce(name: str, array: np.ndarray) -> np.ndarray:
    """A copy of at most _CHECK_HEIGHT rows; unit vectors stay unit."""
    if array.shape[0] <= _CHECK_HEIGHT:
        return array
    if name == "depth":
        # Averaging metres with the 0 that stands for sky would invent surfaces.
        return resample.nearest(array, _CHECK_HEIGHT, 2 * _CHECK_HEIGHT)
    reduced = resample.resize(array, _CHECK_HEIGHT, 2 * _CHECK_HEIGHT)
    if name == "normal":
        reduced /= np.maximum(np.linalg.norm(reduced, axis=-1, keepdims=True), 1e-6)
    return reduced


def _versions() -> dict[str, str]:
    """Versions of this package and of the libraries that took part."""
    found = {"blender_omnix": __version__, "python": sys.version.split()[0]}
    for name in ("numpy", "torch", "peft", "diffusers", "safetensors", "OpenImageIO"):
        module = sys.modules.get(name)
        if module is not None:
            found[name] = str(getattr(module, "__version__", "unknown"))
    return found


def _describe(
    file: Path, digest: str, source: images.Panorama, stops: float, done: list[str]
) -> dict[str, Any]:
    return {
        "path": str(file.absolute()),
        "sha256": digest,
        "size": [source.width, source.height],
        "linear": source.linear,
        "exposure_stops": round(float(stops), 4),
        "done": done,
    }


def peak_memory_mb() -> float | None:
    """This process's peak resident memory in MB; None where the platform does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)

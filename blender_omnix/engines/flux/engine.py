# SPDX-License-Identifier: GPL-3.0-or-later
"""The flux engine: FLUX.1-dev with one set of OmniX adapters per task."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...adapters import find, report
from ...adapters.fingerprint import refuse_copy, refuse_twin
from ...errors import Cancelled, OmnixError, lacks_memory
from ...panorama import resample
from . import autoencoder, components, conditions, pipeline, prompt, readout
from .sampler import Sampler
from .tasks import MAPS, TASKS, needed

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from ..base import Prediction

# The network's largest panorama is 1440 x 720, and it works on multiples of 16 pixels.
MAX_HEIGHT = 720
MIN_HEIGHT = 64
MULTIPLE = 16
# Torch has names for more, such as meta, that compute nothing or want another torch.
DEVICES = ("cpu", "cuda", "mps", "xpu")
# What of a prediction's progress is for the adapters.
LOADING = 0.1
# Share of normals facing away that is told; the noise of a sound map stays far below.
MANY_AWAY = 0.25

_Stamp = tuple[int, int] | None


@dataclass(frozen=True)
class _Loaded:
    device: torch.device
    vae: AutoencoderKL
    sampler: Sampler


class FluxEngine:
    """One FLUX run per task, each with that task's adapters. See `Engine`.

    `weights` is a folder with FLUX.1-dev's transformer/, vae/ and scheduler/, and either
    prompt_embeds.safetensors or the text encoders and tokenizers; `adapters` is the root of the
    OmniX adapters, in any layout `adapters.find` knows. Adapters are injected when a map first
    needs them and stay. `height` caps the network's panorama, `camera_rays` takes the normals that
    are also conditioned on the ray directions, `fp8` stores the transformer in 8 bits (adapters and
    modulation excepted), `device` is one of torch's for DEVICES, by default the best there is.
    """

    name = "flux"
    makes = MAPS

    def __init__(
        self,
        weights: str | Path = "",
        adapters: str | Path = "",
        *,
        device: str = "",
        height: int = MAX_HEIGHT,
        steps: int = pipeline.STEPS,
        camera_rays: bool = False,
        fp8: bool = False,
    ) -> None:
        """Nothing is read yet. Raises OmnixError for an option out of its range."""
        if not (weights and adapters):
            raise OmnixError(
                "The flux engine needs two folders: the FLUX.1-dev weights and the OmniX adapters; "
                "choose them in the preferences, or with --weights and --adapters."
            )
        if not MIN_HEIGHT <= height <= MAX_HEIGHT:
            raise OmnixError(
                f"The network height {height} is not between {MIN_HEIGHT} and {MAX_HEIGHT}."
            )
        if not 1 <= steps <= pipeline.MAX_STEPS:
            raise OmnixError(
                f"{steps} sampling steps are not between 1 and {pipeline.MAX_STEPS}; "
                f"{pipeline.STEPS} are usual."
            )
        self.weights = Path(weights)
        self.root = Path(adapters)
        self.device = device
        self.height = height
        self.steps = steps
        self.camera_rays = camera_rays
        self.fp8 = fp8
        self._loaded: _Loaded | None = None
        self._entries: dict[str, list[dict[str, Any]]] = {}
        self._used: list[str] = []
        self._seen: dict[str, Path] = {}  # files of the adapters that are loaded, by fingerprint
        self._stamps: dict[Path, _Stamp] = {}  # of all files that were read
        self._away = 0.0  # share of the last normals that had to be turned round

    def load(self, progress: Callable[[str, float], None]) -> None:
        """Read the weights; does nothing when that is done and the files that were read, adapters
        too, are as they were. Adapters follow when maps are known.

        Raises OmnixError naming the file that is missing or damaged, or a folder without adapters.
        """
        if self._loaded is not None:
            if all(_stamp(file) == stamp for file, stamp in self._stamps.items()):
                return
            self.unload()
        components.check(self.weights)
        if not self.root.is_dir():
            raise OmnixError(f"{self.root} is no folder; choose the root of the OmniX adapters.")
        find.find(self.root)
        device = _device(self.device or best_device())
        if self.fp8 and device.type == "mps":
            raise OmnixError("Metal has no 8-bit floats; leave out the engine's option fp8.")
        progress("Loading Prompt", 0.0)
        with _out_of_memory():
            embeddings = prompt.load(self.weights, device)
        # Encoding the prompt writes its cache.
        read = [*components.files(self.weights), self.weights / prompt.CACHE]
        self._stamps = {file: _stamp(file) for file in read}
        progress("Loading FLUX", 0.1)
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        with _out_of_memory():
            parts = components.load(self.weights, dtype)
            progress("Loading FLUX", 0.7)
            # Before the move: the modulation's weights stay behind, and fp8 halves what is moved.
            sampler = Sampler(parts, embeddings)
            if self.fp8:
                components.store_in_fp8(parts.transformer)
            parts.transformer.to(device)
            parts.vae.to(device)
        self._loaded = _Loaded(device, parts.vae, sampler)
        progress("Loading FLUX", 1.0)

    def unload(self) -> None:
        """Give the memory back."""
        self._loaded = None
        self._entries, self._used, self._seen, self._stamps = {}, [], {}, {}
        # The transformer and its hooks refer to one another.
        gc.collect()
        if (kind := best_device()) != "cpu":
            torch.get_device_module(kind).empty_cache()

    def adapters(self) -> list[dict[str, Any]]:
        """The report's `adapters` entries of the last prediction, task by task."""
        return [entry for task in self._used for entry in self._entries[task]]

    def warnings(self, maps: Collection[str]) -> list[str]:
        """Where many of the last normals faced away from the viewer. What else is wrong with a map,
        the output checks tell."""
        if "normal" not in maps or self._away < MANY_AWAY:
            return []
        return [
            f"{self._away:.0%} of the normals faced away from the viewer and were turned round: "
            "the normal adapters may have had no effect, or be those of another task."
        ]

    def predict(
        self,
        panorama: np.ndarray,
        maps: Collection[str],
        progress: Callable[[str, float], None],
        cancelled: Callable[[], bool],
        seed: int = 0,
    ) -> Prediction:
        """Maps at the network's size. See `Engine.predict`.

        The same seed gives the same maps on one device, whichever other maps are asked for.
        """
        loaded = self._loaded
        if loaded is None:
            raise RuntimeError("load() comes before predict()")
        tasks = needed(maps, self.camera_rays)
        height, width = network_size(panorama.shape[0], self.height)
        result: Prediction = {}

        def stop_if_cancelled() -> None:
            if cancelled():
                raise Cancelled

        with _out_of_memory():
            for index, task in enumerate(tasks):
                stop_if_cancelled()
                progress("Loading Adapters", LOADING * index / len(tasks))
                self._add(loaded.sampler, task, stop_if_cancelled)
            self._used = tasks
            stop_if_cancelled()
            small = resample.resize(panorama, height, width)
            target, clean = _latents(loaded, small, tasks, seed)
            self._require_numbers("vae", *clean.values())
            for index, task in enumerate(tasks):

                def on_step(step: int, index: int = index, task: str = task) -> None:
                    stop_if_cancelled()
                    done = (index + step / self.steps) / len(tasks)
                    progress(TASKS[task].title, LOADING + (1 - LOADING) * done)

                sampled = loaded.sampler.sample(
                    task,
                    torch.cat([clean[name] for name in find.TASKS[task][:-1]]),
                    target,
                    steps=self.steps,
                    on_step=on_step,
                    on_block=stop_if_cancelled,
                )
                self._require_numbers("transformer", sampled)
                decoded = autoencoder.decode(loaded.vae, sampled)
                self._require_numbers("vae", decoded)
                image = decoded[0].permute(1, 2, 0).cpu().numpy()
                maps_of_task = readout.read(task, image)
                if "normal" in maps_of_task:
                    self._away = readout.facing_away(image)
                result |= maps_of_task
        return result

    def _require_numbers(self, part: str, *results: torch.Tensor) -> None:
        """Raise OmnixError naming the part whose results are not finite."""
        if all(result.isfinite().all() for result in results):
            return
        help_ = "download it again"
        # The autoencoder computes in 32 bits everywhere, the transformer on the CPU alone.
        if part == "transformer" and self.fp8:
            help_ = "it may have overflowed in 8-bit weights: leave them out"
        elif part == "transformer" and self._loaded and self._loaded.device.type != "cpu":
            help_ = "it may have overflowed in bfloat16: try the device cpu"
        raise OmnixError(f"{self.weights / part} gave no finite numbers; {help_}.")

    def _add(self, sampler: Sampler, task: str, on_block: Callable[[], None]) -> None:
        """Inject, verify and measure a task's adapters, once. For `on_block` see `Sampler`."""
        if task in self._entries:
            return
        files = find.task_files(self.root, task)
        known = [item for item in find.find(self.root) if item.task in find.TASKS]
        for file in files.values():
            refuse_twin(file, [item.file for item in known if item.task != task])
        stamps = {file: _stamp(file) for file in files.values()}
        added = sampler.add(task, files, on_block)
        self._stamps |= stamps
        try:
            for injected, _ in added.values():
                refuse_copy(injected.inspection, self._seen)
        except OmnixError:
            # Either may be the wrong one, and both are in the transformer.
            self.unload()
            raise
        self._entries[task] = [
            report.entry(task, replace(injected, name=name), effect)
            for name, (injected, effect) in added.items()
        ]


def _latents(
    loaded: _Loaded, panorama: np.ndarray, tasks: Collection[str], seed: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The noise every target starts from, and each condition's clean latents by adapter name.

    All noise is drawn on the CPU in one order, whatever the tasks.
    """
    height, width = panorama.shape[:2]
    images = {"rgb": conditions.rgb(panorama), "camray": conditions.camera_rays(height, width)}
    factor = autoencoder.reduction(loaded.vae)
    shape = loaded.sampler.noise_shape(height // factor, width // factor)
    generator = torch.Generator().manual_seed(seed)
    target, *drawn = (torch.randn(shape, generator=generator) for _ in range(1 + len(images)))
    used = {name for task in tasks for name in find.TASKS[task][:-1]}
    clean = {
        name: autoencoder.encode(loaded.vae, image, noise)
        for (name, image), noise in zip(images.items(), drawn, strict=True)
        if name in used
    }
    return target.to(loaded.device), clean


def _stamp(file: Path) -> _Stamp:
    """Size and time by which a file is taken for the one that was read; None where it is gone."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _out_of_memory() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not lacks_memory(error):
            raise
        # So say CUDA and Metal; torch on the CPU has other words.
        if "out of memory" not in str(error):
            raise OmnixError(
                "This computer has too little memory for FLUX; close other programs, or use a "
                "smaller network height."
            ) from error
        # Metal has no 8-bit floats.
        help_ = "" if "MPS" in str(error) else "8-bit weights or "
        raise OmnixError(
            f"The accelerator has too little memory for FLUX; use {help_}a smaller network height."
        ) from error


def network_size(height: int, limit: int = MAX_HEIGHT) -> tuple[int, int]:
    """Rows and columns the network works at for a panorama of `height` rows."""
    rows = max(min(height, limit), MIN_HEIGHT) // MULTIPLE * MULTIPLE
    return rows, 2 * rows


def best_device() -> str:
    """The accelerator if there is one that FLUX can use."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found is not None and found.type in DEVICES else "cpu"


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError):
        device = None
    if device is None or device.type not in DEVICES:
        raise OmnixError(
            f"This computer has no device {name} that FLUX can use; leave the device empty."
        )
    return device

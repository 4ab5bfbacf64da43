# SPDX-License-Identifier: GPL-3.0-or-later
"""The compact engine: a small network whose weights travel with the extension."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ...adapters import report
from ...adapters.effect import Effect, effects, nudged, require
from ...adapters.fingerprint import refuse_copy
from ...adapters.inject import activate, inject
from ...errors import Cancelled, OmnixError
from ...maps import sha256
from ...panorama import frames, planes, resample
from ..base import Prediction
from .network import STRIDE, TASKS, CompactNetwork, Features, adapted_modules

WEIGHTS = Path(__file__).parent / "weights"
CARD = "card.json"
BASE = "base.safetensors"

_PROBE_HEIGHT = 64

_STAGES = {"albedo": "Albedo", "normal": "Normal", "pbr": "PBR", "depth": "Depth"}
_TASK_OF = {
    "albedo": "albedo",
    "normal": "normal",
    "roughness": "pbr",
    "metallic": "pbr",
    "depth": "depth",
}
_UNCALIBRATED = {"raised": 0.0, "gain": 1.0}  # of the metal logit
_GRAZING = 0.02  # least cosine between a normal and the direction to the viewer


class CompactEngine:
    """One encoder pass, then one decoder pass per task with that task's adapter. See `Engine`.

    `weights` is a folder like the one that ships: ``card.json``, ``base.safetensors`` and one
    ``<task>.safetensors`` adapter per task.
    """

    name = "compact"
    makes = frozenset(_TASK_OF)

    def __init__(self, weights: str | Path = WEIGHTS) -> None:
        self.weights = Path(weights)
        self.network: CompactNetwork | None = None
        self.height = 0
        self._adapters: list[dict[str, Any]] = []
        self._constants: dict[str, float] = {}
        self._metal = _UNCALIBRATED

    def load(self, progress: Callable[[str, float], None]) -> None:
        """Read and verify the weights, inject the adapters and measure what each one does.

        Raises OmnixError naming the file that is missing, altered or does not fit.
        """
        if self.network is not None:
            return
        progress("Loading Compact", 0.0)
        card = verify(self.weights)
        network = CompactNetwork()
        base = self.weights / BASE
        tensors = load_file(base)
        shapes = {name: value.shape for name, value in tensors.items()}
        expected = {name: value.shape for name, value in network.state_dict().items()}
        unlike = sorted({name for name, _ in shapes.items() ^ expected.items()})
        if unlike:
            raise OmnixError(
                f"{base} is of another version of the network: {len(unlike)} tensors differ in "
                f"name or shape, {unlike[0]} for one; install the extension again."
            )
        network.load_state_dict(tensors)
        network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        files = {task: self.weights / f"{task}.safetensors" for task in TASKS}
        injected = inject(network, files, adapted_modules(network))
        seen: dict[str, Path] = {}
        for each in injected.values():
            refuse_copy(each.inspection, seen)
        measured = measure_effects(network)
        require(measured, files)
        self._adapters = [report.entry(task, injected[task], measured[task]) for task in TASKS]
        self._constants = card.get("constants", {})
        # What the training's export found best, on the validation scenes, to do with the logit.
        self._metal = card.get("metal", _UNCALIBRATED)
        self.network = network
        self.height = card["height"]
        progress("Loading Compact", 1.0)

    def unload(self) -> None:
        """Give the memory back."""
        self.network = None
        self._adapters = []

    def adapters(self) -> list[dict[str, Any]]:
        """The report's `adapters` entries, one per task, once loaded."""
        return self._adapters

    def warnings(self, maps: Collection[str]) -> list[str]:
        """A sentence for each of `maps` that is a constant: the card names what the network does
        no better, on the validation scenes, than one value everywhere."""
        return [
            f"The {name} map is {value:g} everywhere: the network of this version guesses no "
            "better than that."
            for name, value in self._constants.items()
            if name in maps
        ]

    def predict(
        self,
        panorama: np.ndarray,
        maps: Collection[str],
        progress: Callable[[str, float], None],
        cancelled: Callable[[], bool],
        seed: int = 0,
    ) -> Prediction:
        """Maps at the size the weights were trained for. See `Engine.predict`.

        Deterministic: `seed` changes nothing. What the network says of the panorama is averaged
        with what it says of its mirror image. The sky is always among the maps.
        """
        if self.network is None:
            raise RuntimeError("load() comes before predict()")
        tasks = needed_tasks(maps)
        picture = resample.resize(panorama, self.height, 2 * self.height).astype(np.float32)
        result: Prediction = {}
        with torch.inference_mode():
            seen = with_mirror_image(picture)
            features = None
            for index, task in enumerate(tasks):
                if cancelled():
                    raise Cancelled
                progress(_STAGES[task], index / len(tasks))
                if features is None:
                    features = self.network.encode(seen)
                activate(self.network, task)
                decoded = self.network.decode(features, task, seen)
                if "metallic" in decoded:
                    raised = decoded["metallic"] + self._metal["raised"]
                    decoded["metallic"] = self._metal["gain"] * raised
                result |= finish(decoded)
        if "normal" in result:
            result["normal"] = planes.snap_normals(result["normal"], result["depth"], result["sky"])
        for name in self._constants.keys() & result.keys():
            result[name] = np.full_like(result[name], self._constants[name])
        progress(_STAGES[tasks[-1]], 1.0)
        return result


def needed_tasks(maps: Collection[str]) -> list[str]:
    """Tasks that yield `maps`; depth always, for its sky."""
    needed = {_TASK_OF[name] for name in maps} | {"depth"}
    return [task for task in TASKS if task in needed]


def with_mirror_image(picture: np.ndarray) -> torch.Tensor:
    """The batch (2, 3, H, W) for a panorama (H, W, 3): itself and its mirror image, left and right
    exchanged. The network's errors in the two are partly independent."""
    seen = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    return torch.stack([seen, seen.flip(-1)]).contiguous(memory_format=torch.channels_last)


def finish(maps: dict[str, torch.Tensor]) -> Prediction:
    """What the network says of `with_mirror_image`, as the arrays that `Prediction` defines.

    Both answers, the second one mirrored back, are averaged as the network gives them: encoded
    colours, vectors, log depths and logits, (2, C, H, W) to (H, W[, C]).
    """
    result: Prediction = {}
    for name, (own, mirrored) in maps.items():
        other = mirrored.flip(-1)
        if name == "normal":
            other[0] *= -1  # east
        array = ((own + other) / 2).permute(1, 2, 0).numpy()
        if name == "albedo":
            result["albedo"] = np.ascontiguousarray(array)
        elif name == "normal":
            unit = array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-6)
            result["normal"] = to_world(unit)
        elif name == "log_depth":
            result["depth"] = np.exp(array[..., 0])
        else:
            result[name] = 1.0 / (1.0 + np.exp(-array[..., 0]))
    return result


def to_world(normal: np.ndarray) -> np.ndarray:
    """Unit normals (H, W, 3) from the gravity frame to Blender's, turned towards the viewer.

    A normal that faces away is bent back to a grazing one, not negated: it is off by the little
    that it faces away, and not by almost half a turn.
    """
    height, width = normal.shape[:2]
    world = np.einsum("hwji,hwj->hwi", frames.gravity_basis(height, width), normal)
    rays = frames.directions(height, width)
    away = np.einsum("hwi,hwi->hw", world, rays)[..., None]
    world = world - np.maximum(away + _GRAZING, 0.0) * rays
    return world / np.linalg.norm(world, axis=-1, keepdims=True)


def verify(weights: Path) -> dict[str, Any]:
    """Compare every weight file with the SHA-256 in the card, and return the card.

    Raises OmnixError naming the file.
    """
    file = weights / CARD
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
        expected, height = dict(card["sha256"]), int(card["height"])
        if height <= 0 or height % STRIDE:
            raise ValueError(height)
    except FileNotFoundError as error:
        raise OmnixError(f"{file} is missing; install the extension again.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OmnixError(f"{file} is damaged; install the extension again.") from error
    for name in [BASE, *(f"{task}.safetensors" for task in TASKS)]:
        file = weights / name
        if not file.is_file():
            raise OmnixError(f"{file} is missing; install the extension again.")
        if sha256(file) != expected.get(name):
            raise OmnixError(
                f"{file} is truncated or altered (its SHA-256 is not the one in {CARD}); "
                "install the extension again."
            )
    return card


def measure_effects(network: CompactNetwork) -> dict[str, Effect]:
    """What each adapter changes in its own task's head on a fixed probe panorama."""
    panorama = torch.from_numpy(probe(_PROBE_HEIGHT).transpose(2, 0, 1).copy())[None]
    tasks = list(TASKS)
    result = {}
    with torch.inference_mode():
        features, moved = network.encode(panorama), network.encode(nudged(panorama))
        for index, task in enumerate(tasks):

            def run(
                name: str | None, task: str = task, features: Features = features
            ) -> torch.Tensor:
                activate(network, name)
                return network.heads[task](network.decoder(features))

            other = tasks[(index + 1) % len(tasks)]
            result[task] = effects(run, [task, other], run(None, features=moved))[task]
    return result


def probe(height: int) -> np.ndarray:
    """A fixed panorama (H, 2H, 3) with a floor, a ceiling and coloured stripes for walls."""
    rays = frames.directions(height, 2 * height)
    stripes = 0.5 + 0.3 * np.sin(rays @ np.array([[5, 3, 2], [2, 7, 4], [9, 1, 6]], np.float32))
    shade = 0.5 + 0.5 * rays[..., 2:]
    return np.clip(stripes * (0.4 + 0.6 * shade), 0.0, 1.0).astype(np.float32)

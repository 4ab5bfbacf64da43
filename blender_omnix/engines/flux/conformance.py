# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m blender_omnix conformance DIR`: this engine against recorded outputs.

DIR holds what the official OmniX code computed on some FLUX model: `conformance.json` (height,
width, num_inference_steps, guidance_scale, blend_extend, rank, modules_per_adapter, tasks),
`model/`, `adapters/`, `inputs.safetensors` and, per task, `expected_<task>.safetensors` with the
noise it drew, its condition latents, target latents and image. Everything runs in float32 on the
CPU; nothing is written.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING

import numpy as np

from ...adapters.find import PUBLISHED_NAME
from ...errors import OmnixError

if TYPE_CHECKING:
    import torch

Shape = tuple[int | EllipsisType, ...] | EllipsisType

TOLERANCE = 1e-4
PANORAMA_KEY = "panorama_u8"
_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)
AGREES, DIFFERS, NOTHING_COMPARED = 0, 1, 2


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences of one task; infinite where shapes differ."""

    task: str
    condition_latents: float
    target_latents: float
    target_image: float

    @property
    def values(self) -> tuple[float, float, float]:
        return self.condition_latents, self.target_latents, self.target_image

    @property
    def agrees(self) -> bool:
        # NaN agrees with nothing.
        return all(value <= TOLERANCE for value in self.values)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the command line's subparsers."""
    parser = subparsers.add_parser(
        "conformance",
        help="compare the flux engine with recorded outputs of the official code",
        description=f"Exit 0 when all differences are at most {TOLERANCE:g}, 1 when one is larger "
        "or a task fails, 2 when nothing was compared.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a recorded set")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one line per task; returns the exit code."""
    try:
        recording = read(args.folder)
        runner = Runner(recording)
    except OmnixError as error:
        print(f"Nothing was compared: {error}", file=sys.stderr)
        return NOTHING_COMPARED
    print(f"{'task':<24}{'condition latents':>19}{'target latents':>19}{'target image':>19}")
    compared = agreed = failed = 0
    for task in recording.tasks:
        if not recording.expected(task).is_file():
            print(f"{task:<24}  not recorded")
            continue
        try:
            difference = runner.compare(task)
        except OmnixError as error:
            failed += 1
            print(f"{task:<24}  failed: {error}")
            continue
        compared += 1
        agreed += difference.agrees
        verdict = "" if difference.agrees else "  differs"
        print(f"{task:<24}" + "".join(f"{x:>19.2e}" for x in difference.values) + verdict)
    if not compared and not failed:
        print(f"Nothing was compared: {args.folder} records no task.", file=sys.stderr)
        return NOTHING_COMPARED
    print(f"{agreed} of {compared + failed} tasks agree within {TOLERANCE:g}")
    return AGREES if agreed == compared + failed else DIFFERS


@dataclass(frozen=True)
class Recording:
    """A recorded set: `conformance.json` parsed, and where the rest lies."""

    folder: Path
    height: int
    width: int
    steps: int
    guidance: float
    wrap_columns: int
    rank: int
    modules: int
    tasks: dict[str, tuple[str, ...]]

    def expected(self, task: str) -> Path:
        return self.folder / f"expected_{task}.safetensors"

    def adapter(self, task: str, name: str) -> Path:
        return self.folder / "adapters" / task / name / PUBLISHED_NAME


def read(folder: Path) -> Recording:
    """Parse `conformance.json`. Raises OmnixError when it is missing or lacks a parameter."""
    from .pipeline import MAX_STEPS

    file = folder / "conformance.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))

        def whole(key: str, least: int = 1, most: float = math.inf) -> int:
            value = values[key]
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{key} is {value!r}")
            return value

        return Recording(
            folder=folder,
            height=whole("height"),
            width=whole("width"),
            steps=whole("num_inference_steps", most=MAX_STEPS),
            guidance=float(values["guidance_scale"]),
            wrap_columns=whole("blend_extend", 0),
            rank=whole("rank"),
            modules=whole("modules_per_adapter"),
            tasks={task: _adapters(task, names) for task, names in values["tasks"].items()},
        )
    except OSError:
        raise OmnixError(f"{file} cannot be read; choose a recorded set.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OmnixError(f"{file} is no description of a recorded set ({error!r}).") from None


def _adapters(task: str, names: object) -> tuple[str, ...]:
    """A task's adapters. Names become parts of paths: raises ValueError for any that cannot be."""
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in (task, *names))
        or not 2 <= len(names) == len(set(names))
    ):
        raise ValueError(f"the adapters of {task!r:.80} are {names!r:.80}")
    return tuple(names)


class Runner:
    """State: the recorded model, with the adapters of the tasks compared so far."""

    def __init__(self, recording: Recording) -> None:
        """Read the model. Raises OmnixError when it or the inputs cannot be read."""
        import torch

        from . import autoencoder, components, conditions, pipeline, prompt, sampler

        # One thread adds up in one order on any machine, and for models this small is the fastest.
        torch.set_num_threads(1)
        size = recording.height, recording.width
        inputs = _tensors(
            recording.folder / "inputs.safetensors",
            {
                PANORAMA_KEY: (*size, 3),
                prompt.TOKENS_KEY: (1, ..., ...),
                prompt.POOLED_KEY: (1, ...),
            },
        )
        self._recording = recording
        self._parts = components.load(recording.folder / "model", torch.float32)
        factor = autoencoder.reduction(self._parts.vae)
        self._latent_size = size[0] // factor, size[1] // factor
        columns = recording.wrap_columns
        if (
            any(pixels % (factor * pipeline.PATCH) for pixels in size)
            or columns % pipeline.PATCH
            or columns > self._latent_size[1]
        ):
            raise OmnixError(
                f"{recording.folder} describes a panorama of {size[1]} x {size[0]} pixels with "
                f"{columns} columns appended, which the model cannot take."
            )
        self._sampler = sampler.Sampler(
            self._parts,
            prompt.Prompt(inputs[prompt.TOKENS_KEY], inputs[prompt.POOLED_KEY]),
            recording.guidance,
        )
        self._images = {
            "rgb": conditions.rgb(inputs[PANORAMA_KEY].numpy() / np.float32(255)),
            "camray": conditions.camera_rays(*size),
        }

    def compare(self, task: str) -> Difference:
        """Run one task on the recorded noise. Raises OmnixError when it cannot be run."""
        import torch

        from . import autoencoder

        recording = self._recording
        names = recording.tasks[task]
        if unknown := [name for name in names[:-1] if name not in self._images]:
            raise OmnixError(f"no image is recorded for the condition {unknown[0]}")
        element = self._sampler.noise_shape(*self._latent_size)
        expected = _tensors(
            recording.expected(task),
            {
                "target_noise": element,
                "posterior_noise": (len(names) - 1, *element[1:]),
                "condition_latents": ...,
                "target_latents": ...,
                "target_image": ...,
            },
        )
        drawn = expected["posterior_noise"].split(1)
        self._add(task)

        conditions = torch.cat(
            [
                # The official code lets the autoencoder tile what exceeds its sample size.
                autoencoder.encode(self._parts.vae, self._images[name], noise, tiled=True)
                for name, noise in zip(names[:-1], drawn, strict=True)
            ]
        )
        latents = self._sampler.sample(
            task,
            conditions,
            expected["target_noise"],
            steps=recording.steps,
            wrap_columns=recording.wrap_columns,
        )
        image = autoencoder.decode(self._parts.vae, latents)
        return Difference(
            task,
            _largest(conditions, expected["condition_latents"]),
            _largest(latents, expected["target_latents"]),
            _largest(image, expected["target_image"]),
        )

    def _add(self, task: str) -> None:
        recording = self._recording
        files = {name: recording.adapter(task, name) for name in recording.tasks[task]}
        for name, (injected, _effect) in self._sampler.add(task, files).items():
            found = injected.inspection.ranks, injected.modules
            if found != ([recording.rank], recording.modules):
                raise OmnixError(
                    f"{files[name]} has ranks {found[0]} and {found[1]} modules, not rank "
                    f"{recording.rank} and {recording.modules} modules"
                )


def _tensors(file: Path, shapes: Mapping[str, Shape]) -> dict[str, torch.Tensor]:
    """Tensors of a file, each of its shape; `...` stands for any size, or any shape.

    The panorama is of bytes, all others of floats, and come in float32.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise OmnixError(f"{file} cannot be read ({error})") from None
    if missing := [key for key in shapes if key not in tensors]:
        raise OmnixError(f"{file} lacks {', '.join(missing)}")
    for key, shape in shapes.items():
        kind, found = tensors[key].dtype, tuple(tensors[key].shape)
        if not (kind == torch.uint8 if key == PANORAMA_KEY else kind.is_floating_point):
            raise OmnixError(f"{key} in {file} holds {kind}, which it cannot be recorded in")
        if shape is not ... and (
            len(found) != len(shape)
            or any(size not in (..., have) for size, have in zip(shape, found, strict=True))
        ):
            wanted = ", ".join("any" if size is ... else str(size) for size in shape)
            raise OmnixError(f"{key} in {file} is {list(found)}, not [{wanted}]")
    return {key: tensors[key] if key == PANORAMA_KEY else tensors[key].float() for key in shapes}


def _largest(result: torch.Tensor, recorded: torch.Tensor) -> float:
    if result.shape != recorded.shape:
        return math.inf
    return float((result - recorded).abs().max())

# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the averaged weights of a training run as the files that the compact engine reads.

python -m training.export RUN [--to FOLDER]

A map that the network guesses no better than one value everywhere would, on the validation scenes,
is entered into the card as that constant; the engine then yields it and says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from blender_omnix import __version__
from blender_omnix.adapters.check import ADAPTED
from blender_omnix.engines.base import Prediction
from blender_omnix.engines.compact.engine import BASE, CARD, WEIGHTS, CompactEngine
from blender_omnix.engines.compact.network import TASKS, adapted_modules
from blender_omnix.panorama import resample, tonemap, weighted

from . import lora, losses, metrics
from .dataset import HEIGHT, Scene, read, scene_files, under
from .evaluate import truth_of
from .train import Model, load_average

# A surface is metal or it is not: the engine multiplies the logit, once it is raised, by this.
METAL_GAIN = 4.0
FITTED = ("roughness", "metallic")  # maps whose readout is fitted on validation scenes
RAISES = np.arange(0.0, 3.01, 0.25)  # beyond the logit of a probability

PEFT_PREFIX = "base_model.model."

Readout = Callable[[np.ndarray], Prediction]  # of an sRGB-encoded picture


def write(model: Model, folder: Path, about: dict) -> None:
    """Writes base, adapters and card, half precision; the card carries ``about``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {BASE: model.network.state_dict()}
    for task in TASKS:
        adapter = lora.tensors(model.adapters[task])
        files[f"{task}.safetensors"] = {PEFT_PREFIX + k: v for k, v in adapter.items()}
    digests = {}
    for name, tensors in files.items():
        partial = folder / f"{name}.part"
        metadata = {ADAPTED: json.dumps(adapted_modules(model.network))} if name == BASE else None
        data = save({k: v.to(torch.float16).contiguous() for k, v in tensors.items()}, metadata)
        partial.write_bytes(data)
        os.replace(partial, folder / name)
        digests[name] = hashlib.sha256(data).hexdigest()
    card = about | {"sha256": digests}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def predictor(weights: Path) -> Readout:
    """What the engine says of roughness and metal with these weights, at the picture's size."""
    engine = CompactEngine(weights)
    engine.load(lambda _stage, _fraction: None)

    def predict(picture: np.ndarray) -> Prediction:
        found = engine.predict(picture, FITTED, lambda *_: None, lambda: False)
        # Their size is the picture's, unless the weights were exported for another one.
        return {name: resample.upsample(found[name], picture, kind="scalar") for name in FITTED}

    return predict


def constants(predict: Readout, scenes: list[Scene]) -> dict[str, float]:
    """The values, by map, that are no worse than `predict` on the scenes.

    Roughness is compared with its median over all scenes, metallic with 0, by the mean absolute
    error, weighted by solid angle, the sky left out.
    """
    true: dict[str, list[np.ndarray]] = {"roughness": [], "metallic": []}
    guessed: dict[str, list[np.ndarray]] = {"roughness": [], "metallic": []}
    areas = []
    for scene in scenes:
        truth = truth_of(scene)
        picture, _ = tonemap.expose(under(scene, 0))
        maps = predict(picture)
        areas.append(metrics.area(truth["valid"]).ravel())
        for name, values in true.items():
            values.append(truth[name].ravel())
            guessed[name].append(maps[name].ravel())
    area = np.concatenate(areas)
    found = {}
    for name, values in true.items():
        truth, guess = np.concatenate(values), np.concatenate(guessed[name])
        value = 0.0 if name == "metallic" else round(weighted.median(truth, area), 3)
        error = metrics.average(np.abs(guess - truth), area)
        if metrics.average(np.abs(value - truth), area) <= error:
            found[name] = value
    return found


def calibrate_metal(predict: Readout, scenes: list[Scene]) -> float:
    """By how much to raise the logit of metal for the most metal that is worth drawing.

    Raised, more metal is found and more is false: this is the raise with the best F1 over the
    scenes of all that leave the decision at 0, by the mean absolute error, nearer to the truth than
    no metal at all. Where none does it is what turns the logit into a probability: training counts
    a metal pixel 1 + METAL_WEIGHT times, which multiplies the odds by as much.
    """
    logits, true, areas = [], [], []
    for scene in scenes:
        truth = truth_of(scene)
        picture, _ = tonemap.expose(under(scene, 0))
        share = np.clip(predict(picture)["metallic"], 1e-6, 1.0 - 1e-6)
        logits.append(np.log(share / (1.0 - share)).ravel())
        true.append(truth["metallic"].ravel())
        areas.append(metrics.area(truth["valid"]).ravel())
    logit, metal, area = (np.concatenate(parts) for parts in (logits, true, areas))
    none = metrics.average(metal, area)
    best, raised = 0.0, -math.log(1.0 + losses.METAL_WEIGHT)
    for step in raised + RAISES:
        found = (logit + step > 0).astype(np.float32)
        score = metrics.metal_f1(found, metal, area)
        if score > best and metrics.average(np.abs(found - metal), area) < none:
            best, raised = score, float(step)
    return raised


def describe(state: dict) -> dict:
    """Where weights come from: version, code, data and compute of the run's checkpoint."""
    last = state["history"][-1] if state["history"] else {}
    end = {"step": state["step"], "samples": state["samples"], "height": state["recipe"]["height"]}
    return {
        "version": __version__,
        "licence": "CC0-1.0",
        "code": _commit(),
        "command": command(state),
        "grown_from": state["origin"],
        "stages": stages([*state["history"], end]),
        "data": "scenes rendered by python -m training.generate --split train",
        "scenes": last.get("scenes"),
        "steps": state["step"],
        "samples": state["samples"],
        **compute(state),
        "height": state["recipe"]["height"],
        "recipe": state["recipe"],
    }


def compute(state: dict) -> dict:
    """The device of the training and the hours that it took: of the cores of the processes that
    train, not of workers that draw their batches; or of a GPU."""
    if state["device"] == "cpu":
        return {"device": "cpu", "cpu_hours": round(state["cpu_seconds"] / 3600, 2)}
    return {"device": state["device"], "gpu_hours": round(state["seconds"] / 3600, 2)}


def command(state: dict) -> str:
    """The call that trains the same again, given the same scenes and, where grown, weights; on a
    GPU, whose sums are not repeated exactly, nearly the same."""
    recipe = state["recipe"]
    words = ["python -m training.train --out RUN"]
    words += [f"--seed {state['seed']} --steps {state['step']} --height {recipe['height']}"]
    words += [f"--batch {recipe['batch']} --rate {recipe['learning_rate']:g}"]
    words += [f"--processes {recipe['processes']}"] if recipe["processes"] > 1 else []
    words += ["--device cuda"] if state["device"] != "cpu" else []
    words += [f"--workers {recipe['workers']}"] if recipe["workers"] else []
    if state["origin"]:
        words += ["--grow WEIGHTS", *(["--drop"] * ("drop" in state["origin"]))]
        words += state["origin"].get("drop", [])
    return " ".join(words)


def stages(history: list[dict]) -> list[dict]:
    """Height, batch and the last step and sample of each stretch of training at one size."""
    result: list[dict] = []
    for before, entry in zip([{"step": 0, "samples": 0}, *history], history, strict=False):
        if entry["step"] == before["step"]:
            continue
        height = entry.get("height", HEIGHT)
        if not result or result[-1]["height"] != height:
            result.append({"height": height})
        batch = (entry["samples"] - before["samples"]) / (entry["step"] - before["step"])
        result[-1] |= {"batch": round(batch), "step": entry["step"], "samples": entry["samples"]}
    return result


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of the checkpoint")
    parser.add_argument("--to", type=Path, default=WEIGHTS)
    parser.add_argument("--height", type=int, help="of the network's input, if not as trained")
    options = parser.parse_args(arguments)
    scenes = [read(path) for path in scene_files("val")]
    if not scenes:
        command = "python -m training.generate --split val --count 40"
        parser.error(f"render validation scenes first: {command}")
    try:
        model, state = load_average(options.run)
    except ValueError as error:
        sys.exit(str(error))
    about = describe(state)
    if options.height:
        about["height"] = options.height
    options.to.mkdir(parents=True, exist_ok=True)
    # Not in place before it is done: without their calibration weights pass for finished ones.
    with tempfile.TemporaryDirectory(dir=options.to.parent) as folder:
        draft = Path(folder)
        write(model, draft, about)
        raised = calibrate_metal(predictor(draft), scenes)
        about["metal"] = {"raised": raised, "gain": METAL_GAIN}
        write(model, draft, about)
        about["constants"] = constants(predictor(draft), scenes)
        write(model, draft, about)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == CARD):
            os.replace(file, options.to / file.name)


if __name__ == "__main__":
    main()

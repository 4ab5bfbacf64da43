# SPDX-License-Identifier: GPL-3.0-or-later
"""Trains the compact network and its task adapters, all jointly from the first step.

    python -m training.train --out DIR --minutes 60

Stops after the minutes (of wall time) or steps given, counted over all runs into DIR; running it
again goes on from the last checkpoint. Scenes rendered meanwhile are picked up as they appear.
Most is learnt at half size (``--height 64``), where a sample costs less, but it does not carry
over by itself: go on at full size. ``--grow FOLDER`` starts a new run from exported weights, also
of a narrower network. ``--processes N`` averages the gradients of N processes, a core each. On GPUs
(``--device cuda``) one process trains and ``--workers N`` draw its batches. The learning rate is
constant, then falls as a cosine to zero over the last part of the run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, distributed, multiprocessing, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from blender_omnix.engines.compact.engine import BASE, verify
from blender_omnix.engines.compact.network import TASKS, CompactNetwork
from blender_omnix.errors import OmnixError

from . import lora, losses
from .dataset import HEIGHT, Scene, Scenes, sample, scene_files, split_folder
from .muon import Muon


@dataclass(frozen=True)
class Recipe:
    """Settings of a run; saved with the checkpoint and named in the weights' card."""

    height: int = HEIGHT  # of the pictures: HEIGHT or half of it
    batch: int = 8  # in each process
    processes: int = 1  # that train together
    workers: int = 0  # processes that draw the batches; 0: the one that trains
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warm_up: int = 200  # steps
    cool_down: float = 0.6  # fraction of the run, at its end
    average: float = 0.995  # decay of the moving average of the weights


class Model(nn.Module):
    """The network and its adapters, with the adapters merged into the decoder's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.network = CompactNetwork()
        self.adapters = nn.ModuleDict({task: lora.create(self.network) for task in TASKS})

    def forward(self, panorama: Tensor) -> dict[str, Tensor]:
        """All maps of all tasks."""
        network = self.network
        features = network.encode(panorama)
        maps: dict[str, Tensor] = {}
        for task in TASKS:
            merged = lora.merge(network, self.adapters[task])
            hidden = functional_call(network.decoder, merged, (features,))
            maps |= network.interpret(hidden, task, panorama)
        return maps


def grow(model: Model, weights: Path, drop: Sequence[str] = ()) -> dict:
    """Fills a new model with exported weights, which may be those of a narrower network.

    A tensor gets the old values in its leading corner and keeps its own fresh ones elsewhere; what
    the old network did not have stays fresh, and modules of the old one named in ``drop`` are not
    taken over. Returns where the old weights and their own ancestors come from, of their card, and
    how many tensors were filled wholly, in part and not at all, and dropped. An old tensor that the
    new network has not or that is larger there than here is a ValueError, and so is a module to
    drop that the old one has not: nothing is left out in silence.
    """
    card = verify(weights)
    old = {f"network.{name}": value for name, value in load_file(weights / BASE).items()}
    for task in TASKS:
        for name, value in load_file(weights / f"{task}.safetensors").items():
            key = name.removeprefix("base_model.model.").replace(".", "/")
            old[f"adapters.{task}.{key}"] = value
    dropped: set[str] = set()
    for module in drop:
        roots = ("network", *(f"adapters.{task}" for task in TASKS))
        heads = tuple(f"{root}.{module}." for root in roots)
        inside = {name for name in old if name.replace("/", ".").startswith(heads)}
        if not inside:
            raise ValueError(f"{weights}: nothing to drop is called {module}")
        dropped |= inside
    old = {name: value for name, value in old.items() if name not in dropped}
    new = model.state_dict()
    unplaced = [n for n, v in old.items() if n not in new or not _holds(new[n], v)]
    if unplaced:
        raise ValueError(f"{weights}: no place in this network for {', '.join(unplaced)}")
    counts = {"whole": 0, "in part": 0, "fresh": len(new) - len(old), "dropped": len(dropped)}
    for name, value in old.items():
        new[name][tuple(slice(size) for size in value.shape)] = value.float()
        counts["whole" if value.shape == new[name].shape else "in part"] += 1
    more = {"drop": list(drop)} if drop else {}
    return lineage(card) | more | {"tensors": counts, "grown_from": card.get("grown_from")}


def lineage(card: dict) -> dict:
    """What a card says of where its weights come from, as runs that grow from them keep it."""
    kept = ("code", "scenes", "samples", "device", "cpu_hours", "gpu_hours")
    return {name: card[name] for name in kept if name in card}


def _holds(large: Tensor, small: Tensor) -> bool:
    """Whether a tensor has room for another along every axis."""
    same_rank = large.ndim == small.ndim
    return same_rank and all(a >= b for a, b in zip(large.shape, small.shape, strict=True))


@dataclass
class Run:
    """All state of a training run."""

    RESUMED = ("seed", "step", "samples", "seconds", "cpu_seconds", "history", "origin")
    CPU = torch.device("cpu")

    folder: Path
    seed: int
    recipe: Recipe
    model: Model
    average: Model
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    origin: dict | None = None  # of the weights that the run started from
    device: torch.device = CPU

    @classmethod
    def open(
        cls,
        folder: Path,
        seed: int,
        recipe: Recipe,
        grow_from: Path | None = None,
        drop: Sequence[str] = (),
        device: torch.device = CPU,
    ) -> Run:
        """Goes on from the folder's checkpoint, or starts anew: from exported weights, if given.

        Raises ValueError where these do not fit, and where the checkpoint is damaged or is of other
        settings, other weights or another device, whose hours would be counted as this one's.
        """
        torch.manual_seed(seed)
        model = Model()
        origin = None
        if grow_from and not (folder / "checkpoint.pt").exists():
            origin = grow(model, grow_from, drop)
        average = Model().requires_grad_(False)
        average.load_state_dict(model.state_dict())
        for each in (model, average):
            each.to(device, memory_format=layout(device))
        steppers = optimizers(model, recipe)
        run = cls(folder, seed, recipe, model, average, steppers, origin=origin, device=device)
        if (folder / "checkpoint.pt").exists():
            # What belongs on the device is copied there; AdamW's counters of steps do not.
            state = checkpoint(folder)
            if state["device"] != device_name(device):
                raise ValueError(f"{folder}: began on {state['device']}; go on there")
            began = state["recipe"] | {"seed": state["seed"]}
            asked = asdict(recipe) | {"seed": seed}
            other = [f"{name} {began[name]}" for name in asked if asked[name] != began[name]]
            if other:
                raise ValueError(f"{folder}: began with {', '.join(other)}; go on with that")
            if (
                grow_from
                and not lineage(verify(grow_from)).items() <= (state["origin"] or {}).items()
            ):
                raise ValueError(f"{folder}: did not begin from {grow_from}")
            model.load_state_dict(state["model"])
            average.load_state_dict(state["average"])
            for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            for name in cls.RESUMED:
                setattr(run, name, state[name])
        return run

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "recipe": asdict(self.recipe),
            "device": device_name(self.device),
        }
        for name in self.RESUMED:
            state[name] = getattr(self, name)
        partial = self.folder / "checkpoint.part"
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, self.folder / "checkpoint.pt")


def layout(device: torch.device) -> torch.memory_format:
    """The memory layout in which a device trains fastest: on GPUs group norm takes only one."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def device_name(device: torch.device) -> str:
    """What the device is called in the card of the weights."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def optimizers(model: Model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions between picture and heads; AdamW for the rest, whose biases and
    scales do not decay."""
    inner, outer, plain = [], [], []
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            plain.append(weight)
        elif name.startswith(("network.encoder.", "network.decoder.")) and ".stem." not in name:
            inner.append(weight)
        else:
            outer.append(weight)
    decay = recipe.weight_decay
    groups = [{"params": outer, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    return [
        Muon(inner, lr=recipe.learning_rate, weight_decay=decay),
        torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98)),
    ]


def checkpoint(folder: Path) -> dict:
    """The checkpoint of a run, on the CPU. Raises ValueError where it is missing or damaged."""
    path = folder / "checkpoint.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is missing or damaged; bring back a copy of it, or begin in another folder."
        ) from error


def load_average(folder: Path) -> tuple[Model, dict]:
    """The averaged model of a run and the rest of its checkpoint. Raises as `checkpoint` does."""
    state = checkpoint(folder)
    model = Model()
    model.load_state_dict(state["average"])
    return model.to(memory_format=torch.channels_last).eval(), state


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """The learning rate at a step that is the fraction `progress` through the run."""
    rate = recipe.learning_rate * min(1.0, (step + 1) / recipe.warm_up)
    cooling = (progress - (1.0 - recipe.cool_down)) / recipe.cool_down
    return rate * 0.5 * (1.0 + math.cos(math.pi * min(max(cooling, 0.0), 1.0)))


def rank() -> int:
    """Number of this process among those that train together."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def share(run: Run, progress: float) -> float:
    """Averages the gradients over the processes; returns the progress of the first process."""
    if processes() == 1:
        return progress
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    first = torch.tensor([progress * processes() if rank() == 0 else 0.0])
    flat = torch.cat([first, *(g.flatten() for g in gradients)])
    distributed.all_reduce(flat)
    flat /= processes()
    offset = 1
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
    return float(flat[0])


def draw(scenes: Sequence[Scene], seed: int, step: int, count: int) -> dict[str, Tensor]:
    """The batch of a step; depends on the seed, the step, the process and these scenes alone."""
    rng = np.random.default_rng([seed, step, rank()])
    chosen = rng.choice(len(scenes), count, replace=count > len(scenes))
    examples = [sample(scenes[i], rng) for i in chosen]
    return {name: torch.from_numpy(np.stack([e[name] for e in examples])) for name in examples[0]}


class Batches(IterableDataset):
    """The batches of a run from its next step on, without end; scenes rendered meanwhile join.

    Each process that draws, one that trains or a worker of it, holds a part of the scenes. Workers
    take turns: that of a step is the same wherever the run was resumed.
    """

    LOOK = 30.0  # seconds between looks for new scenes

    def __init__(self, run: Run, folder: Path | None, limit: int | None) -> None:
        self.run, self.folder, self.limit = run, folder, limit

    def count(self) -> int:
        """How many scenes there are by now."""
        return len(scene_files("train", self.folder, self.limit))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self.run.step + number
        part = {"rank": rank() * workers + first % workers, "of": processes() * workers}
        recipe = self.run.recipe
        scenes = Scenes("train", self.folder, self.limit, recipe.height, **part)
        looked = time.monotonic()
        for step in itertools.count(first, workers):
            if time.monotonic() - looked > self.LOOK:
                scenes.refresh()
                looked = time.monotonic()
            yield draw(list(scenes.scenes.values()), self.run.seed, step, recipe.batch)


def loader(run: Run, folder: Path | None, limit: int | None = None) -> DataLoader:
    """The batches of a run, drawn by its workers, or by this process itself if it has none."""
    pinned = run.device.type == "cuda"
    batches = Batches(run, folder, limit)
    return DataLoader(batches, batch_size=None, num_workers=run.recipe.workers, pin_memory=pinned)


def train_step(
    run: Run, batch: dict[str, Tensor], progress: float
) -> tuple[dict[str, Tensor], float]:
    """One optimiser step; returns the loss of each task and the progress all processes agree on."""
    place = {"device": run.device, "memory_format": layout(run.device), "non_blocking": True}
    batch = {name: value.to(**place) for name, value in batch.items()}
    run.model.zero_grad(set_to_none=True)
    parts = losses.total(run.model(batch["panorama"]), batch)
    torch.stack(list(parts.values())).sum().backward()
    progress = share(run, progress)
    nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    update(run, learning_rate(run.recipe, run.step, progress))
    run.step += 1
    run.samples += len(batch["panorama"]) * processes()
    decay = min(run.recipe.average, run.step / (run.step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(
            list(run.average.parameters()), list(run.model.parameters()), 1.0 - decay
        )
    return {name: value.detach() for name, value in parts.items()}, progress


def update(run: Run, rate: float) -> None:
    """Changes the weights by their gradients."""
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def train(run: Run, batches: DataLoader, *, minutes: float, steps: int) -> None:
    """Trains until the minutes or steps are spent (0 = no limit); logs and saves on the way."""
    # A run that is resumed when it is over takes no further step.
    if max(run.seconds / 60 / minutes if minutes else 0.0, run.step / steps if steps else 0.0) >= 1:
        return
    drawn = iter(batches)
    first = next(drawn)  # the scenes are read by then: that is no training
    started, cpu_started = time.monotonic(), time.process_time()
    before, cpu_before = run.seconds, run.cpu_seconds
    saved = started
    running: dict[str, Tensor] = {}
    for batch in itertools.chain([first], drawn):
        now = time.monotonic()
        run.seconds = before + now - started
        run.cpu_seconds = cpu_before + (time.process_time() - cpu_started) * processes()
        spent = run.seconds / (60 * minutes) if minutes else 0.0
        done = (run.step + 1) / steps if steps else 0.0
        parts, progress = train_step(run, batch, max(spent, done))
        for name, value in parts.items():
            running[name] = value + 0.99 * (running.get(name, value) - value)
        if run.step % 100 == 0 and rank() == 0:
            entry = {
                "step": run.step,
                "samples": run.samples,
                "scenes": batches.dataset.count(),
                "height": run.recipe.height,
                "seconds": round(run.seconds, 1),
                "cpu_seconds": round(run.cpu_seconds, 1),
                **{name: round(float(value), 4) for name, value in running.items()},
            }
            run.history.append(entry)
            print(json.dumps(entry), flush=True)
        if now - saved > 60 and rank() == 0:
            run.save()
            saved = time.monotonic()
        if progress >= 1.0:
            break
    if rank() == 0:
        run.save()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0, help="wall time over all runs")
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps over all runs")
    parser.add_argument("--height", type=int, default=HEIGHT, choices=(HEIGHT // 2, HEIGHT))
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--rate", type=float, default=Recipe.learning_rate, help="learning rate")
    parser.add_argument("--scenes", type=Path, help="folder that holds train/; default OMNIX_DATA")
    parser.add_argument("--limit", type=int, help="use only the first so many scenes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grow", type=Path, help="folder of exported weights to start from")
    parser.add_argument("--drop", nargs="*", default=[], help="modules that are not grown from")
    parser.add_argument("--processes", type=int, default=1, help="that train together")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the batches")
    options = parser.parse_args(arguments)
    if not (options.minutes or options.steps):
        parser.error("give --minutes or --steps")
    if options.processes > 1 and (options.workers or options.device != "cpu"):
        parser.error("--processes is for CPUs and draws its own batches")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this PyTorch finds no CUDA device")
    if options.drop and not options.grow:
        parser.error("--drop says what --grow leaves out")
    if not scene_files("train", options.scenes, options.limit):
        folder = split_folder("train", options.scenes)
        parser.error(f"no scenes in {folder}; render some with python -m training.generate")
    if options.processes == 1:
        work(0, options, None)
        return
    # A termination becomes an ordinary exit, at which the processes below end with this one: else
    # they would go on writing checkpoints into the folder of whoever resumes the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        multiprocessing.spawn(work, (options, meeting), nprocs=options.processes, daemon=True)


def work(number: int, options: argparse.Namespace, meeting: Path | None) -> None:
    """Trains in this process, together with the others that meet at a file."""
    torch.set_num_threads(options.threads)
    if meeting is not None:
        distributed.init_process_group(
            "gloo", f"file://{meeting}", rank=number, world_size=options.processes
        )
    torch.backends.cudnn.benchmark = True
    recipe = Recipe(
        height=options.height,
        batch=options.batch,
        processes=options.processes,
        workers=options.workers,
        learning_rate=options.rate,
    )
    device = torch.device(options.device)
    try:
        run = Run.open(options.out, options.seed, recipe, options.grow, options.drop, device)
    except (OmnixError, ValueError) as error:
        sys.exit(str(error))
    batches = loader(run, options.scenes, options.limit)
    train(run, batches, minutes=options.minutes, steps=options.steps)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-3.0-or-later
"""What an extraction costs: `python benchmarks/bench.py [--out FILE] [--sizes 1024,2048,4096]`.

Prints Markdown tables of

- seconds and peak memory of `extract` on one of Blender's own panoramas enlarged to each size, by
  stage, each size in a process of its own. Seconds are also given as multiples of the time to
  write one float RGB EXR of that size, measured in this run, which other machines can compare;
- the worker: memory before, after and with the model, a second job against the first, cancel;
- the host: time to import and register the add-on, and the longest that Blender's main thread is
  busy with a job while it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from blender_omnix import images, maps  # noqa: E402
from blender_omnix.panorama import resample  # noqa: E402
from blender_omnix.worker.client import WorkerClient  # noqa: E402

SIZES = (1024, 2048, 4096)
# Report stages, gathered into the table's columns.
COLUMNS = {
    "read": ("Reading",),
    "load": ("Loading Engine", "Loading Compact"),
    "network": ("Albedo", "Normal", "PBR", "Depth"),
    "upsample": ("Upsampling",),
    "emission": ("Emission",),
    "check": ("Checking",),
    "save": ("Saving",),
}
REGISTRATIONS = 5
WORKER = "blender_omnix.worker.server"


def shipped_panorama() -> Path:
    """`interior.exr`, 1024 x 512, from Blender's own studio lights."""
    import importlib.util

    spec = importlib.util.find_spec("bpy")
    if spec is None or spec.origin is None:
        sys.exit("bpy is not installed; run `make bench`, which installs it.")
    folder = Path(spec.origin).parent
    return next(folder.glob("*/datafiles/studiolights/world/interior.exr"))


def enlarged(source: Path, width: int, folder: Path) -> Path:
    """The panorama at another width, as a half EXR."""
    pixels = images.read_raw(source)[..., :3]
    file = folder / f"interior {width}.exr"
    images.write(file, resample.resize(pixels, width // 2, width), "half")
    return file


def seconds_to_write(width: int, folder: Path) -> float:
    """Median time to write one float RGB EXR of the panorama's size: the unit of the ratios."""
    pixels = np.random.default_rng(0).random((width // 2, width, 3), np.float32)
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        images.write(folder / "unit.exr", pixels, "float")
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def bench_extract(sizes: list[int], folder: Path) -> list[str]:
    """One row per size, from the reports of the command line."""
    rows = [
        "## Extract",
        "",
        "| size | " + " | ".join(f"{name} s" for name in COLUMNS) + " | total s | EXR writes "
        "| peak MB |",
        "| --- |" + " ---: |" * (len(COLUMNS) + 3),
    ]
    for width in sizes:
        file = enlarged(shipped_panorama(), width, folder)
        out = folder / f"maps {width}"
        command = [sys.executable, "-m", "blender_omnix", "extract", str(file), "--out", str(out)]
        began = time.perf_counter()
        subprocess.run([*command, "--quiet"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        total = time.perf_counter() - began
        report = maps.read_report(out)
        unknown = set(report["seconds"]) - {stage for names in COLUMNS.values() for stage in names}
        if unknown:
            sys.exit(f"The report names stages that the table lacks: {sorted(unknown)}.")
        stages = [
            f"{sum(report['seconds'].get(stage, 0.0) for stage in names):.2f}"
            for names in COLUMNS.values()
        ]
        rows.append(
            f"| {width} x {width // 2} | {' | '.join(stages)} | {total:.2f} "
            f"| {total / seconds_to_write(width, folder):.1f} | {report['memory_mb']:.0f} |"
        )
    return [*rows, "", "Total is the whole process, with starting Python."]


def resident_mb(pid: int) -> float | None:
    """Resident memory of a process; None where there is no /proc."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@contextmanager
def real_worker(folder: Path) -> Iterator[WorkerClient]:
    client = WorkerClient(sys.executable, ROOT, WORKER, folder / "state")
    try:
        yield client
    finally:
        client.close()


def wait(client: WorkerClient, *kinds: str) -> dict[str, Any]:
    """The next event of these kinds. Ends the program with the worker's sentence on a failure."""
    while True:
        for event in client.poll():
            if event["type"] in kinds:
                return event
            if event["type"] == "failed":
                sys.exit(event["message"])
        time.sleep(0.002)


def bench_worker(folder: Path) -> list[str]:
    """Memory of one worker over its life, and how fast it answers."""
    file = str(shipped_panorama())
    with real_worker(folder) as client:
        began = time.perf_counter()
        client.start()
        pid = wait(client, "hello")["pid"]
        start = time.perf_counter() - began
        memory = {"started": resident_mb(pid)}
        jobs = []
        for name in ("first", "second"):
            client.extract(name, file, str(folder / name), {})
            jobs.append(wait(client, "done")["seconds"])
        memory["idle, model warm"] = resident_mb(pid)
        client.extract("cancelled", file, str(folder / "cancelled"), {})
        wait(client, "progress")
        began = time.perf_counter()
        client.cancel("cancelled")
        wait(client, "cancelled")
        cancel = time.perf_counter() - began
        client.unload()
        wait(client, "unloaded")
        memory["idle, model unloaded"] = resident_mb(pid)
    rows = [
        ("start to hello", f"{start:.2f} s"),
        ("first job, 1024 x 512", f"{jobs[0]:.2f} s"),
        ("second job, model warm", f"{jobs[1]:.2f} s ({jobs[1] / jobs[0]:.2f} of the first)"),
        ("cancel to its answer", f"{cancel:.2f} s"),
    ]
    rows += [
        (f"memory, {state}", "n/a" if used is None else f"{used:.0f} MB")
        for state, used in memory.items()
    ]
    return table("Worker", rows)


def bench_host(folder: Path) -> list[str]:
    """Figures that a bpy process of its own measures; see `measure_host`."""
    found: list[dict[str, Any]] = []
    for index in range(REGISTRATIONS):
        profile = folder / f"profile {index}"
        extensions = profile / "extensions" / "user_default"
        extensions.mkdir(parents=True)
        (extensions / "blender_omnix").symlink_to(ROOT, target_is_directory=True)
        answer = folder / f"host {index}.json"
        command = [sys.executable, __file__, "--measure-host", str(answer)]
        if index == 0:
            command += ["--job", str(folder / "host maps")]
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"BLENDER_USER_RESOURCES": str(profile)},
        )
        found.append(json.loads(answer.read_text()))
    job = found[0]
    registered = zip(*(figures["register"] for figures in found), strict=True)
    register = [statistics.median(seconds) for seconds in registered]
    rows = [
        (f"import and register, median of {REGISTRATIONS} processes", both(register)),
        ("start a job, with the process", both(job["start"])),
        (f"longest of {job['ticks']} ticks while it runs", f"{1000 * job['longest']:.2f} ms"),
        ("mean tick", f"{1000 * job['mean']:.2f} ms"),
        ("build the place at the end", both(job["build"])),
    ]
    return table("Blender's main thread", rows)


def both(seconds: Sequence[float]) -> str:
    """The clock's time, and the processor's, which other load does not stretch."""
    return f"{1000 * seconds[0]:.0f} ms ({1000 * seconds[1]:.0f} ms of processor time)"


def measure_host(answer: Path, out: Path | None) -> None:
    """In bpy: time `register`, and with `out` every tick of one job on the shipped HDRI."""
    import importlib

    import bpy

    name = "bl_ext.user_default.blender_omnix"
    # What enabling adds to Blender's own reading of all extensions' manifests.
    figures: dict[str, Any] = {
        "register": timed(lambda: importlib.import_module(name).register()),
    }
    importlib.import_module(name).unregister()
    bpy.ops.preferences.addon_enable(module=name)
    if name not in bpy.context.preferences.addons:
        sys.exit("The add-on could not be enabled.")
    if out is not None:
        job = importlib.import_module(f"{name}.blender_omnix.host.job")
        source = importlib.import_module(f"{name}.blender_omnix.host.source")
        started = job.Job(
            source=source.from_file(str(shipped_panorama())),
            folder=out,
            camera_height=1.6,
            build=False,
            scene=bpy.context.scene.name,
            notes=[],
        )
        figures["start"] = timed(lambda: job.start(bpy.context, started, {}))
        ticks = []
        while started.state == job.RUNNING:
            time.sleep(job.INTERVAL)
            ticks.append(timed(job.advance)[0])
        if started.state != job.DONE:
            sys.exit(started.message)
        figures |= {"longest": max(ticks), "mean": statistics.mean(ticks), "ticks": len(ticks)}
        figures["build"] = timed(lambda: bpy.ops.omnix.load_maps(directory=str(out)))
    bpy.ops.preferences.addon_disable(module=name)
    answer.write_text(json.dumps(figures))


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of this process's processor time."""
    began, began_cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - began_cpu


def table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    return [f"## {title}", "", "| what | figure |", "| --- | ---: |"] + [
        f"| {what} | {figure} |" for what, figure in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables here too")
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(part) for part in text.split(",")],
        default=list(SIZES),
        metavar="A,B,...",
        help="widths of the panoramas (default: %(default)s)",
    )
    parser.add_argument("--measure-host", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_host is not None:
        measure_host(args.measure_host, args.job)
        return
    with tempfile.TemporaryDirectory(prefix="omnix-bench-") as name:
        folder = Path(name)
        parts = [
            [f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} CPUs"],
            bench_extract(args.sizes, folder),
            bench_worker(folder),
            bench_host(folder),
        ]
    text = "\n\n".join("\n".join(part) for part in parts) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

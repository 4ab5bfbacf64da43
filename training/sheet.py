# SPDX-License-Identifier: GPL-3.0-or-later
"""A contact sheet of generated scenes: `python -m training.sheet FOLDER --out sheet.png`.

One scene a row: three of its lighting conditions, albedo, normal, roughness, metallic, depth,
object pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from blender_omnix.panorama import tonemap

from .dataset import Scene, read, under
from .evaluate import panel, sheet, truth_of


def row(scene: Scene, lights: list[int]) -> list[np.ndarray]:
    """The pictures of one scene, sRGB-encoded (H, W, 3)."""
    truth = truth_of(scene)
    seen = [tonemap.expose(under(scene, light))[0] for light in lights]
    objects = np.repeat(truth["object"][..., None].astype(np.float32), 3, -1)
    return [*seen, *panel(truth, truth["valid"]), objects]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first scenes")
    parser.add_argument("--lights", type=int, nargs="+", default=[0, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    options = parser.parse_args(arguments)
    files = sorted(options.folder.glob("*.npz"))[options.skip : options.skip + options.count]
    if not files:
        print(f"{options.folder}: no scenes here", file=sys.stderr)
        return 1
    try:
        scenes = [read(file) for file in files]
    except ValueError as error:
        sys.exit(str(error))
    rows = [(f"{s.meta['seed']} {s.meta['style']}", row(s, options.lights)) for s in scenes]
    sheet(rows, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

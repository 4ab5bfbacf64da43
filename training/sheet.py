# SPDX-License-Identifier: GPL-3.0-or-later
"""A contact sheet of generated scenes: `python -m training.sheet FOLDER --out sheet.png`.

One scene a row: three of its lighting conditions, albedo, normal, roughness, metallic, depth,
object pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def picture(radiance: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One lighting condition exposed and sRGB-encoded: components (K, H, W, 3), weights (K, 3)."""
    linear = (radiance.astype(np.float32) * weights[:, None, None, :]).sum(0)
    luminance = linear.mean(-1)
    lit = luminance[luminance > 0.02 * luminance.mean()]
    linear = linear * (0.18 / max(1e-6, float(np.exp(np.log(lit + 1e-4).mean()))))
    linear = linear * (1 + linear / 9) / (1 + linear)
    return np.clip(linear, 0, 1) ** (1 / 2.2)


def row(path: Path, lights: tuple[int, ...]) -> tuple[np.ndarray, dict]:
    """One scene's strip of pictures (H, n W, 3) in 0..1, and its meta data."""
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    meta = json.loads(str(data["meta"]))
    depth = data["depth"].astype(np.float32)
    inverse = np.where(depth > 0, 1 / np.maximum(depth, 0.1), 0)
    scale = np.percentile(inverse[depth > 0], 98) if (depth > 0).any() else 1.0
    pbr = data["pbr"] / 255.0
    grey = [pbr[..., 0], pbr[..., 1], np.clip(inverse / scale, 0, 1), data["object"].astype(float)]
    strip = [picture(data["radiance"], data["lights"][k % len(data["lights"])]) for k in lights]
    strip += [data["albedo"] / 255.0, data["normal"] / 254.0 + 0.5]
    strip += [np.repeat(g[..., None], 3, axis=-1) for g in grey]
    return np.concatenate(strip, axis=1), meta


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
    strips = [row(file, tuple(options.lights)) for file in files]
    sheet = Image.fromarray((np.concatenate([s for s, _ in strips]) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(sheet)
    height = strips[0][0].shape[0]
    for k, (_, meta) in enumerate(strips):
        draw.text((3, k * height + 2), f"{meta['seed']} {meta['style']}", fill=(255, 60, 60))
    sheet.save(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

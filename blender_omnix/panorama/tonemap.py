# SPDX-License-Identifier: GPL-3.0-or-later
"""From linear radiance to the sRGB-encoded picture that the engines see.

One curve serves HDR and LDR sources. Values up to the knee are kept; above it an extended Reinhard
shoulder (Reinhard et al. 2002, "Photographic Tone Reproduction for Digital Images", equation 4)
brings the white point to exactly 1. With the white point at 1 the curve is the identity, which
is how an already encoded picture passes unchanged.
"""

from __future__ import annotations

import numpy as np

from . import frames, resample, weighted

# Rec. 709 luminance, linear.
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)

KNEE = 0.6
WHITE = 16.0  # times diffuse white: what a scene-referred source shows as pure white
MIDDLE_GREY = 0.18
_BAND = 256  # rows at a time, which bounds the temporaries of an 8192 x 4096 picture


def luminance(linear: np.ndarray) -> np.ndarray:
    """Rec. 709 luminance of linear RGB (..., 3): (...) float32."""
    return np.asarray(linear, np.float32) @ LUMINANCE


def srgb_encode(linear: np.ndarray) -> np.ndarray:
    """Linear Rec. 709 values to sRGB display values (IEC 61966-2-1), float32, clamped to 0..1."""
    return _banded(_encode, linear)


def srgb_decode(encoded: np.ndarray) -> np.ndarray:
    """sRGB display values (clamped to 0..1) to linear Rec. 709, float32."""
    return _banded(_decode, encoded)


def expose_with(linear: np.ndarray, stops: float, white: float = WHITE) -> np.ndarray:
    """The picture taken of linear radiance (..., 3) with a given exposure.

    Radiance times ``2 ** stops`` goes through the shoulder and the sRGB curve; after exposure
    ``white`` (at least 1) and above come out as 1. Returns sRGB-encoded float32 in 0..1.
    """
    if white < 1.0:
        raise ValueError(f"white must be at least 1, not {white}")
    gain = 2.0 ** min(stops, 126.0)  # as large as a float32 can be
    # Capped before the gain is applied: the product may not fit a float32.
    cap, gain = np.float32(white / gain), np.float32(gain)
    return _banded(lambda band: _encode(_shoulder(np.minimum(band, cap) * gain, white)), linear)


def expose(
    linear: np.ndarray, ev: float = 0.0, *, display_referred: bool = False
) -> tuple[np.ndarray, float]:
    """The picture that the engines see, with automatic exposure.

    ``linear`` is (H, W, 3) linear Rec. 709, finite and not negative (``clean.repair``). ``ev`` adds
    stops to the automatic exposure. A ``display_referred`` source (an LDR picture, decoded) was
    exposed by its camera: it gets ``ev`` alone and comes back unchanged at ``ev`` 0, while a rise
    rolls its highlights off instead of clipping them.

    Returns ``(encoded, stops)``: sRGB-encoded float32 (H, W, 3) in 0..1 and the stops applied.
    """
    if display_referred:
        return expose_with(linear, ev, max(1.0, 2.0**ev)), float(ev)
    stops = auto_stops(linear) + ev
    return expose_with(linear, stops), float(stops)


def auto_stops(linear: np.ndarray) -> float:
    """Stops that bring the scene's typical luminance to middle grey.

    Typical is the mean log luminance over the sphere (weighted by solid angle), each pixel's
    luminance first brought within the sphere's 10th to 90th percentile: neither a sun of 1e5 nor
    black pixels move it by more than their area. Three quarters of the sphere stay below diffuse
    white, even so: a white room with black corners is not burnt out.
    """
    height = min(linear.shape[0], 256)
    small = resample.resize(linear, height, 2 * height)
    light = luminance(small).astype(np.float64)
    weight = np.broadcast_to(frames.solid_angles(*light.shape)[:, None], light.shape)
    lit = light > 0
    if not lit.any():
        return 0.0
    light, weight = light[lit], weight[lit]
    low, high, bright = weighted.quantile(light, weight, (0.1, 0.9, 0.75))
    typical = np.average(np.log2(np.clip(light, low, high)), weights=weight)
    stops = np.log2(MIDDLE_GREY) - typical
    return float(min(stops, -np.log2(bright)))


def _shoulder(values: np.ndarray, white: float) -> np.ndarray:
    excess = np.maximum(values - KNEE, 0.0) / (1.0 - KNEE)
    limit = (white - KNEE) / (1.0 - KNEE)
    rolled = excess / (1.0 + excess) * (1.0 + excess / limit**2)
    return np.minimum(values, KNEE) + (1.0 - KNEE) * rolled


def _encode(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0.0, 1.0)
    curve = 1.055 * np.power(np.maximum(linear, 0.0031308), 1.0 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curve)


def _decode(encoded: np.ndarray) -> np.ndarray:
    encoded = np.clip(encoded, 0.0, 1.0)
    curve = np.power((np.maximum(encoded, 0.04045) + 0.055) / 1.055, 2.4)
    return np.where(encoded <= 0.04045, encoded / 12.92, curve)


def _banded(function, image: np.ndarray) -> np.ndarray:
    image = np.asarray(image, np.float32)
    if image.ndim < 2:
        return np.asarray(function(image), np.float32)
    result = np.empty_like(image)
    for start in range(0, len(image), _BAND):
        band = slice(start, start + _BAND)
        result[band] = function(image[band])
    return result

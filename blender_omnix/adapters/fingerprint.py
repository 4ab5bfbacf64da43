# SPDX-License-Identifier: GPL-3.0-or-later
"""By what an adapter is known again, whatever its file says beside it. Without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import OmnixError
from .inspection import Inspection
from .values import narrowed, raw, widened


def fingerprint(inspection: Inspection) -> str:
    """Hexadecimal SHA-256 of what is injected: each module's name, scale, A and B, in float32.

    Names of tensors, their order and type, and metadata have no part in it.
    """
    digest = hashlib.sha256()
    header = inspection.header
    for module, item in sorted(inspection.modules.items()):
        digest.update(f"{module} {item.rank} {item.scale}\n".encode())
        for key, rows in ((item.a, slice(None)), (item.b, slice(*item.rows))):
            dtype = header.tensors[key].dtype
            digest.update(narrowed(widened(raw(header, key)[rows], dtype), "F32").tobytes())
    return digest.hexdigest()


def refuse_copy(inspection: Inspection, seen: dict[str, Path]) -> None:
    """Enter a file among those `seen`, by fingerprint; raise OmnixError where another file of which
    the same is injected is among them."""
    other = seen.setdefault(fingerprint(inspection), inspection.file)
    if other != inspection.file:
        raise OmnixError(
            f"The adapters {inspection.file} and {other} are one and the same; one of them belongs "
            "to another task. Install or download both again."
        )

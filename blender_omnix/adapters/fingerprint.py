# SPDX-License-Identifier: GPL-3.0-or-later
"""By what an adapter is known again, whatever its file says beside it. Without torch."""

from __future__ import annotations

import filecmp
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

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
        _refuse(inspection.file, other)


def refuse_twin(file: Path, others: Iterable[Path]) -> None:
    """Raise OmnixError where one of the files of other tasks is the same, byte for byte.

    Cheap, as files that differ do so within their first tensors.
    """
    for other in others:
        try:
            same = filecmp.cmp(file, other, shallow=False)
        except OSError:  # told when its own task is asked for
            continue
        if same:
            _refuse(file, other)


def _refuse(file: Path, other: Path) -> NoReturn:
    raise OmnixError(
        f"The adapters {file} and {other} are one and the same; one of them belongs to another "
        "task. Install or download both again."
    )

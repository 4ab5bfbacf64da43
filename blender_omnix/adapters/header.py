# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of a safetensors file, read strictly and without torch.

Format: 8 bytes little-endian header length, a JSON object, the data. Every byte of the data must
belong to exactly one tensor (https://github.com/huggingface/safetensors, "Format"). Nothing in a
file is trusted: sizes are checked before anything is read, and a file is never unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ..errors import OmnixError, refuse_overlong_name

ITEM_SIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
# An adapter's header is some tens of kilobytes; parsing a larger one only serves an attack.
MAX_HEADER = 8 * 2**20
MAX_DIMENSIONS = 8
LONGEST_NAME = 160
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
AGAIN = "download the file again"


@dataclass(frozen=True)
class Entry:
    """One tensor as the header declares it; `start` and `stop` are byte positions in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself: its tensors by name and its text metadata.

    `state` is the file's size and time of change when that was read.
    """

    file: Path
    tensors: dict[str, Entry]
    metadata: dict[str, str]
    state: tuple[int, int]

    def read(self, name: str) -> bytes:
        """The bytes of a tensor. Raises OmnixError where the file is no longer what it was."""
        entry = self.tensors[name]
        try:
            # Not mapped: a process that touches a mapped file where it was cut off is killed.
            with self.file.open("rb") as stream:
                stream.seek(entry.start)
                data = stream.read(entry.stop - entry.start)
                state = _state(stream)
        except OSError as error:
            raise OmnixError(f"{self.file} cannot be read: {error.strerror or error}.") from error
        if len(data) < entry.stop - entry.start or state != self.state:
            _refuse(self.file, "changed while it was read", "try again")
        return data


def read_headers(folder: Path) -> list[Header]:
    """The headers of all safetensors files in a folder of weights.

    Raises OmnixError for one that is unsound, and for an index of parts that names anything but
    safetensors files beside it: whoever follows it would open that.
    """
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        if is_debris(index):
            continue
        try:
            parts = set(json.loads(index.read_bytes())["weight_map"].values())
            sound = all(Path(part).name == part for part in parts)
        except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            raise OmnixError(f"{index} is no index of weights; {AGAIN}.") from None
        if not sound or not all(part.endswith(".safetensors") for part in parts):
            raise OmnixError(
                f"{index} names files that are not safetensors files beside it; use weights that "
                "are."
            )
    files = sorted(folder.glob("*.safetensors"))
    return [read_header(file) for file in files if not is_debris(file)]


def is_debris(file: Path) -> bool:
    """Whether a file only holds what macOS notes about another, on disks of other systems."""
    return file.name.startswith("._")


def read_header(file: str | Path) -> Header:
    """Read and check the header of a safetensors file; the tensors' values are not touched.

    Raises OmnixError naming the file and what to do about it.
    """
    file = Path(file)
    _refuse_other_kinds(file)
    try:
        with file.open("rb") as stream:
            state = _state(stream)
            size = state[0]
            start = stream.read(64)
            _refuse_other_content(file, start, size)
            length = int.from_bytes(start[:8], "little")
            if length > MAX_HEADER:
                _refuse(
                    file,
                    f"declares a header of {length} bytes; no adapter has one over {MAX_HEADER}",
                )
            if length > size - 8:
                _refuse(
                    file,
                    f"is truncated: its header needs {length} bytes, {size - 8} are there",
                    AGAIN,
                )
            stream.seek(8)
            text = stream.read(length)
    except OSError as error:
        raise OmnixError(f"{file} cannot be read: {error.strerror or error}.") from error
    declared = _parse(file, text)
    metadata = declared.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        is_text(key) and is_text(value) for key, value in metadata.items()
    ):
        _refuse(file, "has metadata that is not plain text", AGAIN)
    tensors = {
        name: _entry(file, name, value, 8 + length, size) for name, value in declared.items()
    }
    _check_coverage(file, tensors, 8 + length, size)
    return Header(file, tensors, metadata, state)


def is_text(value: object) -> bool:
    """Whether a value is text that UTF-8 can hold: JSON can also name half a surrogate pair."""
    return isinstance(value, str) and re.search("[\ud800-\udfff]", value) is None


def printable(name: str) -> str:
    """A name that can do no more on a terminal than be read."""
    return name if name.isprintable() else ascii(name)


def readable(name: str) -> str:
    """A tensor's name as a sentence may show it: a file can put anything there."""
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."


def write(
    file: str | Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    metadata: Mapping[str, str] | None = None,
    verify: Callable[[Path], None] = lambda partial: None,
) -> None:
    """Write a safetensors file of {name: (dtype, shape, little-endian bytes)}, whole or not at all.

    `verify(partial)` may look at the finished file before it takes its name, and raise to refuse.
    Raises OmnixError where the file cannot be written, or `read_header` would not take it.
    """
    file = Path(file)
    declared: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        if len(data) != prod(shape) * ITEM_SIZE[dtype]:
            raise ValueError(f"{name}: {len(data)} bytes for {dtype} {list(shape)}")
        offsets = [position, position := position + len(data)]
        declared[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(declared, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise OmnixError(
            f"{file} cannot be written: with the metadata its header would be {len(text)} bytes, "
            f"over the {MAX_HEADER} that are read; shorten the metadata of the original."
        )
    partial = file.with_name(file.name + ".part")
    try:
        with partial.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for _, _, data in tensors.values():
                stream.write(data)
        verify(partial)
        partial.replace(file)
    except BaseException as error:
        # Where not even the name is possible there is nothing to remove.
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise OmnixError(f"{file} cannot be written: {error.strerror or error}.") from error
        raise


def _state(stream: BinaryIO) -> tuple[int, int]:
    found = os.fstat(stream.fileno())
    return found.st_size, found.st_mtime_ns


def _refuse_other_kinds(file: Path) -> None:
    refuse_overlong_name(file)
    if file.is_dir():
        _refuse(file, "is a folder", "name one .safetensors file")
    if not file.exists():
        _refuse(file, "does not exist", "check the path")
    if not file.is_file():
        _refuse(file, "is not a regular file", "name one .safetensors file")
    if file.suffix.lower() in PICKLE_SUFFIXES:
        _refuse(
            file,
            f"is a pickled file ({file.suffix}), which can run code when opened",
            "use the .safetensors version",
        )


def _refuse_other_content(file: Path, start: bytes, size: int) -> None:
    if size == 0:
        _refuse(file, "is empty", AGAIN)
    if start.startswith(b"version https://git-lfs.github.com/"):
        _refuse(file, "is a Git LFS pointer, not the adapter itself", "run `git lfs pull`")
    # Torch saves a zip archive or, before 1.6, a bare pickle; a safetensors header starts with {.
    bare = start[0] == 0x80 and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
    if start.startswith(b"PK\x03\x04") or (bare and start[8:9] != b"{"):
        _refuse(
            file,
            "holds pickled data, which can run code when opened, whatever its name says",
            "use the .safetensors version",
        )
    if size < 10:
        _refuse(file, f"is truncated: {size} bytes are no safetensors file", AGAIN)
    if start[8:9] != b"{":
        _refuse(file, "is not a safetensors file", AGAIN)


def _parse(file: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in pairs:
            if name in result:
                raise ValueError(f"{readable(name)} is declared twice")
            result[name] = value
        return result

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        _refuse(file, "has a damaged header (nested too deeply)", AGAIN)
    except ValueError as error:  # JSON and UTF-8 errors are kinds of it
        _refuse(file, f"has a damaged header ({error})", AGAIN)


def _entry(file: Path, name: str, value: object, data_start: int, size: int) -> Entry:
    def refuse(reason: str) -> NoReturn:
        _refuse(file, f"is damaged: tensor {readable(name)} {reason}", AGAIN)

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        refuse("is not declared by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        refuse(f"has the unknown dtype {str(dtype)[:40]!r}")
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        refuse("has a shape that is no short list of whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse("has offsets that are no rising pair of whole numbers")
    start, stop = offsets
    if stop - start != prod(shape) * ITEM_SIZE[dtype]:
        refuse(f"is declared {dtype} {shape} but holds {stop - start} bytes")
    if prod(max(size, 1) for size in shape) * ITEM_SIZE[dtype] >= 2**63:
        refuse("has a shape that is larger than any memory")
    if stop > size - data_start:
        refuse(f"ends at byte {data_start + stop}, but the file has {size}: it is truncated")
    return Entry(dtype, tuple(shape), data_start + start, data_start + stop)


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**48 for v in value)


def _check_coverage(file: Path, tensors: Mapping[str, Entry], data_start: int, size: int) -> None:
    """Tensors must fill the data without overlap, gap or remainder."""
    position, before = data_start, ""
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start < position:
            _refuse(
                file, f"is damaged: tensors {readable(before)} and {readable(name)} overlap", AGAIN
            )
        if entry.start > position:
            gap = entry.start - position
            _refuse(
                file,
                f"is damaged: {gap} bytes before {readable(name)} belong to no tensor",
                AGAIN,
            )
        position, before = entry.stop, name
    if position != size:
        _refuse(file, f"is damaged: {size - position} bytes at its end belong to no tensor", AGAIN)


def _refuse(file: Path, reason: str, advice: str = "") -> NoReturn:
    raise OmnixError(f"{file} {reason}{'; ' + advice if advice else ''}.")

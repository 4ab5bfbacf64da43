# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading safetensors headers: good files exactly, hostile files refused with a sentence."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from blender_omnix.adapters.header import MAX_HEADER, read_header, write
from blender_omnix.adapters.values import flaws, narrowed, raw, widened
from blender_omnix.errors import OmnixError
from tests.adapter_files import ADAPTER, good


def test_header_agrees_with_the_safetensors_library():
    header = read_header(ADAPTER)
    stored = load_file(ADAPTER)
    assert header.tensors.keys() == stored.keys()
    for name, array in stored.items():
        assert np.array_equal(raw(header, name), array)
    with safe_open(ADAPTER, "np") as file:
        assert header.metadata == file.metadata()


def test_written_files_are_read_by_the_safetensors_library(tmp_path):
    file = tmp_path / "x.safetensors"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {
        "a": ("F32", (2, 3), array.tobytes()),
        "alpha": ("F32", (), np.float32(4).tobytes()),
    }
    write(file, tensors, {"note": "ä"})
    assert np.array_equal(load_file(file)["a"], array)
    assert load_file(file)["alpha"] == 4
    assert read_header(file).metadata == {"note": "ä"}
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_unwritable_target_is_a_sentence(tmp_path):
    with pytest.raises(OmnixError, match=r"absent.*cannot be written"):
        write(tmp_path / "absent" / "x.safetensors", {})


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x.safetensors", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [9000, 100, 0])
def test_a_file_that_is_cut_off_while_it_is_read_is_a_sentence(tmp_path, size):
    file = tmp_path / "x.safetensors"
    file.write_bytes(ADAPTER.read_bytes())
    header = read_header(file)
    os.truncate(file, size)
    with pytest.raises(OmnixError, match=r"x\.safetensors changed while it was read; try again"):
        raw(header, max(header.tensors, key=lambda name: header.tensors[name].start))


def test_a_file_that_is_replaced_while_it_is_read_is_a_sentence(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(ADAPTER.read_bytes())
    header = read_header(file)
    name = next(iter(header.tensors))
    before = file.stat()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    with pytest.raises(OmnixError, match="changed while it was read"):
        raw(header, name)
    file.unlink()
    with pytest.raises(OmnixError, match="cannot be read"):
        raw(header, name)


def described(header: object, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start: int = 0, stop: int = 16, shape: object = (4,), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HOSTILE = {
    "empty": (b"", "is empty"),
    "a few bytes": (b"\x08\0\0", "is truncated"),
    "text": (b"hello, this is no weights file", "not a safetensors file"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "not a safetensors file"),
    "lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "torch zip": (b"PK\x03\x04" + b"\0" * 60, "pickled data.*safetensors version"),
    "bare pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\0" * 50, "pickled data"),
    "header bomb": (described(b"{}", length=2**63), f"declares a header of {2**63} bytes"),
    "header over the limit": (described(b"{}", length=MAX_HEADER + 1), "declares a header"),
    "header past the end": (described(b"{}", length=4096), "is truncated.*4096 bytes"),
    "no json": (described(b"{nonsense}"), "damaged header"),
    "not text": (described(b'{"\xff\xfe": 1}'), "damaged header"),
    "nested": (described(b'{"a":' * 200_000), "nested too deeply"),
    "long number": (described(b'{"a":' + b"9" * 10_000 + b"}"), "damaged header"),
    "declared twice": (
        described(b'{"a":{},"a":{}}'),
        "damaged header.*a is declared twice",
    ),
    "metadata not text": (described({"__metadata__": {"r": 4}}, b""), "metadata.*not plain text"),
    "metadata not UTF-8": (
        described({"__metadata__": {"r": "\ud800"}}, b""),
        "metadata.*not plain text",
    ),
    "metadata a list": (described({"__metadata__": []}, b""), "metadata.*not plain text"),
    "entry not an object": (described({"a": 3}), "tensor a is not declared"),
    "entry with more": (described({"a": entry() | {"code": 1}}), "tensor a is not declared"),
    "unknown dtype": (described({"a": entry(dtype="F4")}), "tensor a has the unknown dtype 'F4'"),
    "dtype a list": (described({"a": entry(dtype=["F32"])}), "tensor a has the unknown dtype"),
    "negative shape": (described({"a": entry(shape=[-4])}), "tensor a has a shape"),
    "shape of truths": (described({"a": entry(shape=[True])}), "tensor a has a shape"),
    "many dimensions": (described({"a": entry(shape=[1] * 99)}), "tensor a has a shape"),
    "huge shape": (described({"a": entry(shape=[2**47, 2**47])}), "tensor a is declared F32"),
    "huge shape of nothing": (
        described({"a": entry(0, 0, [0, 4, 2**47, 2**47])}, b""),
        "tensor a has a shape that is larger than any memory",
    ),
    "falling offsets": (described({"a": entry(16, 0)}), "tensor a has offsets"),
    "fractional offsets": (described({"a": entry(0, 16.0)}), "tensor a has offsets"),
    "shape and bytes differ": (described({"a": entry(shape=[5])}), "declared F32 .* 16 bytes"),
    "out of range": (
        described({"a": entry(0, 16), "b": entry(16, 32)}),
        "tensor b ends at byte .* truncated",
    ),
    "overlap": (
        described({"a": entry(0, 16), "b": entry(8, 16, [2])}),
        "tensors a and b overlap",
    ),
    "gap": (
        described({"a": entry(0, 4, [1]), "b": entry(8, 16, [2])}),
        "4 bytes before b belong to no tensor",
    ),
    "remainder": (described({"a": entry(0, 8, [2])}), "8 bytes at its end belong to no tensor"),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused(tmp_path, content, words):
    file = tmp_path / "pytorch_lora_weights.safetensors"
    file.write_bytes(content)
    with pytest.raises(OmnixError, match=words) as refused:
        read_header(file)
    assert str(file) in str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_names_cannot_write_to_the_terminal(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(described({"\x1b[2J\n" + "x" * 10_000: entry(shape=[5])}))
    with pytest.raises(OmnixError, match="declared F32") as refused:
        read_header(file)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500 + len(str(file))


def test_truncated_adapter_is_refused_at_every_length(tmp_path):
    whole = ADAPTER.read_bytes()
    file = tmp_path / "x.safetensors"
    for length in (len(whole) - 1, len(whole) // 2, 5000, 100, 9, 1):
        file.write_bytes(whole[:length])
        with pytest.raises(OmnixError, match="is truncated"):
            read_header(file)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".PT"])
def test_pickles_are_refused_by_name(tmp_path, suffix):
    file = tmp_path / f"adapter{suffix}"
    file.write_bytes(ADAPTER.read_bytes())
    with pytest.raises(OmnixError, match=r"pickled file.*use the .safetensors version"):
        read_header(file)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(OmnixError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(OmnixError, match="does not exist"):
        read_header(tmp_path / "absent.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(OmnixError, match="not a regular file"):
        read_header(tmp_path / "pipe.safetensors")


def test_header_length_that_looks_like_a_pickle_is_read(tmp_path):
    """A length of 0x0480 has the two first bytes of a pickle of protocol 4."""
    text = json.dumps({"__metadata__": {"pad": ""}}).encode()
    text = text.replace(b'""', b'"' + b"x" * (0x0480 - len(text)) + b'"')
    file = tmp_path / "x.safetensors"
    file.write_bytes(described(text, b""))
    assert read_header(file).tensors == {}


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_values_survive_widening_and_flaws_are_seen(dtype):
    values = np.array([0.0, -0.0, 1.0, -2.5, 3.140625, 2.0**-14])
    stored = narrowed(values, dtype)
    assert np.array_equal(widened(stored, dtype), values)
    assert flaws(narrowed(np.zeros(3), dtype), dtype).zero
    assert flaws(narrowed(np.array([-0.0]), dtype), dtype).zero
    for spoilt, kind in ((np.nan, "nan"), (np.inf, "infinite"), (-np.inf, "infinite")):
        found = flaws(narrowed(np.array([1.0, spoilt]), dtype), dtype)
        assert [k for k in ("zero", "nan", "infinite") if getattr(found, k)] == [kind]


def test_bfloat16_agrees_with_torch():
    import torch

    values = torch.cat([good()[key].flatten() for key in sorted(good())])
    ours = narrowed(values.double().numpy(), "BF16")
    assert np.array_equal(ours, values.bfloat16().view(torch.int16).numpy().view(np.uint16))

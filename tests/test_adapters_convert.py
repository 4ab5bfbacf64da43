# SPDX-License-Identifier: GPL-3.0-or-later
"""Conversion keeps (alpha / rank) B A of every module, and the bits on the way there and back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blender_omnix.adapters import layout
from blender_omnix.adapters.convert import convert
from blender_omnix.adapters.header import read_header
from blender_omnix.adapters.inspection import inspect
from blender_omnix.adapters.record import RECORD
from blender_omnix.adapters.values import raw
from blender_omnix.errors import OmnixError
from tests.adapter_files import ADAPTER, PREFIX, Tensors, changes, fused, good, kohya, save

SHAPES = layout.flux_modules(
    {"num_layers": 2, "num_single_layers": 3, "num_attention_heads": 2, "attention_head_dim": 16}
)
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def same_bits(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype
        and one[key].shape == other[key].shape
        and one[key].numpy(force=True).tobytes() == other[key].numpy(force=True).tobytes()
        if one[key].dtype != torch.bfloat16
        else torch.equal(one[key].view(torch.int16), other[key].view(torch.int16))
        for key in one
    )


def foreign(layout: str, dtype: torch.dtype, alpha: float | None, rank: int = 4) -> Tensors:
    tensors = fused(rank, dtype)
    if layout == "kohya":
        return kohya(tensors, alpha)
    stems = {key.split(".lora_")[0] for key in tensors if alpha is not None}
    return tensors | {f"{stem}.alpha": torch.tensor([alpha]) for stem in stems}


ALPHAS = {"bfl": (None, 8.0), "kohya": (None, 4.0, 1.0, 3.0, 16.0, -2.0, 2)}
FOREIGN = [(form, kind, alpha) for form in ALPHAS for kind in TYPES for alpha in ALPHAS[form]]


@pytest.mark.parametrize(("form", "kind", "alpha"), FOREIGN)
def test_foreign_to_peft_and_back(tmp_path, form, kind, alpha):
    source = foreign(form, TYPES[kind], alpha)
    start = save(tmp_path, source, author="somebody")
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    done = convert(start, there, "peft")
    assert (done.source, done.target, done.tensors) == (form, "peft", 42)
    assert inspect(there, SHAPES).clauses() == []
    peft = load_file(there)
    assert not any(key.endswith(".alpha") for key in peft)
    expected = changes(source)
    exact = alpha != 3.0
    assert done.widened == (not exact)
    for module, change in changes(peft).items():
        # 3/4 of a value fits the next wider type but for its last bits.
        tolerance = 0 if exact or kind != "F32" else 1e-15
        assert torch.allclose(change, expected[module], rtol=1e-12, atol=tolerance)
    assert changes(peft).keys() == expected.keys()
    assert convert(there, back, form).target == form
    assert same_bits(load_file(back), source)
    with safe_open(back, "pt") as file:
        assert file.metadata() == {"author": "somebody"}


def test_few_files_are_open_at_once_however_many_tensors_there_are(tmp_path):
    """A published adapter has 456; some systems let a process open 256."""
    resource = pytest.importorskip("resource")
    source = save(tmp_path, good())
    header = read_header(source)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, used + 16), hard))
    try:
        assert len([raw(header, name) for name in header.tensors]) == 42
        convert(source, tmp_path / "there.safetensors", "kohya")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert same_bits(load_file(source), good())


@pytest.mark.parametrize("alpha", [1.0, 5.0, 12.0])
def test_odd_ranks_round_trip(tmp_path, alpha):
    source = foreign("kohya", torch.float32, alpha, rank=6)
    start = save(tmp_path, source)
    convert(start, tmp_path / "there.safetensors", "peft")
    there = changes(load_file(tmp_path / "there.safetensors"))
    for module, change in changes(source).items():
        assert torch.allclose(there[module], change, rtol=1e-12, atol=1e-14)
    convert(tmp_path / "there.safetensors", tmp_path / "back.safetensors", "kohya")
    assert same_bits(load_file(tmp_path / "back.safetensors"), source)


def test_prefix_and_pair_names_come_back(tmp_path):
    source = {
        f"diffusion_model.{key}".replace("lora_A", "lora_down").replace("lora_B", "lora_up"): value
        for key, value in fused().items()
    }
    start = save(tmp_path, source)
    convert(start, tmp_path / "there.safetensors", "peft")
    convert(tmp_path / "there.safetensors", tmp_path / "back.safetensors", "bfl")
    assert same_bits(load_file(tmp_path / "back.safetensors"), source)


@pytest.mark.parametrize("form", ["bfl", "kohya"])
def test_peft_to_foreign_and_back(tmp_path, form):
    """Each of q, k, v has its own lora_A here: they are stacked, never averaged."""
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    convert(ADAPTER, there, form)
    assert inspect(there, SHAPES).clauses() == []
    stored = load_file(there)
    for module, change in changes(good()).items():
        assert torch.allclose(changes(stored)[module], change, rtol=1e-12, atol=1e-16)
    key = next(key for key in stored if "img_attn" in key and "qkv" in key)
    assert stored[key].shape[0] == 12
    convert(there, back, "peft")
    assert same_bits(load_file(back), good())


def test_between_foreign_layouts(tmp_path):
    source = kohya(fused(), 2.0)
    start = save(tmp_path, source)
    convert(start, tmp_path / "bfl.safetensors", "bfl")
    stored = load_file(tmp_path / "bfl.safetensors")
    assert len(stored) == 22
    for module, change in changes(source).items():
        assert torch.equal(changes(stored)[module], change)
    convert(tmp_path / "bfl.safetensors", tmp_path / "kohya.safetensors", "kohya")
    for module, change in changes(load_file(tmp_path / "kohya.safetensors")).items():
        assert torch.equal(change, changes(source)[module])


def test_alpha_beyond_half_precision_is_stored_wider(tmp_path):
    """Folding 2**-20 into float16 would lose small values to underflow."""
    source = kohya(fused(dtype=torch.float16), 2.0**-18)
    done = convert(save(tmp_path, source), tmp_path / "there.safetensors", "peft")
    assert done.widened
    there = changes(load_file(tmp_path / "there.safetensors"))
    for module, change in changes(source).items():
        assert torch.equal(there[module], change)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64, torch.int64])
def test_alphas_of_any_type_and_of_each_module_come_back(tmp_path, kind):
    source = kohya(fused(dtype=torch.bfloat16), 4.0)
    for i, key in enumerate(key for key in source if key.endswith(".alpha")):
        source[key] = torch.tensor(1 + i % 5, dtype=kind)
    convert(save(tmp_path, source), tmp_path / "there.safetensors", "peft")
    there = changes(load_file(tmp_path / "there.safetensors"))
    for module, change in changes(source).items():
        assert torch.allclose(there[module], change, rtol=1e-6, atol=1e-6)
    convert(tmp_path / "there.safetensors", tmp_path / "back.safetensors", "kohya")
    assert same_bits(load_file(tmp_path / "back.safetensors"), source)


def test_the_widest_type_is_folded_exactly_or_not_at_all(tmp_path):
    source = kohya(fused(dtype=torch.float64), 2.0)
    convert(save(tmp_path, source), tmp_path / "there.safetensors", "peft")
    there = changes(load_file(tmp_path / "there.safetensors"))
    for module, change in changes(source).items():
        assert torch.equal(there[module], change)
    rounding = save(tmp_path, kohya(fused(dtype=torch.float64), 3.0))
    with pytest.raises(OmnixError, match=r"F64 values of .* without rounding; store them as F32"):
        convert(rounding, tmp_path / "rounded.safetensors", "peft")


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "diffusion_model."])
def test_prefixes_become_the_published_one(tmp_path, prefix):
    source = {prefix + key.removeprefix(PREFIX): value for key, value in good().items()}
    convert(save(tmp_path, source), tmp_path / "there.safetensors", "peft")
    assert same_bits(load_file(tmp_path / "there.safetensors"), good())


def test_alphas_of_a_peft_file_are_folded(tmp_path):
    stems = {key.split(".lora_")[0] for key in good()}
    source = good() | {f"{stem}.alpha": torch.tensor(2.0) for stem in stems}
    convert(save(tmp_path, source), tmp_path / "there.safetensors", "peft")
    stored = load_file(tmp_path / "there.safetensors")
    assert stored.keys() == good().keys()
    for module, change in changes(good()).items():
        assert torch.equal(changes(stored)[module], change / 2)


def test_a_record_is_not_followed_once_the_tensors_changed(tmp_path):
    """Alpha 1 is recorded, but B was trained on: the plain way keeps the change all the same."""
    convert(save(tmp_path, kohya(fused(), 1.0)), tmp_path / "there.safetensors", "peft")
    with safe_open(tmp_path / "there.safetensors", "pt") as file:
        record = file.metadata()
    trained = {
        key: value * 1.1 if "lora_B" in key else value + torch.rand_like(value)
        for key, value in load_file(tmp_path / "there.safetensors").items()
    }
    convert(save(tmp_path, trained, **record), tmp_path / "back.safetensors", "kohya")
    stored = changes(load_file(tmp_path / "back.safetensors"))
    for module, change in changes(trained).items():
        assert torch.allclose(stored[module], change, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "record",
    [
        "no json",
        "[" * 99999,
        "[]",
        "{}",
        json.dumps({"format": ["bfl", ""], "roles": ["x", "y"], "products": {}, "metadata": {}}),
        json.dumps({"format": ["bfl"], "roles": [], "products": {"a": 1}, "metadata": 3}),
        json.dumps({"format": ["bfl", ""], "roles": [], "products": {"double_blocks": {}}}),
    ],
)
def test_a_senseless_record_is_ignored(tmp_path, record):
    file = save(tmp_path, good(), **{RECORD: record})
    convert(file, tmp_path / "there.safetensors", "bfl")
    for module, change in changes(load_file(tmp_path / "there.safetensors")).items():
        assert torch.allclose(change, changes(good())[module], rtol=1e-12, atol=1e-16)


def notes(key: str, value: object) -> Callable[[dict], object]:
    return lambda record: [note.update({key: value}) for note in record["products"].values()]


SPOILT_RECORDS: dict[str, Callable[[dict], object]] = {
    "no alphas": notes("alpha_as", None),
    "alpha of several numbers": notes("alpha_as", ["F32", [5]]),
    "alpha of no whole number": notes("alpha_as", ["F32", [1.0]]),
    "alpha as a truth": notes("alpha_as", ["BOOL", []]),
    "alpha without type": notes("alpha_as", [[], []]),
    "one role": lambda r: r.update(roles=["lora_down.weight"]),
    "one role twice": lambda r: r.update(roles=["lora_down.weight"] * 2),
    "roles swapped": lambda r: r.update(roles=["lora_up.weight", "lora_down.weight"]),
    "metadata not text": lambda r: r.update(metadata={"a": 5}),
    "metadata not UTF-8": lambda r: r.update(metadata={"a": "\ud800"}),
    "prefix": lambda r: r.update(format=["kohya", "evil\x1b_"]),
}


@pytest.mark.parametrize("spoil", SPOILT_RECORDS.values(), ids=SPOILT_RECORDS)
def test_a_record_that_would_spoil_the_file_is_ignored(tmp_path, spoil):
    source = kohya(fused(), 8.0)
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    convert(save(tmp_path, source, note="x"), there, "peft")
    record = json.loads(read_header(there).metadata[RECORD])
    spoil(record)
    save_file(load_file(there), there, {RECORD: json.dumps(record)})
    convert(there, back, "kohya")
    stored = load_file(back)
    assert stored.keys() == source.keys()
    assert "note" not in read_header(back).metadata
    for module, change in changes(stored).items():
        assert torch.equal(change, changes(source)[module])


def test_a_file_that_does_not_hold_what_it_should_is_not_written(tmp_path, monkeypatch):
    wrong = torch.tensor(3.0).numpy().tobytes()
    monkeypatch.setattr("blender_omnix.adapters.convert.scalar_bytes", lambda *_: wrong)
    with pytest.raises(OmnixError, match="read back, it does not hold what it should"):
        convert(ADAPTER, tmp_path / "there.safetensors", "kohya")
    assert list(tmp_path.iterdir()) == []


def test_an_alpha_that_single_precision_cannot_hold_is_kept(tmp_path):
    source = fused(dtype=torch.float64)
    for stem in {key.split(".lora_")[0] for key in source}:
        source[f"{stem}.alpha"] = torch.tensor(0.1, dtype=torch.float64)
    convert(save(tmp_path, source), tmp_path / "there.safetensors", "kohya")
    stored = changes(load_file(tmp_path / "there.safetensors"))
    for module, change in changes(source).items():
        assert torch.equal(stored[module], change)


def extreme(kind: torch.dtype, size: float, alpha: float) -> Tensors:
    """A foreign adapter of rank 1, all values of lora_B of one size."""
    tensors = kohya(fused(rank=1, dtype=kind), None)
    for key in [key for key in tensors if "lora_up" in key]:
        tensors[key] = tensors[key].sign() * size
        tensors[key.replace("lora_up.weight", "alpha")] = torch.tensor(alpha, dtype=torch.float64)
    return tensors


@pytest.mark.parametrize(("size", "alpha"), [(1e38, 64.0), (1e-30, 2.0**-60)])
def test_what_leaves_the_range_of_the_next_type_takes_the_widest(tmp_path, size, alpha):
    source = extreme(torch.bfloat16, size, alpha)
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert convert(save(tmp_path, source), there, "peft").widened
    stored = changes(load_file(there))
    for module, change in changes(source).items():
        assert change.isfinite().all() and change.any()
        assert torch.equal(stored[module], change)
    convert(there, back, "kohya")
    assert same_bits(load_file(back), source)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_what_leaves_the_range_of_every_type_is_refused(tmp_path, kind):
    file = save(tmp_path, extreme(kind, 1e38, 2.0**1000))
    with pytest.raises(OmnixError, match=r"cannot be converted: alpha / rank .* F64"):
        convert(file, tmp_path / "there.safetensors", "peft")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_long_metadata_come_along_or_are_refused(tmp_path):
    there = tmp_path / "there.safetensors"
    source = kohya(fused(), 4.0)
    convert(save(tmp_path, source, tags="ラ" * 1_300_000), there, "peft")
    assert read_header(there).metadata
    with pytest.raises(OmnixError, match="shorten the metadata of the original"):
        convert(save(tmp_path, source, tags='"' * 3_000_000), tmp_path / "2.safetensors", "peft")
    assert not (tmp_path / "2.safetensors").exists()


def test_a_record_of_endless_numbers_is_ignored(tmp_path):
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    convert(save(tmp_path, good()), there, "kohya")
    honest = read_header(there).metadata[RECORD]
    record = re.sub(r'"rank": ?\d+', '"rank": Infinity', honest)
    assert record != honest
    save_file(load_file(there), there, {RECORD: record})
    convert(there, back, "peft")
    for module, change in changes(load_file(back)).items():
        assert torch.allclose(change, changes(good())[module], rtol=1e-12, atol=1e-16)


def lacking_k() -> Tensors:
    return {key: value for key, value in good().items() if "blocks.0.attn.to_k" not in key}


def with_mlp() -> Tensors:
    tensors = fused()
    tensors["single_blocks.2.linear1.lora_B.weight"][100, 0] = 1e-8
    return tensors


REFUSED = {
    "peft to peft": (good, "peft", "already has the keys of peft .*use it as it is"),
    "bfl to bfl": (fused, "bfl", "already has the keys of bfl"),
    "prefixed bfl to bfl": (
        lambda: {f"diffusion_model.{k}": v for k, v in fused().items()},
        "bfl",
        r"already has the keys of bfl \(bfl \(diffusion_model\.\)\)",
    ),
    "kohya to kohya": (lambda: kohya(fused(), 4.0), "kohya", "already has the keys of kohya"),
    "mlp rows": (
        with_mlp,
        "peft",
        r"rows 96 to 223 of single_blocks\.2\.linear1 change .*proj_mlp",
    ),
    "half of a projection": (lacking_k, "bfl", r"transformer_blocks\.0\.attn\.to_k is missing"),
    "half of a pair": (
        lambda: {k: v for k, v in fused().items() if k != "single_blocks.0.linear1.lora_B.weight"},
        "peft",
        r"single_blocks\.0\.linear1 lacks lora_A or lora_B",
    ),
    "no pair": (lambda: good() | {"extra": torch.ones(1)}, "bfl", r"no low-rank pair .*\(extra\)"),
    "mixed": (lambda: good() | fused(), "peft", "several layouts at once"),
    "unknown module": (
        lambda: {k.replace("img_mlp", "txt_mlp"): v for k, v in fused().items()},
        "peft",
        r"double_blocks\.0\.txt_mlp\.0 is no module that OmniX adapters fill",
    ),
    "module without a place": (
        lambda: {k.replace("attn.to_out.0", "attn.to_add_out"): v for k, v in good().items()},
        "kohya",
        r"transformer_blocks\.0\.attn\.to_add_out has no place in kohya",
    ),
    "partial alpha": (
        lambda: fused() | {"double_blocks.0.img_attn.qkv.alpha": torch.tensor(1.0)},
        "peft",
        r"1 of 11 modules have an alpha \(double_blocks\.0\.img_attn\.qkv\)",
    ),
    "alpha zero": (lambda: kohya(fused(), 0.0), "peft", r"alpha is no usable number"),
    "ranks differ": (
        lambda: fused() | {"single_blocks.0.linear1.lora_A.weight": torch.ones(3, 32)},
        "peft",
        r"lora_A and lora_B of single_blocks\.0\.linear1 do not fit",
    ),
    "NaN": (
        lambda: fused() | {"single_blocks.0.linear1.lora_A.weight": torch.full((4, 32), torch.nan)},
        "peft",
        r"single_blocks\.0\.linear1 is empty or not finite",
    ),
    "rank 0": (
        lambda: (
            good()
            | {
                f"{PREFIX}transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(0, 32),
                f"{PREFIX}transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(32, 0),
            }
        ),
        "bfl",
        r"transformer_blocks\.0\.attn\.to_q is empty or not finite",
    ),
    "nothing in it": (dict, "peft", "cannot be converted"),
}


@pytest.mark.parametrize(("tensors", "to", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_converted_is_refused(tmp_path, tensors, to, words):
    target = tmp_path / "there.safetensors"
    with pytest.raises(OmnixError, match=words):
        convert(save(tmp_path, tensors()), target, to)
    assert not target.exists()


def test_an_existing_file_is_not_overwritten(tmp_path):
    target = tmp_path / "there.safetensors"
    target.write_text("mine")
    with pytest.raises(OmnixError, match="exists already"):
        convert(ADAPTER, target, "bfl")
    assert target.read_text() == "mine"


def test_names_and_values_agree_with_the_conversion_of_diffusers(tmp_path):
    """At FLUX.1-dev's size, the only one that Diffusers converts; it keeps the idle MLP rows."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    width, hidden = 3072, 12288
    shapes = {
        "double_blocks_{}_img_attn_qkv": (19, 3 * width, width),
        "double_blocks_{}_img_attn_proj": (19, width, width),
        "double_blocks_{}_img_mlp_0": (19, hidden, width),
        "double_blocks_{}_img_mlp_2": (19, width, hidden),
        "single_blocks_{}_linear1": (38, 3 * width + hidden, width),
    }
    generator = torch.Generator().manual_seed(0)
    source: Tensors = {}
    for name, (count, rows, columns) in shapes.items():
        for i in range(count):
            stem = f"lora_unet_{name.format(i)}"
            up = torch.randn(rows, 2, generator=generator)
            up[9216:] *= "linear1" not in name
            source[f"{stem}.lora_down.weight"] = torch.randn(2, columns, generator=generator)
            source[f"{stem}.lora_up.weight"] = up
            source[f"{stem}.alpha"] = torch.tensor(1.0)
    convert(save(tmp_path, source), tmp_path / "there.safetensors", "peft")
    ours = load_file(tmp_path / "there.safetensors")
    theirs = _convert_kohya_flux_lora_to_diffusers(source)
    idle = [key for key in theirs if "proj_mlp.lora_B" in key]
    assert len(idle) == 38
    assert not any(theirs[key].any() for key in idle)
    assert ours.keys() == {key for key in theirs if "proj_mlp" not in key}
    assert len(ours) == 456
    for key in ours:
        if key.endswith("lora_A.weight"):
            probe = torch.randn(ours[key].shape[1], generator=generator)
            b = key.replace("lora_A", "lora_B")
            assert torch.equal(ours[b] @ (ours[key] @ probe), theirs[b] @ (theirs[key] @ probe))

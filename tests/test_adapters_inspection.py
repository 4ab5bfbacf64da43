# SPDX-License-Identifier: GPL-3.0-or-later
"""Every known way an adapter fails silently elsewhere is an error here that names the tensors, and
leaves the base model as it was, bit for bit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model

from blender_omnix.adapters import layout
from blender_omnix.adapters.convert import convert
from blender_omnix.adapters.inject import inject, lora_layers
from blender_omnix.adapters.inspection import inspect
from blender_omnix.errors import OmnixError
from tests.adapter_files import ADAPTER, PREFIX, Tensors, fused, good, kohya, save, tiny_flux

Q = f"{PREFIX}transformer_blocks.0.attn.to_q"
CONFIG = {
    "num_layers": 2,
    "num_single_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
}
SHAPES = layout.flux_modules(CONFIG)


@pytest.fixture(scope="module")
def model():
    return tiny_flux()


@pytest.fixture(scope="module")
def bits(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def renamed(tensors: Tensors, rename: Callable[[str], str]) -> Tensors:
    return {rename(key): value for key, value in tensors.items()}


def without(tensors: Tensors, lost: Callable[[str], bool]) -> Tensors:
    return {key: value for key, value in tensors.items() if not lost(key)}


def changed(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    tensors = good()
    return tensors | {key: change(tensors[key])}


def holding(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[0, 0] = value
        return tensor

    return change


def to_bfl_unfused(key: str) -> str:
    """BFL's block and attention names on tensors that are not fused, as a careless port writes."""
    return (
        key.removeprefix(PREFIX)
        .replace("single_transformer_blocks", "single_blocks")
        .replace("transformer_blocks", "double_blocks")
        .replace("attn.to_", "img_attn.")
    )


def only_single_blocks_renamed(key: str) -> str:
    return key if "single_transformer_blocks" in key else to_bfl_unfused(key)


def linear1_with_mlp() -> Tensors:
    tensors = fused()
    tensors["single_blocks.1.linear1.lora_B.weight"][-1, -1] = 0.5
    return tensors


HOSTILE: dict[str, tuple[Callable[[], Tensors], str]] = {
    "bfl names that are not fused": (
        lambda: renamed(good(), to_bfl_unfused),
        r"42 tensors belong to no module .*double_blocks\.0\..*21 modules or tensors are "
        r"missing \(transformer_blocks\.0\.attn\.to_q",
    ),
    "only single blocks renamed": (
        lambda: renamed(good(), only_single_blocks_renamed),
        r"named by another layout .*single_transformer_blocks.*12 modules or tensors are missing",
    ),
    "half the modules missing": (
        lambda: without(good(), lambda key: "single_transformer" in key),
        r"9 modules or tensors are missing \(single_transformer_blocks\.0\.attn\.to_q",
    ),
    "lora_A missing": (
        lambda: without(good(), lambda key: key == f"{Q}.lora_A.weight"),
        rf"1 module or tensor is missing \({Q}\.lora_A\.weight\)",
    ),
    "lora_B missing": (
        lambda: without(good(), lambda key: key == f"{Q}.lora_B.weight"),
        rf"1 module or tensor is missing \({Q}\.lora_B\.weight\)",
    ),
    "lora_A too narrow": (
        lambda: changed(f"{Q}.lora_A.weight", lambda t: t[:, :16]),
        rf"1 tensor has the wrong shape \({Q}\.lora_A\.weight \[4, 16\] instead of \[4, 32\]",
    ),
    "lora_A too wide": (
        lambda: changed(f"{Q}.lora_A.weight", lambda t: t.repeat(1, 2)),
        rf"1 tensor has the wrong shape \({Q}\.lora_A\.weight \[4, 64\] instead of \[4, 32\]",
    ),
    "lora_B too high": (
        lambda: changed(f"{Q}.lora_B.weight", lambda t: t.repeat(2, 1)),
        rf"1 tensor has the wrong shape \({Q}\.lora_B\.weight \[64, 4\] instead of \[32, 4\]",
    ),
    "a vector for a matrix": (
        lambda: changed(f"{Q}.lora_B.weight", lambda t: t.flatten()),
        rf"have the wrong shape .*{Q}\.lora_B\.weight \[128\]",
    ),
    "a number for a matrix": (
        lambda: changed(f"{Q}.lora_A.weight", lambda t: t[0, 0].clone()),
        rf"have the wrong shape \({Q}\.lora_A\.weight \[\]",
    ),
    "rank 0": (
        lambda: changed(f"{Q}.lora_A.weight", lambda t: t[:0]),
        rf"have the wrong shape .*{Q}\.lora_A\.weight \[0, 32\]",
    ),
    "ranks of A and B differ": (
        lambda: changed(f"{Q}.lora_A.weight", lambda t: t[:2]),
        rf"1 pair has a lora_A and a lora_B of different rank \({Q}: 2 and 4\)",
    ),
    "every lora_B zero": (
        lambda: {k: v * ("lora_A" in k) for k, v in good().items()},
        r"21 tensors are all zero \(.*lora_B\.weight",
    ),
    "one lora_B zero": (
        lambda: changed(f"{Q}.lora_B.weight", torch.zeros_like),
        rf"1 tensor is all zero \({Q}\.lora_B\.weight\)",
    ),
    "NaN": (
        lambda: changed(f"{Q}.lora_B.weight", holding(float("nan"))),
        rf"1 tensor holds NaN \({Q}\.lora_B\.weight\)",
    ),
    "infinite": (
        lambda: changed(f"{Q}.lora_A.weight", holding(float("-inf"))),
        rf"1 tensor holds infinity \({Q}\.lora_A\.weight\)",
    ),
    "whole numbers": (
        lambda: changed(f"{Q}.lora_A.weight", lambda t: t.to(torch.int8)),
        rf"1 tensor is of a type no adapter has \({Q}\.lora_A\.weight I8\)",
    ),
    "stray alpha": (
        lambda: good() | {f"{Q}.alpha": torch.tensor(1.0)},
        rf"1 alpha is not usable \({Q}\.alpha is on some modules but not on all\)",
    ),
    "alpha of no module": (
        lambda: good() | {"alpha": torch.tensor(1.0)},
        r"1 tensor belongs to no module the adapter may fill \(alpha\)",
    ),
    "one alpha lost": (
        lambda: without(
            kohya(fused(), 4.0), lambda key: key == "lora_unet_single_blocks_0_linear1.alpha"
        ),
        r"lora_unet_single_blocks_0_linear1\.alpha is absent",
    ),
    "alpha zero": (lambda: kohya(fused(), 0.0), r"alphas are not usable \(.*alpha is 0"),
    "alpha NaN": (lambda: kohya(fused(), float("nan")), r"alphas are not usable \(.*alpha is nan"),
    "an extra module": (
        lambda: (
            good()
            | {
                f"{PREFIX}transformer_blocks.0.attn.add_q_proj.lora_A.weight": torch.ones(4, 32),
                f"{PREFIX}transformer_blocks.0.attn.add_q_proj.lora_B.weight": torch.ones(32, 4),
            }
        ),
        r"2 tensors belong to no module the adapter may fill \(.*add_q_proj\.lora_A\.weight",
    ),
    "an extra key": (
        lambda: good() | {f"{Q}.lora_magnitude_vector": torch.ones(32)},
        rf"1 tensor belongs to no module .*{Q}\.lora_magnitude_vector",
    ),
    "a bias": (
        lambda: good() | {f"{Q}.lora_B.bias": torch.ones(32)},
        rf"1 tensor belongs to no module .*{Q}\.lora_B\.bias",
    ),
    "a block the model lacks": (
        lambda: renamed(good(), lambda key: key.replace("blocks.2.", "blocks.7.")),
        r"6 tensors belong to no module .*single_transformer_blocks\.7.*3 modules or tensors are "
        r"missing \(single_transformer_blocks\.2\.attn\.to_q",
    ),
    "a module twice": (
        lambda: (
            good() | {key.removeprefix(PREFIX): v for key, v in good().items() if key.startswith(Q)}
        ),
        r"named by another layout .*2 tensors fill a module that another one fills already "
        r"\(transformer_blocks\.0\.attn\.to_q",
    ),
    "linear1 changes the MLP": (
        linear1_with_mlp,
        r"1 tensor belongs to no module .*single_blocks\.1\.linear1\.lora_B\.weight rows 96 to 223 "
        r"\(single_transformer_blocks\.1\.proj_mlp\)",
    ),
    "fused rows that cannot be shared": (
        lambda: fused() | {"single_blocks.0.linear1.lora_B.weight": torch.ones(96, 4)},
        r"1 tensor has the wrong shape \(single_blocks\.0\.linear1\.lora_B\.weight \[96, 4\]",
    ),
    "text stream in a fused file": (
        lambda: (
            fused()
            | {
                "double_blocks.0.txt_attn.qkv.lora_A.weight": torch.ones(4, 32),
                "double_blocks.0.txt_attn.qkv.lora_B.weight": torch.ones(96, 4),
            }
        ),
        r"2 tensors belong to no module .*double_blocks\.0\.txt_attn\.qkv\.lora_A\.weight",
    ),
    "text encoder": (
        lambda: good() | {"lora_te1_text_model_q_proj.lora_down.weight": torch.ones(4, 32)},
        r"1 tensor belongs to no module .*lora_te1_text_model_q_proj",
    ),
    "no tensors": (dict, r"21 modules or tensors are missing"),
}


@pytest.mark.parametrize(("tensors", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_adapter_is_refused_and_the_base_untouched(tmp_path, model, bits, tensors, words):
    file = save(tmp_path, tensors())
    with pytest.raises(OmnixError, match=words) as refused:
        inject(model, {"good": ADAPTER, "hostile": file})
    assert str(file) in str(refused.value)
    assert not lora_layers(model)
    after = model.state_dict()
    assert after.keys() == bits.keys()
    for key, value in bits.items():
        assert torch.equal(after[key].view(torch.uint8), value.view(torch.uint8)), key


def config(**values: object) -> str:
    return json.dumps({f"transformer.{key}": value for key, value in values.items()})


HOSTILE_METADATA = {
    "LoraConfig": ({"lora_adapter_metadata": config(r=4, lora_alpha=8)}, "lora_alpha = 8"),
    "alpha pattern": (
        {"lora_adapter_metadata": config(r=4, lora_alpha=4, alpha_pattern={"to_q": 16})},
        "alpha_pattern = ",
    ),
    "rank-stabilised": (
        {"lora_adapter_metadata": config(r=4, lora_alpha=4, use_rslora=True)},
        "use_rslora = true",
    ),
    "rank-stabilised by number": ({"use_rslora": "1"}, "use_rslora = true"),
    "biases": ({"lora_adapter_metadata": config(lora_bias=True)}, "lora_bias = true"),
    "taken out of the base": (
        {"lora_adapter_metadata": config(r=4, lora_alpha=4, init_lora_weights="pissa_niter_4")},
        "init_lora_weights = pissa_niter_4",
    ),
    "another method": ({"lora_adapter_metadata": config(peft_type="LOHA")}, "peft_type = LOHA"),
    "alpha before a text encoder's": (
        {
            "lora_adapter_metadata": json.dumps(
                {"transformer.lora_alpha": 999, "text_encoder.lora_alpha": 4, "text_encoder.r": 4}
            )
        },
        "lora_alpha = 999",
    ),
    "no json": ({"lora_adapter_metadata": "r=4"}, "lora_adapter_metadata is no JSON"),
    "a list": ({"lora_adapter_metadata": "[]"}, "lora_adapter_metadata is no JSON object"),
    "nested": ({"lora_adapter_metadata": "[" * 99999}, "lora_adapter_metadata is no JSON"),
    "kohya": ({"ss_network_alpha": "1", "ss_network_dim": "4"}, "ss_network_alpha = 1"),
    "bare alpha": ({"alpha": "2"}, "alpha = 2"),
    "scale": ({"lora_scale": "0.5"}, "lora_scale = 0.5"),
}


def test_a_pair_without_a_rank_is_refused_whatever_the_metadata_say(tmp_path):
    tensors = good()
    first = next(key.split(".lora_")[0] for key in tensors)
    down, up = (next(k for k in tensors if k.startswith(f"{first}.lora_{s}")) for s in "AB")
    tensors[down], tensors[up] = tensors[down][:0], tensors[up][:, :0]
    found = inspect(save(tmp_path, tensors, alpha="4"), SHAPES)
    assert not found.ok


@pytest.mark.parametrize(("metadata", "words"), HOSTILE_METADATA.values(), ids=HOSTILE_METADATA)
def test_metadata_that_would_change_the_scale_is_refused(tmp_path, metadata, words):
    file = save(tmp_path, good(), **metadata)
    found = inspect(file, SHAPES)
    assert not found.ok
    with pytest.raises(OmnixError, match=words):
        found.require()
    with pytest.raises(OmnixError, match=f"cannot be converted: .*{words}"):
        convert(file, tmp_path / "there.safetensors", "bfl")
    assert not (tmp_path / "there.safetensors").exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {"lora_adapter_metadata": config(r=4, lora_alpha=4, use_rslora=False, alpha_pattern={})},
        {"lora_adapter_metadata": config(peft_type="LORA", lora_bias=0, rank_pattern=[])},
        {"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 8})},
        {"ss_network_alpha": "4.0", "ss_network_dim": "4", "format": "pt"},
        {"scale": "1.0", "author": "somebody"},
        {"lora_adapter_metadata": config(init_lora_weights="gaussian", r=4, lora_alpha=4)},
    ],
)
def test_metadata_that_changes_nothing_is_accepted(tmp_path, metadata):
    file = save(tmp_path, good(), **metadata)
    assert inspect(file, SHAPES).ok
    convert(file, tmp_path / "there.safetensors", "bfl")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What PEFT's own save_pretrained leaves: the scale is in adapter_config.json alone."""
    folder = tmp_path_factory.mktemp("peft")
    names = "|".join(re.escape(name) for name in SHAPES)
    configuration = LoraConfig(r=4, lora_alpha=4, target_modules=names, init_lora_weights=False)
    get_peft_model(tiny_flux(), configuration).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lora_alpha": 16}, "lora_alpha = 16 in adapter_config.json"),
        ({"use_rslora": True}, "use_rslora = true in adapter_config.json"),
        ({"alpha_pattern": {"to_q": 8}}, "alpha_pattern = .* in adapter_config.json"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = olora in adapter_config.json"),
        ("", "adapter_config.json is no JSON"),
        ("[]", "adapter_config.json is no JSON object"),
        (f'"{"x" * 2**20}"', "adapter_config.json is larger than"),
    ],
)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "rgb_to_albedo_rgb.safetensors"])
def test_the_configuration_beside_a_file_of_peft_is_heeded(tmp_path, saved, values, words, name):
    folder = shutil.copytree(saved, tmp_path / "adapter")
    file = (folder / "adapter_model.safetensors").rename(folder / name)
    settings = folder / "adapter_config.json"
    assert inspect(file, SHAPES).clauses() == []
    if isinstance(values, dict):
        values = json.dumps(json.loads(settings.read_text()) | values)
    settings.write_text(values)
    with pytest.raises(OmnixError, match=words):
        inspect(file, SHAPES).require()
    with pytest.raises(OmnixError, match=f"cannot be converted: .*{words}"):
        convert(file, tmp_path / "there.safetensors", "bfl")
    # It is not about a file of other keys, and without it alpha is the rank.
    assert inspect(save(folder, good()), SHAPES).ok
    settings.unlink()
    assert inspect(file, SHAPES).ok


def test_alpha_in_the_metadata_must_agree_with_the_tensors(tmp_path):
    claims = {"ss_network_alpha": "2", "ss_network_dim": "4"}
    assert inspect(save(tmp_path, kohya(fused(), 2.0), **claims), SHAPES).ok
    assert not inspect(save(tmp_path, kohya(fused(), 4.0), **claims), SHAPES).ok


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [0.1, 22.627416998])
def test_alpha_in_the_metadata_may_be_longer_than_the_tensors_hold(tmp_path, kind, alpha):
    tensors = {key: value.to(kind) for key, value in kohya(fused(), alpha).items()}
    claims = {"ss_network_alpha": str(alpha), "ss_network_dim": "4"}
    assert inspect(save(tmp_path, tensors, **claims), SHAPES).clauses() == []
    assert not inspect(save(tmp_path, tensors, ss_network_alpha=str(1.1 * alpha)), SHAPES).ok


def prefixed(prefix: str) -> Callable[[], Tensors]:
    return lambda: renamed(good(), lambda key: prefix + key.removeprefix(PREFIX))


LAYOUTS: dict[str, tuple[Callable[[], Tensors], str, int]] = {
    "published": (good, "peft", 42),
    "no prefix": (prefixed(""), "peft (no prefix)", 42),
    "base_model": (prefixed("base_model.model."), "peft (base_model.model.)", 42),
    "diffusion_model": (prefixed("diffusion_model."), "peft (diffusion_model.)", 42),
    "lora_down": (
        lambda: renamed(
            good(), lambda key: key.replace("lora_A", "lora_down").replace("lora_B", "lora_up")
        ),
        "peft",
        42,
    ),
    "bfl": (fused, "bfl", 22),
    "bfl with prefix": (
        lambda: renamed(fused(), lambda key: f"diffusion_model.{key}"),
        "bfl (diffusion_model.)",
        22,
    ),
    "kohya": (lambda: kohya(fused(), 2.0), "kohya", 33),
    "kohya without alpha": (lambda: kohya(fused(), None), "kohya", 22),
    "kohya with whole alpha": (lambda: kohya(fused(), 2), "kohya", 33),
    "kohya in bfloat16": (
        lambda: {k: v.bfloat16() for k, v in kohya(fused(), 2.0).items()},
        "kohya",
        33,
    ),
    "half precision": (lambda: {k: v.half() for k, v in good().items()}, "peft", 42),
    "bfloat16": (lambda: {k: v.bfloat16() for k, v in good().items()}, "peft", 42),
}


@pytest.mark.parametrize(("tensors", "format", "count"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_read(tmp_path, tensors, format, count):
    found = inspect(save(tmp_path, tensors()), SHAPES)
    assert found.clauses() == []
    assert (found.format, found.ranks, found.tensors) == (format, [4], count)
    assert found.modules.keys() == SHAPES.keys()


def test_flux_dev_has_228_modules():
    shapes = layout.flux_modules()
    assert len(shapes) == 228
    assert shapes["transformer_blocks.18.ff.net.0.proj"] == (12288, 3072)
    assert shapes["transformer_blocks.18.ff.net.2"] == (3072, 12288)
    assert shapes["single_transformer_blocks.37.attn.to_v"] == (3072, 3072)


def test_long_lists_name_the_first_and_count_the_rest(tmp_path):
    found = inspect(save(tmp_path, {}), layout.flux_modules())
    (clause,) = found.clauses()
    assert clause.startswith("228 modules or tensors are missing (transformer_blocks.0.attn.to_q, ")
    assert clause.endswith(" and 225 more)")

# SPDX-License-Identifier: GPL-3.0-or-later
"""`adapters check` and `adapters convert` as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blender_omnix import cli
from blender_omnix.adapters import find, trial
from blender_omnix.adapters.check import check
from blender_omnix.adapters.report import Measured
from blender_omnix.engines.compact.engine import WEIGHTS
from blender_omnix.errors import OmnixError
from tests.adapter_files import ADAPTER, ADAPTERS, MODEL, PREFIX, fused, good, kohya, save

FILE = find.PUBLISHED_NAME


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["adapters", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def checked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code, out, _ = run(capsys, "check", *arguments, "--json")
    return code, json.loads(out)


@pytest.fixture
def root(tmp_path) -> Path:
    """Two tasks, five adapters."""
    for task in ("rgb_to_normal", "rgb_camray_to_normal"):
        shutil.copytree(ADAPTERS / task, tmp_path / "adapters" / task)
    return tmp_path / "adapters"


def test_the_recorded_set_is_well(capsys):
    code, found = checked(capsys, ADAPTERS, "--base", MODEL)
    assert code == 0
    assert found["ok"] is True
    assert len(found["adapters"]) == 13
    for adapter in found["adapters"]:
        assert adapter["ok"]
        assert (adapter["format"], adapter["rank"], adapter["alpha"]) == ("peft", 4, None)
        assert (adapter["modules_expected"], adapter["modules_injected"]) == (21, 21)
        assert (adapter["tensors"], adapter["tensors_equal"]) == (42, 42)
        assert adapter["routing_error"] < 1e-4
        assert adapter["effect_off"] > 0.1
        assert adapter["effect_swapped"] > 0.1
        assert adapter["unknown"] == adapter["missing"] == adapter["zero"] == []
    batches = [(adapter["task"], adapter["name"]) for adapter in found["adapters"]]
    assert batches[:3] == [("rgb_camray_to_normal", name) for name in ("rgb", "camray", "normal")]


def test_the_table_has_a_line_for_each_adapter(capsys, root):
    code, out, err = run(capsys, "check", root, "--base", MODEL)
    lines = out.splitlines()
    assert code == 0
    assert err == ""
    assert lines[0].split()[:4] == ["well", "task", "adapter", "format"]
    assert lines[0].split()[-5:] == ["injected", "equal", "routing", "off", "swapped"]
    assert len(lines) == 2 + 5 + 2
    assert lines[-1] == "5 of 5 adapters are well."


def test_without_a_base_the_modules_are_those_of_flux_dev(capsys):
    code, found = checked(capsys, ADAPTER)
    assert code == 1
    (adapter,) = found["adapters"]
    assert adapter["modules_expected"] == 228
    assert len(adapter["missing"]) == 207
    assert adapter["modules_injected"] is None


@pytest.mark.parametrize(
    "tensors",
    [good, fused, lambda: kohya(fused(), 2.0), lambda: kohya(fused(), None)],
    ids=["peft", "bfl", "kohya", "kohya without alpha"],
)
def test_a_lone_file_of_any_layout_and_name(capsys, tmp_path, tensors):
    file = save(tmp_path, tensors()).rename(tmp_path / "My LoRA v1.2 ä.safetensors")
    code, found = checked(capsys, file, "--base", MODEL)
    assert (code, found["refusals"]) == (0, [])
    (adapter,) = found["adapters"]
    assert adapter["modules_injected"] == 21
    assert adapter["tensors_equal"] == adapter["tensors"] == len(tensors())
    assert adapter["effect_off"] > 0.1
    assert adapter["effect_swapped"] is None


def test_a_base_without_weights_still_proves_injection(capsys, tmp_path):
    (tmp_path / "transformer").mkdir()
    shutil.copy(MODEL / "transformer" / "config.json", tmp_path / "transformer")
    code, out, err = run(capsys, "check", ADAPTERS, "--base", tmp_path)
    assert (code, err) == (0, "")
    assert out.rstrip().endswith("holds no weights.")
    assert "Outputs were not measured" in out


def test_flattened_names_are_found(capsys, root, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in root.glob(f"*/*/{FILE}"):
        file.rename(flat / f"{file.parent.parent.name}_{file.parent.name}.safetensors")
    code, found = checked(capsys, flat, "--base", MODEL)
    assert code == 0
    assert {(a["task"], a["name"]) for a in found["adapters"]} == {
        (task, name)
        for task in ("rgb_to_normal", "rgb_camray_to_normal")
        for name in find.TASKS[task]
    }


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-4]), "truncated"),
        (lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        (lambda f: f.write_bytes((2**62).to_bytes(8, "little") + b"{}"), "declares a header"),
        (lambda f: torch.save(good(), f), "pickled"),
        (lambda f: f.write_bytes(b""), "is empty"),
        (lambda f: f.rename(f.with_suffix(".bin")), "pickled"),
        (lambda f: f.unlink(), "rgb_to_normal lacks the adapter rgb"),
        (
            lambda f: save_file({k: v * ("lora_A" in k) for k, v in good().items()}, f),
            "21 tensors are all zero",
        ),
    ],
    ids=["truncated", "lfs", "bomb", "torch.save", "empty", "bin", "absent", "zero"],
)
def test_one_bad_file_fails_the_check_and_is_named(capsys, root, spoil, words):
    spoil(root / "rgb_to_normal" / "rgb" / FILE)
    code, out, err = run(capsys, "check", root, "--base", MODEL)
    assert code == 1
    assert words in err
    assert len(err.splitlines()) == 1
    assert sum(line.startswith("yes ") for line in out.splitlines()) == 4


def test_a_copied_adapter_is_found_out(capsys, root):
    one, other = (root / "rgb_to_normal" / name / FILE for name in ("rgb", "normal"))
    shutil.copy(one, other)
    code, _, err = run(capsys, "check", root, "--base", MODEL)
    assert code == 1
    assert f"{one} is a copy of {other}" in err
    # Also where its values differ.
    twice = {k: v * (2 if "lora_A" in k else 0.5) for k, v in load_file(one).items()}
    save_file(twice, other)
    code, _, err = run(capsys, "check", root, "--base", MODEL)
    assert code == 1
    assert "does exactly what another adapter does" in err


@pytest.mark.parametrize("type_", [torch.float32, torch.float64])
def test_the_adapters_of_another_task_are_found_out(capsys, root, type_):
    """Also when they were saved anew, with other metadata or in another type."""
    for task in ("rgb", "normal"):
        taken = load_file(root / "rgb_camray_to_normal" / task / FILE)
        resaved = {key: value.to(type_) for key, value in taken.items()}
        save_file(resaved, root / "rgb_to_normal" / task / FILE, {"author": "somebody"})
    code, found = checked(capsys, root, "--base", MODEL)
    assert code == 1
    refused = [
        a["file"] for a in found["adapters"] if any("is a copy of" in r for r in a["refusals"])
    ]
    assert len(refused) == 4


@pytest.mark.parametrize("factor", [1e-30, 1e-7])
def test_an_adapter_lost_in_its_rounding_has_no_effect(capsys, tmp_path, factor):
    """Not zero, and still nothing: too small for any output to differ but by rounding."""
    tensors = {k: v * (factor if "lora_B" in k else 1) for k, v in good().items()}
    code, _, err = run(capsys, "check", save(tmp_path, tensors), "--base", MODEL)
    assert code == 1
    assert "changes nothing in the model's output" in err


@pytest.mark.parametrize(("factor", "code"), [(1e-4, 1), (0.1, 0)])
def test_a_base_in_bfloat16_is_judged_by_its_own_rounding(capsys, tmp_path, factor, code):
    weights = own_base(tmp_path)
    halved = {key: value.bfloat16() for key, value in load_file(weights).items()}
    save_file(halved, weights, {"format": "pt"})
    tensors = {k: v * (factor if "lora_B" in k else 1) for k, v in good().items()}
    found, _, err = run(capsys, "check", save(tmp_path, tensors), "--base", tmp_path)
    assert found == code
    assert ("changes nothing in the model's output" in err) == bool(code)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "cannot be read; --base wants the folder that has transformer/ in it"),
        ("{", "does not describe a FLUX transformer"),
        ('{"num_layers": 2}', "does not describe a FLUX transformer"),
        ('{"num_layers": true}', "does not describe a FLUX transformer"),
        ("[]", "does not describe a FLUX transformer"),
        ("[" * 99999, "does not describe a FLUX transformer"),
    ],
)
def test_an_unusable_base_is_a_sentence(capsys, tmp_path, config, words):
    (tmp_path / "transformer").mkdir()
    if config is not None:
        (tmp_path / "transformer" / "config.json").write_text(config)
    code, out, err = run(capsys, "check", ADAPTER, "--base", tmp_path)
    assert (code, out) == (1, "")
    assert words in err


def own_base(folder):
    """A copy of the tiny base in a folder; the file of its weights."""
    shutil.copytree(MODEL / "transformer", folder / "transformer")
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


def test_a_truncated_base_is_a_sentence(capsys, tmp_path):
    weights = own_base(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-100])
    code, out, err = run(capsys, "check", ADAPTER, "--base", tmp_path)
    assert (code, out) == (1, "")
    assert "is truncated" in err


def test_a_base_that_is_not_finite_is_not_blamed_on_the_adapters(capsys, tmp_path):
    weights = own_base(tmp_path)
    tensors = load_file(weights)
    tensors["proj_out.weight"][0, 0] = torch.nan
    save_file(tensors, weights, {"format": "pt"})
    code, _, err = run(capsys, "check", ADAPTERS / "rgb_to_albedo", "--base", tmp_path)
    assert code == 1
    assert err == (
        "The base model's output is NaN or infinite without any adapter; download the base model "
        "again.\n"
    )


def test_an_incomplete_base_is_a_sentence(capsys, tmp_path):
    weights = own_base(tmp_path)
    tensors = load_file(weights)
    del tensors["proj_out.weight"]
    save_file(tensors, weights, {"format": "pt"})
    code, out, err = run(capsys, "check", ADAPTER, "--base", tmp_path)
    assert (code, out) == (1, "")
    assert "is incomplete: 1 tensors are missing or of another shape (proj_out.weight" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes_dims_rope": [2, 2, 2]}, "axes_dims_rope = [2, 2, 2], which are not"),
        ({"in_channels": "x"}, "transformer cannot be read"),
        ({"guidance_embeds": False}, "holds 4 tensors that its config.json has no place for"),
    ],
)
def test_a_base_that_its_config_does_not_describe_is_a_sentence(capsys, tmp_path, changes, words):
    config = own_base(tmp_path).with_name("config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    code, out, err = run(capsys, "check", ADAPTER, "--base", tmp_path)
    assert (code, out) == (1, "")
    assert words in err


def test_a_base_of_which_a_part_is_not_read_is_a_sentence(capsys, tmp_path):
    """Diffusers opens the file of the usual name alone."""
    weights = own_base(tmp_path)
    tensors = sorted(load_file(weights).items())
    save_file(dict(tensors[::2]), weights, {"format": "pt"})
    save_file(dict(tensors[1::2]), weights.with_name("other.safetensors"), {"format": "pt"})
    code, out, err = run(capsys, "check", ADAPTER, "--base", tmp_path)
    assert (code, out) == (1, "")
    assert "is incomplete" in err


def test_nothing_to_check_is_a_sentence(capsys, tmp_path):
    code, _, err = run(capsys, "check", tmp_path)
    assert code == 1
    assert "holds no adapters" in err
    code, _, err = run(capsys, "check", tmp_path / "absent.safetensors")
    assert code == 1
    assert "does not exist" in err


def test_refusals_before_any_adapter_are_json_too(capsys, tmp_path):
    for arguments, words in (
        ((tmp_path,), "holds no adapters"),
        ((ADAPTER, "--base", tmp_path), "--base wants the folder"),
    ):
        code, out, err = run(capsys, "check", *arguments, "--json")
        document = json.loads(out)
        assert (code, document["ok"], document["adapters"]) == (1, False, [])
        assert words in document["refusals"][0]
        assert err == document["refusals"][0] + "\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["check", "\udcff.safetensors", "--base", MODEL], 1, r"'\udcff'", "cannot be read back"),
        (["convert", ADAPTER, "\udcfe.safetensors", "--to", "bfl"], 0, r"'\udcfe.", ""),
    ],
)
def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path, arguments, code, out, err):
    shutil.copy(ADAPTER, tmp_path / "\udcff.safetensors")
    done = subprocess.run(
        [sys.executable, "-m", "blender_omnix", "adapters", *arguments],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        check=False,
    )
    assert done.returncode == code
    assert out in done.stdout.decode()
    assert err in done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("rgb_to_albedo/rgb/adapter_model.safetensors", "adapter_model.safetensors is overlooked"),
        ("rgb_to_albedo/albedo.safetensors", "albedo.safetensors is overlooked"),
        ("a/b/c/d/model.BIN", "model.BIN is overlooked"),
        ("rgb_to_albedo_albedo.SAFETENSORS", "rgb_to_albedo lacks the adapter rgb"),
        (f"rgb_to_norml/rgb/{FILE}", "rgb_to_norml is named after no task"),
        (f"RGB_to_normal/rgb/{FILE}", "RGB_to_normal is named after no task"),
        (f"rgb_to_normal/rbg/{FILE}", "rbg is named after no adapter of rgb_to_normal"),
    ],
)
def test_weights_that_no_engine_would_find_are_told(capsys, root, place, words):
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v + 1 for k, v in good().items()}, root / place)
    code, _, err = run(capsys, "check", root, "--base", MODEL)
    assert code == 1
    assert words in err
    assert len(err.splitlines()) == 1


def test_what_macos_leaves_behind_is_passed_over(capsys, root, tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    shutil.copy(ADAPTER, root / "rgb_to_albedo_rgb.safetensors")
    other = ADAPTERS / "rgb_to_albedo" / "albedo" / FILE
    shutil.copy(other, root / "rgb_to_albedo_albedo.safetensors")
    for file in [*tmp_path.rglob("*.safetensors")]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7" + b"\0" * 100)
    index = tmp_path / "model" / "transformer" / "._x.safetensors.index.json"
    index.write_bytes(b"\0\5\x16\7")
    code, out, err = run(capsys, "check", root, "--base", tmp_path / "model")
    assert (code, err) == (0, "")
    assert "7 of 7 adapters are well" in out


def test_two_files_for_one_place_are_refused(root):
    shutil.copy(ADAPTER, root / "rgb_to_normal_rgb.safetensors")
    with pytest.raises(OmnixError, match="both claim the adapter rgb of rgb_to_normal"):
        find.find(root)


def test_a_task_is_found_in_batch_order_or_not_at_all(root):
    assert list(find.task_files(root, "rgb_camray_to_normal")) == ["rgb", "camray", "normal"]
    (root / "rgb_camray_to_normal" / "camray" / FILE).unlink()
    with pytest.raises(OmnixError, match="lacks the adapter camray of rgb_camray_to_normal"):
        find.task_files(root, "rgb_camray_to_normal")


def network(folder: Path, **metadata: str) -> dict[str, torch.Tensor]:
    """A network of one convolution and two adapters for it; returns the tensors of one."""
    base = {"up.conv.weight": torch.randn(4, 3, 3, 3), "up.conv.bias": torch.zeros(4)}
    save_file(base, folder / find.BASE_NAME, metadata)
    for name in ("albedo", "depth"):
        pair = {
            "up.conv.lora_A.weight": torch.randn(2, 3, 3, 3),
            "up.conv.lora_B.weight": torch.randn(4, 2, 1, 1),
        }
        save_file(pair, folder / f"{name}.safetensors")
    return pair


def test_adapters_beside_their_network_are_checked_against_it(tmp_path):
    pair = network(tmp_path, adapted_modules='["up.conv"]')
    items, remarks = check(tmp_path)
    assert [item.found.name for item in items] == ["albedo", "depth"]
    assert [item.refusals for item in items] == [[], []]
    assert remarks == []
    assert items[0].inspection.expected == 1
    pair["up.conv.lora_A.weight"] = torch.randn(2, 3, 1, 1)
    save_file(pair, tmp_path / "depth.safetensors")
    (item,), _ = check(tmp_path / "depth.safetensors")
    assert "up.conv.lora_A.weight [2, 3, 1, 1] instead of [2, 3, 3, 3]" in item.refusals[0]


def test_an_engine_may_measure_adapters_beside_their_network(tmp_path):
    network(tmp_path, adapted_modules='["up.conv"]')
    numbers = {"albedo": Measured(1, 2, 0.5, 0.25), "depth": Measured(1, 2, 0.0, 0.25)}
    albedo, depth = check(tmp_path, measure=lambda folder: numbers)[0]
    assert albedo.measured == numbers["albedo"]
    assert albedo.refusals == []
    assert "changes nothing in the model's output" in depth.refusals[0]
    del numbers["depth"]
    _, stray = check(tmp_path, measure=lambda folder: numbers)[0]
    assert "is loaded by no engine" in stray.refusals[0]


@pytest.mark.parametrize(
    ("off", "swapped", "refused"),
    [
        (0.5, 0.5, False),
        (0.5, None, False),
        (0.01, 0.5, True),  # could as well be no adapter's output
        (0.5, 0.01, True),  # or another's
    ],
)
def test_an_error_of_routing_is_small_beside_the_effects(monkeypatch, off, swapped, refused):
    class Trial:
        tolerance = 0.05

        def __init__(self, folder):
            pass

        def run(self, files):
            return [Measured(21, 42, off, swapped, 0.004)]

    monkeypatch.setattr(trial, "Trial", Trial)
    (item,), _ = check(ADAPTER, MODEL)
    assert item.measured.routing_error == 0.004
    assert len(item.refusals) == refused
    assert all("in a mixed batch" in refusal for refusal in item.refusals)


def test_the_shipped_compact_adapters_are_well(capsys):
    code, found = checked(capsys, WEIGHTS)
    assert (code, found["refusals"]) == (0, [])
    assert [a["name"] for a in found["adapters"]] == ["albedo", "depth", "normal", "pbr"]
    for adapter in found["adapters"]:
        assert adapter["modules_injected"] == adapter["modules_expected"] > 0
        assert adapter["tensors_equal"] == adapter["tensors"]
        assert adapter["effect_off"] > 0
        assert adapter["effect_swapped"] > 0


@pytest.mark.parametrize("metadata", [{}, {"adapted_modules": "[" * 99999}])
def test_a_network_that_names_no_modules_is_refused(capsys, tmp_path, metadata):
    network(tmp_path, **metadata)
    code, _, err = run(capsys, "check", tmp_path)
    assert code == 1
    assert "does not say which of its modules adapters fill" in err


def test_convert_says_what_it_did(capsys, tmp_path):
    target = tmp_path / "kohya.safetensors"
    code, out, _ = run(capsys, "convert", ADAPTER, target, "--to", "kohya")
    assert (code, out) == (0, f"{target}: peft -> kohya, 33 tensors\n")
    assert len(load_file(target)) == 33
    wide = tmp_path / "wide.safetensors"
    code, out, _ = run(capsys, "convert", save(tmp_path, kohya(fused(), 3.0)), wide, "--to", "peft")
    assert code == 0
    assert "wider type" in out


def test_convert_refuses_keys_that_match(capsys, tmp_path):
    target = tmp_path / "same.safetensors"
    code, out, err = run(capsys, "convert", ADAPTER, target, "--to", "peft")
    assert (code, out) == (1, "")
    assert "already has the keys of peft" in err
    assert not target.exists()


def test_files_are_checked_and_converted_without_torch(tmp_path):
    code = f"""
import sys
from blender_omnix import cli
cli.main(["adapters", "check", {str(ADAPTER)!r}])
arguments = ["convert", {str(ADAPTER)!r}, {str(tmp_path / "x.safetensors")!r}, "--to", "bfl"]
assert cli.main(["adapters", *arguments]) == 0
print(sorted({{"torch", "peft", "diffusers", "safetensors"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_stray_alpha_is_named(capsys, tmp_path):
    stem = f"{PREFIX}single_transformer_blocks.0.attn.to_v"
    file = save(tmp_path, good() | {f"{stem}.alpha": torch.tensor(16.0)})
    code, found = checked(capsys, file, "--base", MODEL)
    assert code == 1
    assert found["adapters"][0]["bad_alpha"] == [f"{stem}.alpha is on some modules but not on all"]

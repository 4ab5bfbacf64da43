# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from blender_omnix.engines.flux import prompt
from blender_omnix.errors import OmnixError
from tests.flux_tiny import MODEL, make_weights, watch

torch.set_num_threads(1)

CPU = torch.device("cpu")


@pytest.fixture
def encoders(tmp_path):
    """A folder with the text encoders and tokenizers of a FLUX, tiny and random."""
    torch.manual_seed(0)
    characters = ["<|startoftext|>", "<|endoftext|>", *map(chr, range(33, 127))]
    words = [*characters, *(character + "</w>" for character in characters[2:])]
    clip = tmp_path / "tokenizer"
    clip.mkdir()
    (clip / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (clip / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(clip, model_max_length=77).save_pretrained(clip)
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    ).save_pretrained(tmp_path / "text_encoder")  # fmt: skip

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *characters[2:]])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path / "tokenizer_2")
    T5EncoderModel(
        T5Config(
            vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    ).save_pretrained(tmp_path / "text_encoder_2")  # fmt: skip
    return tmp_path


def test_encoding_is_that_of_diffusers(encoders):
    """Same tokens, padding, pooling and type as FluxPipeline's own encode_prompt."""
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(MODEL / "scheduler"),
        vae=AutoencoderKL.from_pretrained(MODEL / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(encoders / "text_encoder", dtype=torch.bfloat16),
        tokenizer=AutoTokenizer.from_pretrained(encoders / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(
            encoders / "text_encoder_2", dtype=torch.bfloat16
        ),
        tokenizer_2=AutoTokenizer.from_pretrained(encoders / "tokenizer_2"),
        transformer=None,
    )
    with torch.no_grad():
        tokens, pooled, _ids = pipe.encode_prompt(prompt.TEXT, device="cpu")
    encoded = prompt.encode(encoders, prompt.TEXT, CPU)
    assert encoded.tokens.shape == (1, 512, 32)
    assert encoded.pooled.shape == (1, 32)
    assert torch.equal(encoded.tokens, tokens)
    assert torch.equal(encoded.pooled, pooled)


def test_the_prompt_is_encoded_once(encoders):
    first = prompt.load(encoders, CPU)
    for part in ("text_encoder", "text_encoder_2"):
        shutil.rmtree(encoders / part)
    second = prompt.load(encoders, CPU)
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.pooled, second.pooled)


def test_encoding_asks_for_local_files_alone(encoders, monkeypatch):
    asked = watch(monkeypatch, AutoTokenizer, CLIPTextModel, T5EncoderModel)
    prompt.encode(encoders, prompt.TEXT, CPU)
    assert len(asked) == 4 and all(asked)


def test_a_folder_that_takes_no_cache_is_no_failure(encoders, monkeypatch):
    (encoders / prompt.CACHE).unlink(missing_ok=True)
    monkeypatch.setattr(prompt, "CACHE", "absent/prompt_embeds.safetensors")
    assert prompt.load(encoders, CPU).tokens.ndim == 3
    assert not (encoders / "absent").exists()


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_a_damaged_encoder_is_named(encoders, part):
    (file,) = (encoders / part).glob("*.safetensors")
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(OmnixError, match=f"{part} cannot be read"):
        prompt.encode(encoders, prompt.TEXT, CPU)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_an_incomplete_encoder_is_named_and_nothing_is_cached(encoders, part):
    """Transformers would go on with random weights."""
    file = encoders / part / "model.safetensors"
    tensors = load_file(file)
    save_file(dict(sorted(tensors.items())[1:]), file, {"format": "pt"})
    with pytest.raises(OmnixError, match=f"{part} is incomplete: 1 tensors"):
        prompt.load(encoders, CPU)
    assert not (encoders / prompt.CACHE).exists()


def test_encoders_that_give_no_numbers_are_told(encoders):
    file = encoders / "text_encoder_2" / "model.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(OmnixError, match="give no numbers for the prompt"):
        prompt.load(encoders, CPU)
    assert not (encoders / prompt.CACHE).exists()


def test_an_absent_tokenizer_is_named(encoders):
    shutil.rmtree(encoders / "tokenizer_2")
    with pytest.raises(OmnixError, match="tokenizer_2 cannot be read"):
        prompt.encode(encoders, prompt.TEXT, CPU)


@pytest.mark.parametrize(
    ("tokens", "pooled"),
    [
        (torch.ones(2, 3, 4), torch.ones(2, 5)),
        (torch.full((1, 3, 4), torch.nan), torch.ones(1, 5)),
        (torch.ones(1, 3, 4), torch.ones(1, 5).int()),
        (torch.ones(1, 0, 4), torch.ones(1, 5)),
        (torch.ones(1, 3, 4), torch.zeros(1, 5)),
    ],
)
def test_embeddings_of_another_kind_are_refused(tmp_path, tokens, pooled):
    prompt.write(tmp_path / prompt.CACHE, prompt.Prompt(tokens, pooled))
    with pytest.raises(OmnixError, match="does not hold prompt_embeds"):
        prompt.load(tmp_path, CPU)


@pytest.mark.parametrize("length", [77, 256, 513])
def test_a_cached_prompt_of_another_length_is_refused(tmp_path, length):
    found = prompt.Prompt(torch.ones(1, length, 4), torch.ones(1, 5))
    prompt.write(tmp_path / prompt.CACHE, found)
    with pytest.raises(OmnixError, match=rf"{prompt.CACHE} holds {length} text .* takes 512, "):
        prompt.load(tmp_path, CPU)


def test_nothing_to_encode_with_is_told(tmp_path):
    with pytest.raises(OmnixError, match=r"neither prompt_embeds\.safetensors nor tok"):
        prompt.load(tmp_path, CPU)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_a_damaged_cache_is_named(tmp_path, content):
    weights = make_weights(tmp_path / "weights")
    cache = weights / prompt.CACHE
    if content is None:
        shutil.copy(MODEL / "vae" / "diffusion_pytorch_model.safetensors", cache)
    else:
        cache.write_bytes(content)
    with pytest.raises(OmnixError, match="does not hold prompt_embeds"):
        prompt.load(weights, CPU)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_a_pickled_encoder_is_not_opened(encoders, part, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    (file,) = (encoders / part).glob("*.safetensors")
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    with pytest.raises(OmnixError, match=f"{part} cannot be read"):
        prompt.encode(encoders, prompt.TEXT, CPU)


def test_code_in_the_folder_is_neither_run_nor_asked_about(encoders, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    config = encoders / "tokenizer_2" / "tokenizer_config.json"
    named = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))
    (encoders / "tokenizer_2" / "own.py").write_text(f"open({str(encoders / 'ran')!r}, 'w')")
    with pytest.raises(OmnixError, match="tokenizer_2 cannot be read"):
        prompt.encode(encoders, prompt.TEXT, CPU)
    assert not (encoders / "ran").exists()

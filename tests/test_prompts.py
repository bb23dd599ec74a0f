from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImageLayeredPipeline

from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.prompts import PromptCache, TextEncoder, read_embedding, texts, write_embedding
from layerctl.errors import InputError


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> TextEncoder:
    return TextEncoder(read_checkpoint(tiny), torch.device("cpu"))


@pytest.fixture
def cache(tiny: Path, tmp_path: Path) -> PromptCache:
    return PromptCache(tmp_path / "cache", read_checkpoint(tiny))


@pytest.mark.parametrize("prompt", ["a clean, well composed image", " ", "кот, 猫, {braces}", "word " * 400])
def test_an_embedding_is_the_pipelines_unpadded(encoder: TextEncoder, tiny: Path, prompt: str) -> None:
    pipeline = QwenImageLayeredPipeline.from_pretrained(tiny, processor=None, dtype=torch.float32)
    expected, mask = pipeline.encode_prompt(prompt, device="cpu", max_sequence_length=512)
    assert mask is None
    assert torch.equal(encoder.embed(prompt), expected[0])


def test_a_caption_is_the_same_each_time_and_sees_the_picture(encoder: TextEncoder) -> None:
    pixels = [np.random.default_rng(seed).integers(0, 256, (64, 96, 4), np.uint8) for seed in (1, 2)]
    captions = [encoder.caption(each) for each in (pixels[0], pixels[0], pixels[1])]
    assert captions[0] == captions[1]
    assert captions[0] != captions[2]


def test_embeddings_and_captions_come_back_from_the_disk(cache: PromptCache) -> None:
    embedding = torch.randn(7, 16, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    assert cache.embedding("a cat") is None
    cache.keep_embedding("a cat", embedding)
    kept = cache.embedding("a cat")
    assert kept is not None
    assert torch.equal(kept, embedding)
    assert cache.embedding("a dog") is None
    cache.keep_caption("hash", "ein Bild, 猫")
    assert (cache.caption("hash"), cache.caption("other")) == ("ein Bild, 猫", None)


def test_what_is_kept_is_read_without_the_encoder_and_not_with_another_one(cache: PromptCache, tiny: Path, tmp_path: Path) -> None:
    cache.keep_embedding("a cat", torch.ones(3, 16))
    copy = shutil.copytree(tiny, tmp_path / "model")
    weights = copy / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert PromptCache(cache.folder, read_checkpoint(copy)).embedding("a cat") is None
    weights.unlink()
    assert PromptCache(cache.folder, read_checkpoint(copy)).embedding("a cat") is not None


def test_another_model_has_a_cache_of_its_own(cache: PromptCache, tiny: Path) -> None:
    cache.keep_embedding("a cat", torch.ones(3, 16))
    assert PromptCache(cache.folder, read_checkpoint(tiny, "org/model", "0" * 40)).embedding("a cat") is None


def test_a_damaged_file_in_the_cache_is_made_anew(cache: PromptCache) -> None:
    cache.keep_embedding("a cat", torch.ones(3, 16))
    cache.keep_caption("hash", "words")
    for path in cache.folder.rglob("*.*"):
        path.write_bytes(path.read_bytes()[:10])
    assert (cache.embedding("a cat"), cache.caption("hash")) == (None, None)


def test_an_embedding_of_another_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompt_embedding.safetensors"
    write_embedding(path, torch.ones(3, 8), {"prompt": "a cat"})
    assert read_embedding(path, 8)[1]["prompt"] == "a cat"
    with pytest.raises(InputError, match="16"):
        read_embedding(path, 16)


def test_the_texts_are_the_reference_pipelines() -> None:
    assert texts().left_out == 34
    assert texts().template.count("{}") == 1
    assert "<|image_pad|>" in texts().caption_request

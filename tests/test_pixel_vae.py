"""The VAE that loses nothing, and checkpoints with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.model import Condition, LayeredModel, load_part
from layerctl.engines.qwen.pixel_vae import PixelShuffleVAE
from layerctl.engines.qwen.session import Session, decoded_pixels
from layerctl.registry import DecomposeRequest
from layerctl.settings import Settings
from layerctl.testing import scene
from layerctl.testing.checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    write_tiny_checkpoint(folder, patch=2)
    return folder


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_what_is_encoded_is_decoded_to_the_bit(patch: int) -> None:
    vae = PixelShuffleVAE.with_patch(patch)
    picture = torch.rand(2, 4, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    latents = vae.encode(picture).latent_dist.mode()
    assert latents.shape == (2, 4 * patch**2, 1, 16 // patch, 24 // patch)
    assert vae.decode(latents)[0].equal(picture)


def test_a_frame_through_the_model_comes_back_as_it_was(small: Path) -> None:
    checkpoint = read_checkpoint(small)
    assert checkpoint.pixels_per_token == 4
    model = LayeredModel(None, load_part(checkpoint, "vae", torch.float32), device=torch.device("cpu"), dtype=torch.float32)
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 4), np.uint8)
    x = torch.cat([model.encode_picture(frame) for frame in frames], dim=1)
    assert x.shape == (1, 3 * 8 * 12, 64)
    condition = Condition(model.encode_picture(frames[0]), torch.zeros(1, 1, 16), rows=8, columns=12, layers=2)
    assert np.array_equal(decoded_pixels(model, x, condition), frames[1:])


def test_the_engine_decomposes_with_it(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = replace(Settings(), model=str(small), preset="stable-layers", size=64, steps=1, sampler="euler", device="cpu").model_options()
    source, _ = scene(1, width=64, height=48)
    proposal = Session(options, lambda _: None).decompose(source, DecomposeRequest(2), lambda *_: None)
    assert (proposal.stack.width, proposal.stack.height) == (64, 48)
    assert len(list(proposal.stack.walk())) == 2

"""The model in parts against diffusers' own pipeline, on a tiny checkpoint of the same classes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import QwenImageLayeredPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_layered
from PIL import Image
from safetensors.torch import load_file, save_file

from layerctl.engines.qwen import sampler
from layerctl.engines.qwen.checkpoint import Checkpoint, read_checkpoint
from layerctl.engines.qwen.model import Condition, LayeredModel, load_part, pack, unpack
from layerctl.engines.qwen.recipe import PRESETS
from layerctl.errors import UsageError

PROMPT = "a clean, well composed image"
STEPS = 3


@pytest.fixture(scope="module")
def checkpoint(tiny: Path) -> Checkpoint:
    return read_checkpoint(tiny)


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> LayeredModel:
    transformer, vae = (load_part(checkpoint, part, torch.float32) for part in ("transformer", "vae"))
    return LayeredModel(transformer, vae, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def pipeline(tiny: Path) -> Any:
    loaded = QwenImageLayeredPipeline.from_pretrained(tiny, processor=None, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's own arithmetic of sizes at an eighth of its area, where it takes no minutes on a CPU."""
    dimensions = pipeline_qwenimage_layered.calculate_dimensions
    monkeypatch.setattr(pipeline_qwenimage_layered, "calculate_dimensions", lambda area, ratio: dimensions(96 * 96, ratio))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8))


def condition(model: LayeredModel, pipeline: Any, pixels: npt.NDArray[np.uint8], layers: int, cfg: float, normalize: bool) -> Condition:
    prompt, _ = pipeline.encode_prompt(PROMPT, device="cpu")
    negative, _ = pipeline.encode_prompt(" ", device="cpu") if cfg > 1 else (None, None)
    height, width = pixels.shape[:2]
    return Condition(model.encode_picture(pixels), prompt, height // 16, width // 16, layers, negative, cfg, normalize)


def ours(
    model: LayeredModel, checkpoint: Checkpoint, given: Condition, noise: torch.Tensor
) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    sigmas = sampler.sigma_grid(checkpoint.configs["scheduler"], STEPS, given.picture.shape[1])
    with torch.no_grad():
        x = sampler.sample("euler", lambda x, sigma: model.velocity(x, sigma, given), noise, sigmas)
    return x, model.decode_layers(x, given).permute(0, 2, 3, 1).numpy()


def theirs(
    pipeline: Any, image: Image.Image, layers: int, cfg: float, normalize: bool, noise: torch.Tensor
) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    latents = []

    def keep(_pipeline: Any, _step: int, _time: Any, state: dict[str, Any]) -> dict[str, Any]:
        latents.append(state["latents"])
        return state

    shown = pipeline(
        image, prompt=PROMPT, negative_prompt=" " if cfg > 1 else None, true_cfg_scale=cfg, cfg_normalize=normalize, layers=layers,
        num_inference_steps=STEPS, latents=noise, output_type="np", callback_on_step_end=keep,
    ).images[0]  # fmt: skip
    return latents[-1], shown


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("layers", range(1, 9))
@pytest.mark.parametrize(("cfg", "normalize"), [(1.0, False), (4.0, True), (4.0, False)])
def test_euler_gives_the_pipelines_latents_and_layers_bit_for_bit(
    model: LayeredModel, checkpoint: Checkpoint, pipeline: Any, layers: int, cfg: float, normalize: bool
) -> None:
    image = picture(64, 96)
    size = pipeline_qwenimage_layered.calculate_dimensions(0, image.width / image.height)
    given = condition(model, pipeline, np.asarray(image.resize(size, Image.Resampling.LANCZOS)), layers, cfg, normalize)
    noise = sampler.picture_noise(given.state_shape, 1, "aa")
    latents, shown = ours(model, checkpoint, given, noise)
    expected_latents, expected = theirs(pipeline, image, layers, cfg, normalize, noise)
    assert torch.equal(latents, expected_latents)
    assert np.array_equal(shown, expected)
    assert len(shown) == layers


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize(("width", "height"), [(31, 200), (200, 31), (77, 78), (640, 360)])
def test_odd_aspect_ratios_agree_too(model: LayeredModel, checkpoint: Checkpoint, pipeline: Any, width: int, height: int) -> None:
    image = picture(width, height)
    size = pipeline_qwenimage_layered.calculate_dimensions(0, width / height)
    given = condition(model, pipeline, np.asarray(image.resize(size, Image.Resampling.LANCZOS)), 2, 4.0, True)
    noise = sampler.picture_noise(given.state_shape, 1, "aa")
    latents, shown = ours(model, checkpoint, given, noise)
    expected_latents, expected = theirs(pipeline, image, 2, 4.0, True, noise)
    assert torch.equal(latents, expected_latents)
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize(("width", "height"), [(640, 640), (720, 1280), (1280, 721), (333, 1000), (50, 49)])
def test_the_qwen_preset_sizes_pictures_as_the_pipeline_does(width: int, height: int) -> None:
    expected = pipeline_qwenimage_layered.calculate_dimensions(640 * 640, width / height)
    assert PRESETS["qwen"].model_size(width, height) == expected


@pytest.mark.usefixtures("small_buckets")
def test_the_pipelines_own_split_of_several_pictures_is_still_wrong(pipeline: Any) -> None:
    """When this fails, diffusers has mended it: batches could go through one forward then."""
    images = [picture(96, 96, seed) for seed in (1, 2)]
    shown = pipeline(
        images, prompt=[PROMPT] * 2, true_cfg_scale=1.0, layers=3, num_inference_steps=2, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert [len(layers) for layers in shown] == [4, 2]


def test_several_samples_of_one_shape_agree_with_one_by_one(model: LayeredModel, pipeline: Any) -> None:
    one, other = (condition(model, pipeline, np.asarray(picture(48, 64, seed)), 2, 1.0, False) for seed in (1, 2))
    both = Condition(torch.cat([one.picture, other.picture]), torch.cat([one.prompt, other.prompt]), one.rows, one.columns, 2)
    x = sampler.picture_noise((2, *one.state_shape[1:]), 1, "aa")
    sigma = torch.tensor(0.7)
    with torch.no_grad():
        together = model.velocity(x, sigma, both)
        apart = [model.velocity(x[:1], sigma, one), model.velocity(x[1:], sigma, other)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)


def test_guidance_of_one_is_the_plain_velocity(model: LayeredModel, pipeline: Any) -> None:
    pixels = np.asarray(picture(32, 32))
    plain, guided = (condition(model, pipeline, pixels, 2, cfg, False) for cfg in (1.0, 4.0))
    unit = Condition(guided.picture, guided.prompt, guided.rows, guided.columns, 2, guided.negative, 1.0)
    x, sigma = sampler.picture_noise(plain.state_shape, 1, "aa"), torch.tensor(0.5)
    with torch.no_grad():
        assert torch.allclose(model.velocity(x, sigma, unit), model.velocity(x, sigma, plain), atol=1e-6)
        assert not torch.allclose(model.velocity(x, sigma, guided), model.velocity(x, sigma, plain), atol=1e-6)


def test_normalised_guidance_keeps_each_tokens_norm(model: LayeredModel, pipeline: Any) -> None:
    given = condition(model, pipeline, np.asarray(picture(32, 32)), 2, 4.0, True)
    plain = Condition(given.picture, given.prompt, given.rows, given.columns, 2)
    x, sigma = sampler.picture_noise(given.state_shape, 1, "aa"), torch.tensor(0.5)
    with torch.no_grad():
        guided, unguided = (model.velocity(x, sigma, condition).norm(dim=-1) for condition in (given, plain))
    assert torch.allclose(guided, unguided, atol=1e-5)


def test_the_velocity_has_gradients_for_training(model: LayeredModel, pipeline: Any) -> None:
    given = condition(model, pipeline, np.asarray(picture(32, 32)), 2, 1.0, False)
    x = sampler.picture_noise(given.state_shape, 1, "aa").requires_grad_()
    (gradient,) = torch.autograd.grad(model.velocity(x, torch.tensor(0.5), given).square().sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("frames", [1, 4])
def test_packing_and_unpacking_are_inverse(frames: int) -> None:
    latents = torch.arange(2 * 16 * frames * 6 * 8).reshape(2, 16, frames, 6, 8)
    assert torch.equal(unpack(pack(latents), frames, 3, 4), latents)


def test_a_frames_tokens_lie_together(model: LayeredModel) -> None:
    latents = torch.zeros(1, 16, 2, 4, 4)
    latents[:, :, 1] = 1
    assert pack(latents)[0, :, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_files_that_lack_tensors_are_refused_by_name(tiny: Path, tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(tiny, tmp_path / "model")
    (file,) = (copy / part).glob("*.safetensors")
    tensors = load_file(file)
    gone = sorted(tensors)[3]
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="lacks 1 tensors"):
        load_part(read_checkpoint(copy), part, torch.float32)

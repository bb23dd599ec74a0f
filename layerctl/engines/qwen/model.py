"""Qwen-Image-Layered as parts: pictures to latents and back, and the velocity that samplers integrate and training differentiates.

Shapes: a picture of H x W pixels (multiples of 16) is h x w tokens a frame, H/16 x W/16 with Qwen's own VAE. The state x holds layers + 1
frames one after another, [B, (layers + 1) * h * w, 4 * latent channels]; frame 0 is the whole picture once more, which nobody uses. The
samples of a batch share size, layer count and prompt length; text is never padded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from layerctl.engines.qwen.checkpoint import Checkpoint
from layerctl.errors import UsageError

TIME_SCALE = 1000
"""The transformer takes sigma; the references hand it over as timestep / 1000, rounded to the model's dtype on the way."""

_NOISY = ("diffusers", "transformers", "torchao", "torch.utils._pytree")


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What a velocity is conditioned on.

    `picture`: the source's latents, [B, h * w, 4 * latent channels]. `prompt`, `negative`: text embeddings, [B, T, text width], T of each
    its own; without `negative` there is no guidance, and `cfg` has no effect. `normalize`: scale each token of the guided velocity to the
    norm of the conditional one.
    """

    picture: torch.Tensor
    prompt: torch.Tensor
    rows: int
    columns: int
    layers: int
    negative: torch.Tensor | None = None
    cfg: float = 1.0
    normalize: bool = False

    @property
    def frames(self) -> int:
        """How many frames are generated: the layers, and the whole picture before them."""
        return self.layers + 1

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """The shape of x for one sample."""
        return (1, self.frames * self.rows * self.columns, self.picture.shape[-1])


class LayeredModel:
    """Transformer and VAE, loaded. `device` is where computing happens; offloaded weights may lie elsewhere.

    `hooks`: accelerate's, of parts that take turns on the device.
    """

    def __init__(self, transformer: Any, vae: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self.transformer, self.vae, self.device, self.dtype = transformer, vae, device, dtype
        self.hooks: list[Any] = []

    @torch.no_grad()
    def encode_picture(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Latents of one picture (H x W x 4, straight alpha, sRGB, sides multiples of 16): [1, h * w, 4 * latent channels].

        The mode of the posterior, normalised by the VAE's own mean and deviation.
        """
        unit = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)
        image = (2 * unit - 1)[None, :, None].to(self.device, self.vae.dtype)
        latents = self.vae.encode(image).latent_dist.mode()
        mean, std = self._statistics(latents)
        return pack((latents - mean) / std).to(self.dtype)

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        """dx/dsigma at x and sigma (0-dimensional float32), in the shape of x and the model's dtype."""
        v = self._evaluate(x, sigma, condition, condition.prompt)
        if condition.negative is None:
            return v
        v_negative = self._evaluate(x, sigma, condition, condition.negative)
        guided = v_negative + condition.cfg * (v - v_negative)
        if not condition.normalize:
            return guided
        return guided * (torch.norm(v, dim=-1, keepdim=True) / torch.norm(guided, dim=-1, keepdim=True))

    @torch.no_grad()
    def decode_layers(self, x: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The layers of one sample, bottom to top: straight RGBA, float32, 0..1, [layers, 4, H, W]."""
        latents = unpack(x, condition.frames, condition.rows, condition.columns).to(self.vae.dtype)
        mean, std = self._statistics(latents)
        latents = latents / (1.0 / std) + mean
        # All layers in one batch, as the references have it; `vae.use_slicing`, set where memory is short, takes them one by one.
        layers = latents[0, :, 1:].transpose(0, 1)[:, :, None]
        decoded = self.vae.decode(layers, return_dict=False)[0][:, :, 0]
        return (decoded * 0.5 + 0.5).clamp(0, 1).float()

    def _evaluate(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition, prompt: torch.Tensor) -> torch.Tensor:
        frame = (1, condition.rows, condition.columns)
        time = (sigma * TIME_SCALE).expand(len(x)).to(self.device, self.dtype) / TIME_SCALE
        out = self.transformer(
            hidden_states=torch.cat([x.to(self.dtype), condition.picture], dim=1),
            timestep=time,
            encoder_hidden_states=prompt,
            img_shapes=[[frame] * (condition.frames + 1)] * len(x),
            additional_t_cond=torch.zeros(len(x), device=self.device, dtype=torch.long),
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]]

    def _statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1, 1).to(latents.device, latents.dtype)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        return mean, std


def pack(latents: torch.Tensor) -> torch.Tensor:
    """[B, C, F, 2h, 2w] -> [B, F * h * w, 4C]: squares of 2 x 2 latent pixels become tokens, frame after frame, row after row."""
    batch, channels, frames, height, width = latents.shape
    squares = latents.view(batch, channels, frames, height // 2, 2, width // 2, 2).permute(0, 2, 3, 5, 1, 4, 6)
    return squares.reshape(batch, -1, channels * 4)


def unpack(tokens: torch.Tensor, frames: int, rows: int, columns: int) -> torch.Tensor:
    """The inverse of `pack`."""
    squares = tokens.view(len(tokens), frames, rows, columns, -1, 2, 2).permute(0, 4, 1, 2, 5, 3, 6)
    return squares.reshape(len(tokens), -1, frames, rows * 2, columns * 2)


def load_part(
    checkpoint: Checkpoint, part: str, dtype: torch.dtype | Literal["auto"], *, quantization: Any = None, device: str | None = None
) -> Any:
    """One part of a checkpoint with its weights, on the CPU unless `device` names another, in evaluation mode, without gradients.

    Safetensors only; the class is the one that the allow-list holds, never one that the checkpoint brings. `quantization`: a config of
    diffusers or transformers, whichever owns the class. Raises MissingDependencyError for weights that are not there, UsageError for files
    that lack tensors.
    """
    if not checkpoint.has_weights(part):
        raise checkpoint.missing(part)
    library, _, name = checkpoint.classes[part].partition(":")
    folder = checkpoint.folder / part
    extra = {"quantization_config": quantization} if quantization is not None else {}
    extra |= {"device_map": device} if device is not None else {}
    with quiet_libraries():
        loader = getattr(import_module(library), name).from_pretrained
        with readable(checkpoint, part):
            loaded, info = loader(folder, use_safetensors=True, local_files_only=True, dtype=dtype, output_loading_info=True, **extra)
    missing = sorted(info["missing_keys"])
    if missing:
        what = f"{len(missing)} tensors that its config.json asks for, {missing[0]} first"
        raise UsageError(
            f"the {part.replace('_', ' ')} of {checkpoint.name} lacks {what}",
            hint="its files and its config.json do not belong together: fetch the checkpoint again",
        )
    return loaded.eval().requires_grad_(False)


@contextmanager
def readable(checkpoint: Checkpoint, part: str) -> Iterator[None]:
    """Turn what the libraries raise on damaged files into a UsageError."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the {part.replace('_', ' ')} of {checkpoint.name} cannot be read: {first}", hint=f"fetch it again into {checkpoint.folder}"
        ) from error


def empty_part(checkpoint: Checkpoint, part: str) -> Any:
    """A part of diffusers' without its weights, on the meta device: names and shapes."""
    library, _, name = checkpoint.classes[part].partition(":")
    with quiet_libraries(), torch.device("meta"):
        return getattr(import_module(library), name).from_config(checkpoint.configs[part])


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hold back what the libraries say while they load; errors still come through."""
    import diffusers
    import transformers

    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

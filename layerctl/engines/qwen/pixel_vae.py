"""A VAE that loses nothing and learns nothing: squares of pixels become channels. For small models of the real transformer, on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


@dataclass(frozen=True, slots=True)
class Posterior:
    """Of one point."""

    latents: torch.Tensor

    def mode(self) -> torch.Tensor:
        return self.latents


@dataclass(frozen=True, slots=True)
class Encoded:
    latent_dist: Posterior


class PixelShuffleVAE(ModelMixin, ConfigMixin):  # type: ignore[misc] # diffusers' bases have no types
    """Pictures of 4 channels in -1..1, [B, 4, frames, H, W], as latents, [B, 4 * patch^2, frames, H / patch, W / patch], and back.

    With the calls that `AutoencoderKLQwenImage` has; its patch is 8.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        input_channels: int = 4,
        z_dim: int = 16,
        patch: int = 2,
        latents_mean: tuple[float, ...] = (0.0,) * 16,
        latents_std: tuple[float, ...] = (1.0,) * 16,
    ) -> None:
        super().__init__()
        self.use_slicing = False
        # What has no weights has no type and no file.
        self.one = torch.nn.Parameter(torch.ones(1))

    @classmethod
    def with_patch(cls, patch: int) -> PixelShuffleVAE:
        """One for pictures with transparency, whose latents are the pixels themselves."""
        channels = 4 * patch**2
        return cls(4, channels, patch, (0.0,) * channels, (1.0,) * channels)

    def encode(self, x: torch.Tensor) -> Encoded:
        frames = x.transpose(1, 2)
        return Encoded(Posterior(pixel_unshuffle(frames, self.config.patch).transpose(1, 2)))

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        return (pixel_shuffle(z.transpose(1, 2), self.config.patch).transpose(1, 2),)

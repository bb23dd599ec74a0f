"""The frozen model in training: pictures and words into conditions, states into raw stacks, in the order in which parts fit into memory.

The VAE comes first, for the latents of the data; then the text encoder, which is gone again before the transformer comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from layerctl.engines.qwen import loading, memory
from layerctl.engines.qwen.adapters import CAPTION, find_local_adapter
from layerctl.engines.qwen.checkpoint import WEIGHTS, fingerprint
from layerctl.engines.qwen.lora_keys import LoraPlan, linear_modules, read_lora
from layerctl.engines.qwen.model import Condition, LayeredModel, empty_part
from layerctl.engines.qwen.recipe import PRESETS
from layerctl.engines.qwen.sampler import sample, sigma_grid
from layerctl.engines.qwen.session import Session, decoded_pixels, stack_of
from layerctl.errors import OutputError, UsageError
from layerctl_train.run_config import DEFAULT_PRESET

if TYPE_CHECKING:
    from layerctl.engines.qwen.adapters import Adapter
    from layerctl.layers import LayerStack
    from layerctl.settings import Settings
    from layerctl.source import SourceImage
    from layerctl_train.picture_store import Picture
    from layerctl_train.training_settings import TrainingSettings

NO_WORDS = " "
"""What stands for no prompt, as in Qwen's own pipeline."""
MOST_EMBEDDINGS = 256
"""In memory; others are read from the disk again."""


class Base:
    """The checkpoint with its recipe, and the model once it is loaded. `recipe` is the evaluation's; rollouts take its sizes only."""

    def __init__(self, settings: Settings, training: TrainingSettings, tell: Callable[[str], None]) -> None:
        """Loads nothing. Raises UsageError and MissingDependencyError for what cannot be had."""
        self.training = training
        self.start = None if training.start is None else find_local_adapter(training.start, settings.offline)
        options = replace(settings.model_options(), adapters=(), preset=settings.preset or DEFAULT_PRESET, fuse=False)
        self.session = Session(options, tell)
        self.recipe = self.session.recipe
        self.device = torch.device(self.session.machine.device)
        self.session.plan = self.plan = memory.possible_plans(
            self.session.configs, self._job(), self.session.machine, precision=options.precision, offload="none"
        )[0]
        self.dtype = loading.compute_dtype(self.plan)
        self.prompt = self._fixed_prompt()
        if self.start is not None:
            told = "what is told of each picture" if self.prompt is None else f"the prompt {self.prompt!r}"
            tell(f"the adapter {self.start.name} is run with the preset {self.recipe.name} and {told}")
        self.model = LayeredModel(None, None, device=self.device, dtype=self.dtype)

    @property
    def mark(self) -> str:
        """Changes with whatever changes the pixels and latents of a picture."""
        vae = fingerprint(self.session.checkpoint.folder / "vae", WEIGHTS["vae"])
        sizing = (self.recipe.sizing, self.recipe.size, self.recipe.multiple, self.recipe.reads_alpha)
        return f"{vae} {self.dtype} {sizing}"

    @property
    def words(self) -> dict[str, str]:
        """What an adapter that is trained here asks to be run with; captions stand in for prompts that were given."""
        return {"preset": self.recipe.name} | ({"prompt_mode": CAPTION} if self.prompt is None else {"prompt": self.prompt})

    def resized(self, source: SourceImage) -> npt.NDArray[np.uint8]:
        """The picture at the model's size, H x W x 4, sRGB."""
        return self.session.model_pixels(source)

    def encode(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Latents, [1, h * w, 4 * latent channels], on the CPU."""
        if self.model.vae is None:
            self.model.vae = loading.load_vae(self.session.checkpoint, self.plan)
        return self.model.encode_picture(pixels).cpu()

    def prepare_words(self, pictures: Iterable[Picture], progress: Callable[[str, float], None]) -> None:
        """Make every embedding that is not kept yet, and the captions, while there is room for the text encoder; then it goes.

        Raises OutputError where the words of many pictures cannot be kept: later there is no room to make them again.
        """
        if self.prompt is not None:
            self.embedding(self.prompt)
        else:
            for picture in pictures:
                progress(f"words for {picture.key}", 0.0)
                self.embedding(prompt := self.prompt_of(picture))
                if self.session.prompts.embedding(prompt) is None:
                    raise OutputError(
                        f"the words of each picture cannot be kept in {self.session.prompts.folder}",
                        hint="let XDG_CACHE_HOME name a folder that can be written to",
                    )
        if self.recipe.guided:
            self.embedding(self.recipe.negative_prompt)
        self.session.encoder = None
        loading.free_device_memory(self.device)

    def load(self, *, aside: bool) -> Any:
        """Load the transformer and return it; on the device, or on the CPU where it is to be put there in another way (`aside`)."""
        plan = replace(self.plan, offload="model") if aside else self.plan
        transformer = loading.load_transformer(self.session.checkpoint, plan)
        if self.model.vae is None:
            self.model.vae = loading.load_vae(self.session.checkpoint, self.plan)
        self.model.transformer = transformer
        return transformer

    def start_plan(self) -> tuple[Adapter, LoraPlan] | None:
        """The adapter that training starts from, held against the base by its header."""
        if self.start is None:
            return None
        modules = linear_modules(empty_part(self.session.checkpoint, "transformer"))
        return self.start, read_lora(self.start, modules, base=self.session.checkpoint.name)

    def prompt_of(self, picture: Picture) -> str:
        """What the model is told about a picture."""
        if self.prompt is not None:
            return self.prompt
        if self.training.prompt_mode == "given":
            return picture.prompt or NO_WORDS
        return self.session.prompt_for(picture.source, picture.source.pixels, lambda *_: None)

    def embedding(self, prompt: str) -> torch.Tensor:
        """[T, text width], on the CPU."""
        found = self.session.embedding(prompt)
        if len(self.session.embeddings) > MOST_EMBEDDINGS:
            self.session.embeddings.clear()
        return found

    def kept_embedding(self) -> Path | None:
        """The file with the embedding of the one prompt of all pictures, for an adapter to bring along."""
        file = None if self.prompt is None else self.session.prompts.embedding_file(self.prompt)
        return file if file is not None and file.is_file() else None

    def condition(self, picture: Picture, layers: int, *, guided: bool = False) -> Condition:
        """For one sample. `guided`: with the recipe's guidance, which evaluations have and rollouts have not."""
        here = (self.device, self.dtype)
        negative = self.embedding(self.recipe.negative_prompt)[None].to(*here) if guided and self.recipe.guided else None
        return Condition(
            picture=picture.latents.to(*here),
            prompt=self.embedding(self.prompt_of(picture))[None].to(*here),
            rows=picture.rows,
            columns=picture.columns,
            layers=layers,
            negative=negative,
            cfg=self.recipe.cfg,
            normalize=self.recipe.cfg_normalize,
        )

    def sigmas(self, steps: int, condition: Condition) -> torch.Tensor:
        return sigma_grid(self.session.checkpoint.configs["scheduler"], steps, condition.rows * condition.columns)

    def evaluated(self, condition: Condition, noise: torch.Tensor, tick: Callable[[], None]) -> torch.Tensor:
        """x at sigma = 0 by the recipe's sampler, from noise, [1, N, C]; `tick` is called after every evaluation."""

        def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            v = self.model.velocity(x, sigma, condition)
            tick()
            return v

        with torch.no_grad():
            return sample(self.recipe.sampler, velocity, noise.to(self.device), self.sigmas(self.recipe.steps, condition))

    def stack(self, x: torch.Tensor, condition: Condition, source: SourceImage) -> LayerStack:
        """The raw stack of one sample, [1, N, C], at the model's size."""
        return stack_of(decoded_pixels(self.model, x, condition), source)

    def _fixed_prompt(self) -> str | None:
        """The one prompt of all pictures, None where each has its own."""
        match self.training.prompt_mode:
            case "fixed" if self.recipe.prompt is None:
                raise UsageError(
                    f"the preset {self.recipe.name} has no fixed prompt, which prompt_mode = fixed asks for",
                    hint=f"give --prompt '{PRESETS[DEFAULT_PRESET].prompt}', or --set prompt_mode=caption",
                )
            case "fixed":
                return self.recipe.prompt
            case "empty":
                return NO_WORDS
        if self.training.prompt_mode == "caption" and self.recipe.prompt is not None:
            self.recipe = self.session.recipe = replace(self.recipe, prompt=None)
        return None

    def _job(self) -> memory.Job:
        captions = self.training.prompt_mode == "caption"
        size = self.recipe.size
        return memory.Job(
            size, size, self.training.layers[1], self.training.rollout_steps, False, captions, captions,
            pixels_per_token=self.session.checkpoint.pixels_per_token,
        )  # fmt: skip

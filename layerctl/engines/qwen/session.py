"""A run of the model over any number of pictures: checked at the start, loaded at the first picture, kept until the end."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from layerctl import colour
from layerctl.engines.classic import naming
from layerctl.engines.classic.engine import count_layers
from layerctl.engines.qwen import loading, memory, sampler
from layerctl.engines.qwen.adapters import CAPTION, attach, find_local_adapter
from layerctl.engines.qwen.checkpoint import WEIGHTS, Checkpoint, fingerprint, read_checkpoint
from layerctl.engines.qwen.devices import find_machine, matrix_rate
from layerctl.engines.qwen.fuse import fuse
from layerctl.engines.qwen.lora_keys import LoraPlan, linear_modules, read_lora
from layerctl.engines.qwen.model import Condition, LayeredModel, empty_part
from layerctl.engines.qwen.prompts import LONGEST_PROMPT, PromptCache, TextEncoder, cache_folder, read_embedding, texts
from layerctl.engines.qwen.recipe import DEFAULT_LAYERS, PUBLISHED_PRESETS, Recipe, choose_preset, resolve_recipe
from layerctl.errors import MissingDependencyError, OutOfMemoryError, UsageError
from layerctl.hub import local_copy, parse_reference
from layerctl.layers import Layer, LayerStack, crop_to_content
from layerctl.manifest import Value
from layerctl.names import unique
from layerctl.registry import DecomposeRequest, ModelOptions, Progress, Proposal
from layerctl.source import SourceImage

CODING_SHARE = 0.02
"""How much of the work, of which progress is told, is encoding, and decoding, each."""

CANDIDATE_STEP = 1_000_003
"""What another proposal adds to the seed; a run's pictures, whose index may count to it too, never come so far."""

DUST = 2
"""Alpha up to this, of 255, is what the decoder leaves of nothing; kept, it would make every layer as large as the canvas."""
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory")


class Session:
    """Checkpoint, adapters and recipe, checked; the loaded model once a picture has come."""

    def __init__(self, options: ModelOptions, tell: Callable[[str], None]) -> None:
        self.options, self.tell = options, tell
        self.checkpoint = _find_checkpoint(options)
        self.adapters = [find_local_adapter(text, options.offline) for text in options.adapters]
        self.lora = self._read_adapters()
        self.recipe, self.warnings = self._resolve_recipe()
        self.machine = find_machine(options.device)
        self.configs = memory.configs_of(self.checkpoint)
        self.model_hash = "-".join(fingerprint(self.checkpoint.folder / part, WEIGHTS[part]) for part in ("transformer", "vae"))
        # A wish that this device cannot have is refused at once, whatever the pictures.
        memory.possible_plans(self.configs, self._job(DEFAULT_LAYERS), self.machine, precision=options.precision, offload=options.offload)
        self.prompts = PromptCache(cache_folder(), self.checkpoint)
        self.embeddings: dict[str, torch.Tensor] = {}
        self.encoder: TextEncoder | None = None
        self.model: LayeredModel | None = None
        self.plan: memory.Plan | None = None
        self.planned_layers = 0
        self.fused: bool | None = None

    def forecast(self, width: int, height: int, request: DecomposeRequest) -> tuple[str, ...]:
        """Plan and time of one picture, in lines."""
        layers = request.layers or DEFAULT_LAYERS
        lines = self._forecast(self._checked_plan(layers), *self.recipe.model_size(width, height), layers)
        return lines if request.layers else (*lines, f"without --layers they are counted in each picture; this is for {layers}")

    def _forecast(self, plan: memory.Plan, width: int, height: int, layers: int) -> tuple[str, ...]:
        time = "" if plan.seconds is None else f", about {_duration(plan.seconds)} a picture"
        return (
            f"{self.checkpoint.name}, preset {self.recipe.name}: {layers} layers at {width} × {height},"
            f" {self._evaluations()} evaluations{time}",
            f"{self.machine.name}: weights in {plan.precision}, offload {plan.offload}, {plan.device_bytes / memory.GB:.1f} of"
            f" {plan.device_free / memory.GB:.1f} GB free memory",
            *plan.remarks,
        )

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        """The model's layers of one picture, at the model's size; without a number, as many as the embedded engine counts in it."""
        pixels = self.model_pixels(source)
        progress("planning", 0.0)
        layers = request.layers or count_layers(source)
        if self.plan is None or layers > self.planned_layers:
            plan = self._checked_plan(layers)
            if self.plan is not None and plan.flags != self.plan.flags:
                self.model = self.fused = None
            self.plan, self.planned_layers = plan, layers
            self.tell("; ".join(self._forecast(self.plan, pixels.shape[1], pixels.shape[0], layers)))
        with self.memory_errors(layers):
            prompt = self.prompt_for(source, pixels, progress)
            negative = self.embedding(self.recipe.negative_prompt) if self.recipe.guided else None
            embedding = self.embedding(prompt)
            try:
                model = self._loaded(progress)
                progress("encoding", 0.0)
                condition = self._condition(model, pixels, layers, embedding, negative)
                noise = self._noise(condition.state_shape, source, request)
                self._fuse(model, condition, noise)
            except BaseException:
                # Half loaded or half merged it must not serve the next picture.
                self.model = self.fused = None
                raise
            decoded = self._sample(model, condition, noise, progress)
        progress("layers", 1.0)
        stack = stack_of(decoded, source)
        return Proposal(stack, self.warnings, tuple(self._used(prompt, embedding, pixels, request).items()))

    def model_pixels(self, source: SourceImage) -> npt.NDArray[np.uint8]:
        """The picture at the model's size in sRGB, H x W x 4, by Lanczos as both references have it."""
        pixels = source.srgb()
        picture = Image.fromarray(np.ascontiguousarray(pixels if self.recipe.reads_alpha else pixels[..., :3]))
        size = self.recipe.model_size(source.width, source.height)
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS).convert("RGBA"))

    def _condition(
        self, model: LayeredModel, pixels: npt.NDArray[np.uint8], layers: int, prompt: torch.Tensor, negative: torch.Tensor | None
    ) -> Condition:
        rows, columns = (side // self.checkpoint.pixels_per_token for side in pixels.shape[:2])
        here = (model.device, model.dtype)
        return Condition(
            picture=model.encode_picture(pixels),
            prompt=prompt[None].to(*here),
            rows=rows,
            columns=columns,
            layers=layers,
            negative=None if negative is None else negative[None].to(*here),
            cfg=self.recipe.cfg,
            normalize=self.recipe.cfg_normalize,
        )

    def _seed(self, request: DecomposeRequest) -> int:
        return self.recipe.seed + CANDIDATE_STEP * request.candidate

    def _noise(self, shape: tuple[int, ...], source: SourceImage, request: DecomposeRequest) -> torch.Tensor:
        device = torch.device(self.machine.device)
        if self.recipe.noise == "release":
            return sampler.release_noise(shape, self._seed(request), request.index, device)
        return sampler.picture_noise(shape, self._seed(request), source.sha256).to(device)

    def _sample(self, model: LayeredModel, condition: Condition, noise: torch.Tensor, progress: Progress) -> npt.NDArray[np.uint8]:
        """The layers, bottom to top: L x H x W x 4, straight alpha, sRGB."""
        steps, inner = self.recipe.steps, 1 - 2 * CODING_SHARE
        sigmas = sampler.sigma_grid(self.checkpoint.configs["scheduler"], steps, condition.rows * condition.columns)

        def advance(done: int) -> None:
            progress(f"step {done} of {steps}", CODING_SHARE + inner * done / steps)

        with torch.no_grad():
            x = sampler.sample(self.recipe.sampler, lambda x, sigma: model.velocity(x, sigma, condition), noise, sigmas, advance)
            progress("decoding", 1 - CODING_SHARE)
            return decoded_pixels(model, x, condition)

    def _loaded(self, progress: Progress) -> LayeredModel:
        if self.model is None:
            assert self.plan is not None
            progress("loading the model", 0.0)
            if self.recipe.prompt is not None:
                self.encoder = None
                loading.free_device_memory(torch.device(self.machine.device))
            transformer = loading.load_transformer(self.checkpoint, self.plan)
            if self.adapters and not self.options.fuse:
                attach(transformer, self.adapters, self.lora)
            vae = loading.load_vae(self.checkpoint, self.plan)
            device = torch.device(self.machine.device)
            self.model = LayeredModel(transformer, vae, device=device, dtype=loading.compute_dtype(self.plan))
            if not self.options.fuse or not self.adapters:
                loading.finish(self.model, self.plan, compiled=self.options.compile)
        return self.model

    def _checked_plan(self, layers: int) -> memory.Plan:
        plan = self._plan(layers, rate=matrix_rate(self.machine))
        if self.options.fuse and self.adapters and (plan.offload != "none" or plan.precision in ("int8", "int4")):
            raise UsageError(
                f"--fuse does not work with {plan.flags}: it needs whole weights on the device",
                hint="leave --fuse out; adapters run beside the weights then",
            )
        return plan

    def _fuse(self, model: LayeredModel, condition: Condition, noise: torch.Tensor) -> None:
        """Merge the adapters once a picture is there to measure the loss on."""
        if not self.options.fuse or not self.adapters or self.fused is not None:
            return
        assert self.plan is not None
        middle = torch.tensor(0.5, device=model.device)
        report = fuse(model.transformer, self.adapters, self.lora, lambda: model.velocity(noise, middle, condition))
        self.fused = report.fused
        if not report.fused:
            self.tell(f"--fuse: merging would change the adapters' effect by {report.relative_error:.1%}, above 2 %; they run unfused")
        loading.finish(model, self.plan, compiled=self.options.compile)

    def prompt_for(self, source: SourceImage, pixels: npt.NDArray[np.uint8], progress: Progress) -> str:
        """What the model is told about the picture: the recipe's prompt, else a caption, made once for each picture."""
        if self.recipe.prompt is not None:
            return self.recipe.prompt
        caption = self.prompts.caption(source.sha256)
        if caption is None:
            progress("captioning", 0.0)
            with self._text_encoder() as encoder:
                caption = encoder.caption(pixels)
            with self._kept():
                self.prompts.keep_caption(source.sha256, caption)
        return caption

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """What cannot be kept for the next run serves this one all the same."""
        try:
            yield
        except OSError as error:
            self.tell(f"not kept for later runs: {self.prompts.folder}: {error.strerror or error}")

    def embedding(self, prompt: str) -> torch.Tensor:
        """[T, text width], from memory, from an adapter, from the disk, or made."""
        if prompt not in self.embeddings:
            embedding = self._brought_embedding(prompt)
            if embedding is None:
                embedding = self.prompts.embedding(prompt)
            if embedding is None:
                with self._text_encoder() as encoder:
                    embedding = encoder.embed(prompt).cpu()
                with self._kept():
                    self.prompts.keep_embedding(prompt, embedding)
            self.embeddings[prompt] = embedding
        return self.embeddings[prompt]

    def _brought_embedding(self, prompt: str) -> torch.Tensor | None:
        """The embedding that an adapter brings, when it is of this prompt and made the way it is made here."""
        for adapter in self.adapters:
            if adapter.prompt_embedding is not None:
                embedding, about = read_embedding(adapter.prompt_embedding, self.checkpoint.text_width)
                if (about.get("prompt"), about.get("prompt_version")) == (prompt, texts().version):
                    return embedding
        return None

    @contextmanager
    def _text_encoder(self) -> Iterator[TextEncoder]:
        """The text encoder on its device, for a moment."""
        assert self.plan is not None
        if self.encoder is None:
            if not self.checkpoint.has_weights("text_encoder"):
                raise self.checkpoint.missing("text_encoder")
            self.tell(f"loading the text encoder of {self.checkpoint.name}; what it makes is kept in {self.prompts.folder}")
            self.encoder = TextEncoder(self.checkpoint, self._encoder_device())
        elif self.plan.offload != "none":
            self.encoder.to(self._encoder_device())
        try:
            yield self.encoder
        finally:
            if self.plan.offload != "none":
                self.encoder.to(torch.device("cpu"))

    def _encoder_device(self) -> torch.device:
        """The device, cleared of what takes turns there, or the CPU where the encoder does not fit there even so."""
        assert self.plan is not None
        if self.model is not None:
            loading.make_room(self.model)
        # Before the transformer comes the encoder has the device to itself.
        part = memory.encoder_part(self.configs, self._job(1), self.machine, "model")
        return torch.device("cpu" if part.where == "on the CPU" else self.machine.device)

    def _plan(self, layers: int, rate: float | None = None) -> memory.Plan:
        return memory.plan_memory(
            self.configs, self._job(layers), self.machine, precision=self.options.precision, offload=self.options.offload, rate=rate
        )

    def _job(self, layers: int) -> memory.Job:
        """The largest picture that the recipe allows, so that one plan serves a whole run."""
        # A fixed prompt's encoder is gone before the transformer comes.
        captions = self.recipe.prompt is None
        adapter_bytes = 4 * sum(plan.parameters for plan in self.lora)
        size = self.recipe.size
        return memory.Job(
            size, size, layers, self._evaluations(), self.recipe.guided, captions, captions, LONGEST_PROMPT, adapter_bytes,
            self.checkpoint.pixels_per_token,
        )  # fmt: skip

    def _evaluations(self) -> int:
        return sampler.evaluations(self.recipe.sampler, self.recipe.steps, self.recipe.guided)

    @contextmanager
    def memory_errors(self, layers: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # MPS and the CPU have no class of their own for it.
            if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                first = str(error).strip().splitlines()[0]
                raise MissingDependencyError(f"--compile does not work here: {first}", hint="leave --compile out") from error
            if not isinstance(error, torch.OutOfMemoryError) and not _NO_MEMORY.search(str(error)):
                raise
            assert self.plan is not None
            smaller = memory.next_smaller(self.plan, self.configs, self._job(layers), self.machine)
            used = f"{layers} layers at size {self.recipe.size} with {self.plan.flags}"
            hint = f"try: {smaller}" if smaller else "close other programs, or take --engine classic"
            raise OutOfMemoryError(f"the {self.machine.device} device ran out of memory: {used}", hint=hint) from error

    def _read_adapters(self) -> list[LoraPlan]:
        if not self.adapters:
            return []
        modules = linear_modules(empty_part(self.checkpoint, "transformer"))
        return [read_lora(adapter, modules, base=self.checkpoint.name) for adapter in self.adapters]

    def _resolve_recipe(self) -> tuple[Recipe, tuple[str, ...]]:
        named = [(adapter.name, adapter.preset or PUBLISHED_PRESETS.get(adapter.name)) for adapter in self.adapters]
        preset = choose_preset(self.options.preset, [(name, preset) for name, preset in named if preset])
        recipe, warnings = resolve_recipe(preset, self.options)
        # None is a caption of each picture.
        asking = [adapter for adapter in self.adapters if adapter.prompt or adapter.prompt_mode]
        prompts = {None if adapter.prompt_mode == CAPTION else adapter.prompt for adapter in asking}
        if self.options.prompt is None and len(prompts) == 1:
            recipe = replace(recipe, prompt=prompts.pop())
        return recipe, warnings

    def _used(self, prompt: str, embedding: torch.Tensor, pixels: npt.NDArray[np.uint8], request: DecomposeRequest) -> dict[str, Value]:
        """Everything that made the layers what they are, for the manifest."""
        assert self.plan is not None
        assert self.model is not None
        recipe = self.recipe
        return {
            "model": self.checkpoint.name,
            "model_revision": self.checkpoint.revision,
            "model_hash": self.model_hash,
            "adapters": "; ".join(
                f"{adapter.name}@{adapter.revision or 'file'}:{adapter.weight:g} sha256 {adapter.sha256}" for adapter in self.adapters
            ),
            "fused": bool(self.fused),
            "preset": recipe.name,
            "sampler": recipe.sampler,
            "steps": recipe.steps,
            "evaluations": self._evaluations(),
            "cfg": recipe.cfg,
            "cfg_normalize": recipe.cfg_normalize,
            "negative_prompt": recipe.negative_prompt if recipe.guided else None,
            "prompt": prompt,
            "prompt_embedding": hashlib.sha256(embedding.float().numpy().tobytes()).hexdigest()[:16],
            "model_width": pixels.shape[1],
            "model_height": pixels.shape[0],
            "seed": self._seed(request),
            "noise": recipe.noise,
            "noise_seed": self._seed(request) + (request.index if recipe.noise == "release" else 0),
            "device": self.machine.device,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "precision": self.plan.precision,
            "offload": self.plan.offload,
            "compiled": self.options.compile,
        }


def decoded_pixels(model: LayeredModel, x: torch.Tensor, condition: Condition) -> npt.NDArray[np.uint8]:
    """The layers of one sample, bottom to top: L x H x W x 4, straight alpha, sRGB."""
    return (model.decode_layers(x, condition).permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()


def stack_of(layers: npt.NDArray[np.uint8], source: SourceImage) -> LayerStack:
    """Decoded layers, L x H x W x 4 in sRGB, as a named stack in the source's profile."""
    height, width = layers.shape[1:3]
    names, cropped = [], []
    for number, pixels in enumerate(layers):
        alpha = pixels[..., 3]
        alpha[alpha <= DUST] = 0
        own = colour.converted(np.ascontiguousarray(pixels), None, source.icc)
        cropped.append(crop_to_content(Layer("layer", own, kind="element" if number else "background")))
        names.append("Background" if number == 0 else _name(number, cropped[-1], pixels, width, height))
    named = (replace(layer, name=name) for layer, name in zip(cropped, unique(names), strict=True))
    return LayerStack(width, height, tuple(named), icc=source.icc, dpi=source.dpi)


def _name(number: int, layer: Layer, pixels: npt.NDArray[np.uint8], width: int, height: int) -> str:
    left, top, right, bottom = layer.box
    if right - left > 0.9 * width and bottom - top > 0.9 * height:
        return f"Layer {number + 1}"
    word = naming.colour_name(pixels[top:bottom, left:right, :3], pixels[top:bottom, left:right, 3])
    place = naming.place_name((left + right) / 2 / width, (top + bottom) / 2 / height)
    return f"Element {number} ({word}, {place})"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _find_checkpoint(options: ModelOptions) -> Checkpoint:
    copy = local_copy(parse_reference(options.model), offline=options.offline)
    return read_checkpoint(copy.folder, copy.repo_id or copy.folder.resolve().name, copy.revision)

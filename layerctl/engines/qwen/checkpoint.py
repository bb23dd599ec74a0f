"""A checkpoint as it lies on the disk: the classes that it names, their configs, whether its weights are there. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerctl.engines.qwen import sizes
from layerctl.errors import MissingDependencyError, UsageError
from layerctl.manifest import hash_sampled

PIPELINES = ("QwenImageLayeredPipeline",)
CLASSES: dict[str, dict[str, str]] = {
    "transformer": {"QwenImageTransformer2DModel": "diffusers:QwenImageTransformer2DModel"},
    "vae": {
        "AutoencoderKLQwenImage": "diffusers:AutoencoderKLQwenImage",
        "PixelShuffleVAE": "layerctl.engines.qwen.pixel_vae:PixelShuffleVAE",
    },
    "scheduler": {"FlowMatchEulerDiscreteScheduler": "diffusers:FlowMatchEulerDiscreteScheduler"},
    "text_encoder": {"Qwen2_5_VLForConditionalGeneration": "transformers:Qwen2_5_VLForConditionalGeneration"},
    "tokenizer": {"Qwen2Tokenizer": "transformers:Qwen2Tokenizer", "Qwen2TokenizerFast": "transformers:Qwen2Tokenizer"},
}
"""The classes that are loaded, by part; whatever else a checkpoint names is refused. Nothing a checkpoint brings is ever run."""

CONFIG_FILES = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
WEIGHTS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A readable checkpoint.

    `name`: for people and the manifest: a Hub id, or the folder's own name. `revision`: a commit, None for a folder.
    `configs`: config.json of transformer, VAE, scheduler and, where it is there, the text encoder, as they are written.
    """

    folder: Path
    name: str
    revision: str | None
    classes: dict[str, str]
    configs: dict[str, dict[str, Any]]

    @property
    def latent_channels(self) -> int:
        return int(self.configs["vae"].get("z_dim", 16))

    @property
    def pixels_per_token(self) -> int:
        return sizes.pixels_per_token(self.configs["vae"])

    @property
    def text_width(self) -> int:
        return int(self.configs["transformer"].get("joint_attention_dim", 3584))

    def has_weights(self, part: str) -> bool:
        return bool(weight_files(self.folder / part, WEIGHTS[part]))

    def missing(self, part: str) -> MissingDependencyError:
        """What to raise when the weights of a part are needed and not there."""
        what = self.name if self.revision is None else f"{self.name}@{self.revision}"
        hint = f"layerctl pull {what}" if self.revision else f"copy the whole checkpoint into {self.folder}"
        return MissingDependencyError(f"the {part.replace('_', ' ')} of {what} is not in {self.folder}", hint=hint)


def read_checkpoint(folder: Path, name: str | None = None, revision: str | None = None) -> Checkpoint:
    """What `folder` holds, in diffusers' format.

    Raises UsageError for another kind of model or a geometry that this engine does not know, MissingDependencyError for missing weights.
    """
    name = name or folder.name
    index = _read_json(folder / "model_index.json", name)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise UsageError(f"{name} is a {pipeline}, not a {PIPELINES[0]}", hint="give a Qwen-Image-Layered: --model Qwen/Qwen-Image-Layered")
    classes = {}
    for part, known in CLASSES.items():
        listed = index.get(part)
        named = listed[1] if isinstance(listed, list) and len(listed) == 2 else None
        if named not in known:
            raise UsageError(f"{name} has a {part} of class {named}", hint=f"layerctl loads: {', '.join(known)}")
        classes[part] = known[named]
    configs = {
        part: _read_json(folder / part / CONFIG_FILES.get(part, "config.json"), name) for part in ("transformer", "vae", "scheduler")
    }
    if (folder / "text_encoder" / "config.json").is_file():
        configs["text_encoder"] = _read_json(folder / "text_encoder" / "config.json", name)
    checkpoint = Checkpoint(folder, name, revision, classes, configs)
    _check_geometry(checkpoint)
    if not (folder / "tokenizer").is_dir():
        raise UsageError(f"{name} is not a whole checkpoint: tokenizer/ is not in it", hint="fetch the checkpoint again")
    for part in ("transformer", "vae"):
        if not checkpoint.has_weights(part):
            _refuse_pickles(folder / part, name)
            raise checkpoint.missing(part)
    return checkpoint


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of one part, all of them or none: a part of which a file is missing cannot be loaded."""
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        return [single]
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return []
    weight_map = _read_json(index, folder.parent.name).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UsageError(f"{index} names no files", hint="fetch the checkpoint again")
    files = [folder / file for file in sorted(set(weight_map.values()))]
    return files if all(file.is_file() for file in files) else []


def fingerprint(folder: Path, stem: str) -> str:
    """A hash, 16 hexadecimal digits, that tells the weights of one part from others."""
    return hash_sampled(weight_files(folder, stem))[:16]


def _check_geometry(checkpoint: Checkpoint) -> None:
    transformer, vae = checkpoint.configs["transformer"], checkpoint.configs["vae"]
    text = checkpoint.configs.get("text_encoder", {})
    wanted: list[tuple[str, str, object, object]] = [
        ("transformer/config.json", "use_additional_t_cond", transformer.get("use_additional_t_cond"), True),
        ("transformer/config.json", "use_layer3d_rope", transformer.get("use_layer3d_rope"), True),
        ("transformer/config.json", "guidance_embeds", transformer.get("guidance_embeds", False), False),
        ("transformer/config.json", "patch_size", transformer.get("patch_size", 2), 2),
        ("transformer/config.json", "in_channels", transformer.get("in_channels", 64), 4 * checkpoint.latent_channels),
        ("transformer/config.json", "out_channels", transformer.get("out_channels", 16), checkpoint.latent_channels),
        ("vae/config.json", "input_channels", vae.get("input_channels"), 4),
    ]
    width = (text.get("text_config") or text).get("hidden_size")
    if width is not None:
        wanted.append(("text_encoder/config.json", "hidden_size", width, checkpoint.text_width))
    for file, key, found, expected in wanted:
        if found != expected:
            raise UsageError(
                f"{checkpoint.name} has {key} = {found!r} in {file}, where a Qwen-Image-Layered has {expected!r}",
                hint="give a Qwen-Image-Layered: --model Qwen/Qwen-Image-Layered",
            )
    for part, config in checkpoint.configs.items():
        if "auto_map" in config:
            raise UsageError(f"the {part} of {checkpoint.name} brings its own program code, which is never run", hint="give another model")


def _refuse_pickles(folder: Path, name: str) -> None:
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES) if folder.is_dir() else []
    if pickles:
        raise UsageError(
            f"{name} has its weights in {folder.name}/{pickles[0]}, a pickle, which can run any program when it is loaded",
            hint="give a checkpoint in safetensors files",
        )


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        where = f"{path.parent.name}/{path.name}" if path.name != "model_index.json" else path.name
        raise UsageError(
            f"{name} is not a whole checkpoint in diffusers' format: {where} is not in it", hint="layerctl pull Qwen/Qwen-Image-Layered"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="fetch the checkpoint again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} does not hold an object", hint="fetch the checkpoint again")
    return found

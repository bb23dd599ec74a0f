"""What the model is told in words: embeddings and captions by the checkpoint's own text encoder, kept on the disk once they are made.

A kept embedding spares loading (and downloading) the 16 GB encoder. It is found by checkpoint, prompt and template; an adapter may bring
one of its own as `prompt_embedding.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from layerctl.engines.qwen.checkpoint import WEIGHTS, Checkpoint, fingerprint
from layerctl.engines.qwen.model import load_part, quiet_libraries, readable
from layerctl.errors import InputError

LONGEST_PROMPT = 512
"""Tokens; the reference pipeline cuts there too."""
LONGEST_CAPTION = 512
EMBEDDING_FILE = "prompt_embedding.safetensors"


class Texts(NamedTuple):
    """What surrounds a prompt, how many of its first tokens are left out of the embedding, and how a caption is asked for."""

    template: str
    left_out: int
    caption_request: str

    @property
    def version(self) -> str:
        """Eight hexadecimal digits that change with the texts."""
        return hashlib.sha256(repr(tuple(self)).encode()).hexdigest()[:8]


@cache
def texts() -> Texts:
    """The texts of the reference pipeline itself: other words would be another input than the one the model was tuned with."""
    with quiet_libraries():
        from diffusers import QwenImageLayeredPipeline

        empty = QwenImageLayeredPipeline(scheduler=None, vae=None, text_encoder=None, tokenizer=None, processor=None, transformer=None)
    return Texts(empty.prompt_template_encode, empty.prompt_template_encode_start_idx, empty.image_caption_prompt_en)


class TextEncoder:
    """Tokenizer and text encoder, loaded.

    In the type that its weights are kept in, whatever the rest runs in: what it makes is kept for other runs.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.checkpoint, self.device = checkpoint, device
        with quiet_libraries():
            from transformers import Qwen2Tokenizer

            with readable(checkpoint, "tokenizer"):
                self.tokenizer: Any = Qwen2Tokenizer.from_pretrained(checkpoint.folder / "tokenizer", local_files_only=True)
        self.model: Any = load_part(checkpoint, "text_encoder", "auto").to(device)

    def to(self, device: torch.device) -> None:
        self.device = device
        self.model.to(device)

    @torch.no_grad()
    def embed(self, prompt: str) -> torch.Tensor:
        """The prompt's embedding, [T, text width]: the last hidden state behind the system's part."""
        tokens = self.tokenizer([texts().template.format(prompt)], return_tensors="pt").to(self.device)
        out = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True)
        embedding: torch.Tensor = out.hidden_states[-1][0, texts().left_out :][:LONGEST_PROMPT]
        return embedding

    @torch.no_grad()
    def caption(self, pixels: npt.NDArray[np.uint8]) -> str:
        """A description of the picture (H x W x 4, sRGB), always the same one: the likeliest word each time."""
        from PIL import Image
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        processor = Qwen2VLImageProcessorPil.from_pretrained(self.checkpoint.folder / "processor", local_files_only=True)
        picture = processor(images=[Image.fromarray(np.ascontiguousarray(pixels[..., :3]))], return_tensors="pt")
        patches = int(picture["image_grid_thw"][0].prod()) // processor.merge_size**2
        request = texts().caption_request.replace("<|image_pad|>", "<|image_pad|>" * patches)
        tokens = self.tokenizer([request], return_tensors="pt").to(self.device)
        marks = (tokens.input_ids == self.model.config.image_token_id).to(tokens.input_ids.dtype)
        generated = self.model.generate(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            mm_token_type_ids=marks,
            pixel_values=picture["pixel_values"].to(self.device, self.model.dtype),
            image_grid_thw=picture["image_grid_thw"].to(self.device),
            max_new_tokens=LONGEST_CAPTION,
            do_sample=False,
        )
        text: str = self.tokenizer.decode(generated[0, tokens.input_ids.shape[1] :], skip_special_tokens=True)
        return text.strip()


class PromptCache:
    """Embeddings and captions of one checkpoint on the disk."""

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self.folder = folder
        self.checkpoint = checkpoint
        self.model = checkpoint.revision or fingerprint(checkpoint.folder / "transformer", WEIGHTS["transformer"])

    def embedding(self, prompt: str) -> torch.Tensor | None:
        """The kept embedding, [T, text width]; None when there is none, or a different encoder lies beside the model by now."""
        path = self.embedding_file(prompt)
        try:
            embedding, about = read_embedding(path, self.checkpoint.text_width)
        except (OSError, InputError):
            return None
        return embedding if about.get("encoder") in (self._encoder(), None) or not self._encoder() else None

    def keep_embedding(self, prompt: str, embedding: torch.Tensor) -> None:
        path = self.embedding_file(prompt)
        about = {"prompt": prompt, "prompt_version": texts().version, "checkpoint": self.checkpoint.name, "encoder": self._encoder()}
        write_embedding(path, embedding, about)

    def embedding_file(self, prompt: str) -> Path:
        """Where the prompt's embedding is kept, or would be."""
        return self._path("embedding", prompt, ".safetensors")

    def caption(self, picture: str) -> str | None:
        """The kept caption of the picture with that hash."""
        try:
            kept = json.loads(self._path("caption", picture, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        caption = kept.get("caption") if isinstance(kept, dict) else None
        return caption if isinstance(caption, str) else None

    def keep_caption(self, picture: str, caption: str) -> None:
        text = json.dumps({"picture": picture, "caption": caption, "checkpoint": self.checkpoint.name}, ensure_ascii=False, indent=2)
        _write(self._path("caption", picture, ".json"), text.encode("utf-8", "backslashreplace"))

    def _encoder(self) -> str:
        """What the encoder on the disk is; "" when it is not there."""
        return (
            fingerprint(self.checkpoint.folder / "text_encoder", WEIGHTS["text_encoder"])
            if self.checkpoint.has_weights("text_encoder")
            else ""
        )

    def _path(self, kind: str, of: str, suffix: str) -> Path:
        key = json.dumps([kind, texts().version, self.model, of])
        return self.folder / kind / (hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32] + suffix)


def cache_folder() -> Path:
    """Where layerctl keeps what it can make again: `$XDG_CACHE_HOME/layerctl`, else `~/.cache/layerctl`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "layerctl"


def write_embedding(path: Path, embedding: torch.Tensor, about: dict[str, str]) -> None:
    """Write [T, text width] as the file that `read_embedding` reads; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        whole = Path(aside) / path.name
        save_file({"embedding": embedding.contiguous().cpu()}, whole, metadata=about)
        os.replace(whole, path)


def read_embedding(path: Path, text_width: int) -> tuple[torch.Tensor, dict[str, str]]:
    """An embedding, [T, text width], and what is written about it. Raises InputError for a file that holds no such thing."""
    try:
        with safe_open(path, framework="pt") as file:
            embedding = file.get_tensor("embedding")
            about = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is no prompt embedding: {error}", hint="remove it, and it is made again") from error
    if embedding.ndim != 2 or embedding.shape[1] != text_width or not embedding.is_floating_point():
        raise InputError(
            f"{path} holds {tuple(embedding.shape)}, the model takes (tokens, {text_width})", hint="remove it, and it is made again"
        )
    return embedding, about


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        whole = Path(aside) / path.name
        whole.write_bytes(data)
        os.replace(whole, path)

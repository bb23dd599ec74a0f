"""A tiny Qwen-Image-Layered: the real classes and folder format with random weights, built in seconds without a download."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from layerctl.engines.qwen.model import quiet_libraries
from layerctl.engines.qwen.pixel_vae import PixelShuffleVAE

TEXT_WIDTH = 16
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MODEL_INDEX = {
    "_class_name": "QwenImageLayeredPipeline",
    "processor": ["transformers", "Qwen2VLProcessor"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}


def write_tiny_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    blocks: int = 2,
    heads: int = 2,
    head_width: int = 16,
    vae_width: int = 4,
    patch: int | None = None,
) -> None:
    """Write the checkpoint into `folder`, in diffusers' format, fp32, the same weights for the same arguments.

    `heads` x `head_width` is the transformer's width; `head_width` must be a multiple of 8. `patch`: the VAE is a `PixelShuffleVAE` with
    that patch, which loses nothing, so that a token is a square of 2 * patch pixels.
    """
    folder.mkdir(parents=True)
    index = MODEL_INDEX if patch is None else {**MODEL_INDEX, "vae": ["layerctl", "PixelShuffleVAE"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    latent_channels = 16 if patch is None else 4 * patch**2
    tokenizer = _byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        axes = (head_width // 4, 3 * head_width // 8, 3 * head_width // 8)
        transformer = QwenImageTransformer2DModel(
            num_layers=blocks, num_attention_heads=heads, attention_head_dim=head_width, axes_dims_rope=axes,
            joint_attention_dim=TEXT_WIDTH, use_additional_t_cond=True, use_layer3d_rope=True,
            in_channels=4 * latent_channels, out_channels=latent_channels,
        )  # fmt: skip
        vae = AutoencoderKLQwenImage(base_dim=vae_width, input_channels=4) if patch is None else PixelShuffleVAE.with_patch(patch)
        text_encoder = Qwen2_5_VLForConditionalGeneration(_text_config(tokenizer))
    with quiet_libraries():
        transformer.save_pretrained(folder / "transformer")
        vae.save_pretrained(folder / "vae")
        text_encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112).save_pretrained(folder / "processor")
    FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    ).save_pretrained(folder / "scheduler")


def _byte_tokenizer() -> Qwen2Tokenizer:
    """One token a byte, and Qwen's special tokens."""
    vocabulary = {token: number for number, token in enumerate([*sorted(ByteLevel.alphabet()), *SPECIAL_TOKENS])}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=list(SPECIAL_TOKENS[1:]))


def _text_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in SPECIAL_TOKENS}
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": TEXT_WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": len(tokenizer), "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": TEXT_WIDTH,
            "fullatt_block_indexes": [1],
        },
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
    )  # fmt: skip

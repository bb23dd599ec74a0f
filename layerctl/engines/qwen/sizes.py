"""Parameters, activations and arithmetic of the three networks, by formula from their JSON configs; nothing is built or loaded.

`config` is always the dict of the network's own `config.json`; keys that are not written have the default of the class that reads
it. Activations are the most bytes of tensors alive at once beside the weights, without gradients and with fused attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["fp32", "bf16", "int8", "int4"]
Config = Mapping[str, Any]

INT4_GROUP = 128
"""Weights that share a scale and a zero point: the default of torchao's Int4WeightOnlyConfig."""

_ELEMENT: dict[Precision, int] = {"fp32": 4, "bf16": 2, "int8": 2, "int4": 2}
"""Bytes of one number that is not quantised, activations included."""

PUBLISHED_TRANSFORMER: Config = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "use_additional_t_cond": True,
    "use_layer3d_rope": True,
}
PUBLISHED_VAE: Config = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "input_channels": 4}
PUBLISHED_TEXT_ENCODER: Config = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584},
}


@dataclass(frozen=True, slots=True)
class Linear:
    """Weight matrices of one shape; their biases count as other parameters."""

    count: int
    rows: int
    columns: int

    def bytes(self, precision: Precision) -> int:
        """As torchao stores them: int8 with a float scale a row, int4 tiles padded to 8 x 1024 with a bf16 scale and zero a group."""
        if precision == "int8":
            return self.count * self.rows * (self.columns + 4)
        if precision == "int4":
            rows, columns = _up(self.rows, 8), _up(self.columns, 1024)
            return self.count * rows * (columns // 2 + columns // INT4_GROUP * 4)
        return self.count * self.rows * self.columns * _ELEMENT[precision]


@dataclass(frozen=True, slots=True)
class Weights:
    """The parameters of a network: equal blocks, of which only the matrices are ever quantised, and what is around them.

    `rest`: outside of the blocks. `leaf`: the largest single module outside of the blocks.
    """

    blocks: int
    matrices: tuple[Linear, ...]
    block_other: int
    rest: int
    leaf: int = 0

    @property
    def parameters(self) -> int:
        in_matrices = sum(matrix.count * matrix.rows * matrix.columns for matrix in self.matrices)
        return self.blocks * (in_matrices + self.block_other) + self.rest

    def block_bytes(self, precision: Precision) -> int:
        return sum(matrix.bytes(precision) for matrix in self.matrices) + self.block_other * _ELEMENT[precision]

    def rest_bytes(self, precision: Precision) -> int:
        return self.rest * _ELEMENT[precision]

    def leaf_bytes(self, precision: Precision) -> int:
        return max(self.leaf * _ELEMENT[precision], *(matrix.bytes(precision) // matrix.count for matrix in self.matrices))

    def bytes(self, precision: Precision) -> int:
        return self.blocks * self.block_bytes(precision) + self.rest_bytes(precision)


def transformer_weights(config: Config) -> Weights:
    """QwenImageTransformer2DModel."""
    width, head = _width(config), int(config.get("attention_head_dim", 128))
    joint, channels = int(config.get("joint_attention_dim", 3584)), int(config.get("in_channels", 64))
    out = int(config.get("patch_size", 2)) ** 2 * int(config.get("out_channels", 16) or channels)
    matrices = (Linear(2, 6 * width, width), Linear(8, width, width), Linear(2, 4 * width, width), Linear(2, width, 4 * width))
    biases = sum(matrix.count * matrix.rows for matrix in matrices)
    time = _linear(256, width) + _linear(width, width) + (2 * width if config.get("use_additional_t_cond") else 0)
    around = joint + _linear(channels, width) + _linear(joint, width) + _linear(width, 2 * width) + _linear(width, out)
    return Weights(int(config.get("num_layers", 60)), matrices, biases + 4 * head, time + around)


def transformer_activations(config: Config, image_tokens: int, text_tokens: int, precision: Precision) -> int:
    """One evaluation: the most is alive in the feed-forward layer of a block, seven tensors of the stream and two four times as wide."""
    width, element = _width(config), _ELEMENT[precision]
    stream = (15 * image_tokens + 5 * text_tokens) * width * element
    rotary = 2 * image_tokens * int(config.get("attention_head_dim", 128)) // 2 * 8
    unpacked = 4 * width * width * element if precision == "int8" else 0
    return stream + rotary + unpacked


def transformer_flops(config: Config, image_tokens: int, text_tokens: int) -> int:
    """One evaluation: linear layers and attention, 2 for a multiplication with its addition."""
    width, tokens = _width(config), image_tokens + text_tokens
    block = 24 * width**2 * tokens + 24 * width**2 + 4 * tokens**2 * width
    return int(config.get("num_layers", 60)) * block


def pixels_per_token(vae: Config) -> int:
    """The side of the square of pixels that a token stands for: two of the VAE's latent pixels."""
    return 2 * int(vae.get("patch", 8))


def vae_weights(config: Config) -> Weights:
    """AutoencoderKLQwenImage; PixelShuffleVAE has a `patch`, and nothing to weigh."""
    if "patch" in config:
        return Weights(0, (), 0, 1)
    base, latent, channels = int(config.get("base_dim", 96)), int(config.get("z_dim", 16)), int(config.get("input_channels", 3))
    widths, depth, down3d = _vae_levels(config)
    top = widths[-1]
    middle = 2 * _residual(top, top) + _attention(top)
    encoder = _conv3(channels, base) + middle + top + _conv3(top, 2 * latent)
    before = base
    for level, width in enumerate(widths):
        encoder += _residual(before, width) + (depth - 1) * _residual(width, width)
        if level < len(widths) - 1:
            encoder += 9 * width**2 + width + (3 * width**2 + width if down3d[level] else 0)
        before = width
    decoder = _conv3(latent, top) + middle + widths[0] + _conv3(widths[0], channels)
    before = top
    for level, width in reversed(list(enumerate(widths))):
        decoder += _residual(before, width) + depth * _residual(width, width)
        if level > 0:
            decoder += 9 * width * (width // 2) + width // 2 + (6 * width**2 + 2 * width if down3d[level - 1] else 0)
        before = width // 2
    return Weights(0, (), 0, encoder + decoder + _linear(2 * latent, 2 * latent) + _linear(latent, latent))


def encode_activations(config: Config, pixels: int, precision: Precision) -> int:
    """The VAE's encoder on one picture.

    Every causal convolution keeps a copy of its input for a next frame that never comes, until the pass is over, and pads its input to
    three frames: the most is alive in the last convolution at full size.
    """
    if "patch" in config:
        return 2 * 4 * pixels * _ELEMENT[precision]
    widths, depth, _ = _vae_levels(config)
    # Copies of 2 * depth convolutions; a block's input, its state, three padded frames and the output.
    return (2 * depth + 6) * widths[0] * pixels * _ELEMENT[precision]


def decode_activations(config: Config, pixels: int, precision: Precision) -> int:
    """The VAE's decoder on one layer: as in the encoder, with the copies of all the smaller levels."""
    if "patch" in config:
        return 2 * 4 * pixels * _ELEMENT[precision]
    widths, depth, _ = _vae_levels(config)
    before, copies = widths[-1], 4 * widths[-1] / 4 ** (len(widths) - 1)
    for level, channels in reversed(list(enumerate(widths))):
        copies += (before + (2 * depth + 1) * channels) / 4**level
        entered, before = before, channels // 2
    # The copies of the last level include that of its last convolution; what entered the level stays alive until its end.
    return int((copies + entered + 6 * widths[0]) * pixels) * _ELEMENT[precision]


def text_encoder_weights(config: Config) -> Weights:
    """Qwen2_5_VLForConditionalGeneration."""
    text, vision = _text(config), config.get("vision_config") or {}
    hidden, inner, vocabulary = int(text["hidden_size"]), int(text["intermediate_size"]), int(text["vocab_size"])
    narrow = hidden // int(text["num_attention_heads"]) * int(text["num_key_value_heads"])
    matrices = (Linear(2, hidden, hidden), Linear(2, narrow, hidden), Linear(2, inner, hidden), Linear(1, hidden, inner))
    tied = config.get("tie_word_embeddings") or text.get("tie_word_embeddings")
    rest = vocabulary * hidden * (1 if tied else 2) + hidden + _vision_parameters(vision)
    return Weights(int(text["num_hidden_layers"]), matrices, 3 * hidden + 2 * narrow, rest, vocabulary * hidden)


def text_encoder_activations(config: Config, text_tokens: int, pixels: int, precision: Precision) -> int:
    """Encoding a prompt with all hidden states and logits kept or, with `pixels` above 0, writing a caption for a picture."""
    text, vision, element = _text(config), config.get("vision_config") or {}, _ELEMENT[precision]
    hidden, layers = int(text["hidden_size"]), int(text["num_hidden_layers"])
    prompt = text_tokens * (hidden * (layers + 2) + int(text["vocab_size"]))
    if not pixels:
        return prompt * element
    patches = pixels // int(vision.get("patch_size", 14)) ** 2
    tokens = patches // int(vision.get("spatial_merge_size", 2)) ** 2 + text_tokens
    looked = int(vision.get("hidden_size", 3584))
    # The rotation of queries and keys in float32, or the feed-forward layer.
    seen = patches * max(18 * looked, 5 * looked + 3 * int(vision.get("intermediate_size", 3420)))
    remembered = 2 * tokens * layers * hidden // int(text["num_attention_heads"]) * int(text["num_key_value_heads"])
    written = tokens * (3 * int(text["intermediate_size"]) + 6 * hidden)
    return max(prompt, seen, remembered + written) * element


def _width(config: Config) -> int:
    return int(config.get("num_attention_heads", 24)) * int(config.get("attention_head_dim", 128))


def _linear(columns: int, rows: int) -> int:
    return columns * rows + rows


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _conv3(before: int, after: int) -> int:
    return 27 * before * after + after


def _residual(before: int, after: int) -> int:
    shortcut = _linear(before, after) if before != after else 0
    return before + after + _conv3(before, after) + _conv3(after, after) + shortcut


def _attention(channels: int) -> int:
    return channels + _linear(channels, 3 * channels) + _linear(channels, channels)


def _vae_levels(config: Config) -> tuple[list[int], int, list[bool]]:
    """Channels at full size and at each halving, residual blocks a level, and which halvings are of time too."""
    base = int(config.get("base_dim", 96))
    widths = [base * int(factor) for factor in config.get("dim_mult", (1, 2, 4, 4))]
    return widths, int(config.get("num_res_blocks", 2)), [bool(on) for on in config.get("temperal_downsample", (False, True, True))]


def _text(config: Config) -> Config:
    """The language model's own keys, from the nested layout or the older flat one."""
    given = {key: value for key, value in (config.get("text_config") or config).items() if value is not None}
    defaults = {"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64}
    return {**defaults, "num_key_value_heads": 8, **given}


def _vision_parameters(vision: Config) -> int:
    hidden, inner = int(vision.get("hidden_size", 3584)), int(vision.get("intermediate_size", 3420))
    merged = hidden * int(vision.get("spatial_merge_size", 2)) ** 2
    patch = int(vision.get("patch_size", 14)) ** 2 * int(vision.get("temporal_patch_size", 2)) * int(vision.get("in_channels", 3))
    block = 2 * hidden + _linear(hidden, 3 * hidden) + _linear(hidden, hidden) + 2 * _linear(hidden, inner) + _linear(inner, hidden)
    merger = hidden + _linear(merged, merged) + _linear(merged, int(vision.get("out_hidden_size", 3584)))
    return patch * hidden + int(vision.get("depth", 32)) * block + merger

"""A tiny vision-language model: it sees pictures, reads any text, and answers gibberish."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from layerctl.engines.qwen.model import quiet_libraries

SIDE, PATCH = 16, 4
TOKENS_OF_A_PICTURE = (SIDE // PATCH) ** 2
SPECIAL_TOKENS = ("<pad>", "<end>", "<image>", "<message>")
TEMPLATE = """\
{%- for message in messages -%}
<message>
{%- for part in message.content -%}{{ '<image>' if part.type == 'image' else part.text }}{%- endfor -%}
{%- endfor -%}
<message>"""
"""A token before each message and one before the answer, and no words of its own."""


def write_tiny_judge(folder: Path, words: str) -> PreTrainedTokenizerFast:
    """Write a LLaVA: random weights, the same every time; a tokenizer trained on `words`; answers that end by themselves."""
    tokenizer = _tokenizer(words)
    size = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(  # type: ignore[no-untyped-call]
        CLIPImageProcessorPil(size=size, do_center_crop=False),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,  # CLIP's class token, which the strategy drops again
    )
    ids = tokenizer.get_vocab()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=PATCH
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=1 << 15, pad_token_id=ids["<pad>"], bos_token_id=None,
            eos_token_id=ids["<end>"],
            initializer_range=0.5,  # large enough for pictures to change the answer
        ),
        image_token_index=ids["<image>"],
        vision_feature_layer=-1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    # From the eighth token on, the end becomes ever more likely.
    model.generation_config.exponential_decay_length_penalty = (8, 2.0)
    with quiet_libraries():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return tokenizer


def _tokenizer(words: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator([words], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")  # type: ignore[no-untyped-call]

"""Hugging Face transformers: one small random model a family, inputs by name."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.entries import Built, Entry

TEXT: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
CAUSAL = {**TEXT, "num_key_value_heads": 2, "use_cache": False}
VISION = {k: v for k, v in TEXT.items() if k not in ("vocab_size", "max_position_embeddings")}
IMAGE = {**VISION, "image_size": 32, "patch_size": 8}


def tokens(*names: str) -> dict[str, Tensor]:
    """Twelve token numbers an example, under each name."""
    return {name: torch.randint(0, 99, (2, 12)) for name in names}


def pixels(side: int = 32) -> dict[str, Tensor]:
    """Two random images."""
    return {"pixel_values": torch.randn(2, 3, side, side)}


def sound() -> dict[str, Tensor]:
    """A short spectrogram and the first tokens of its transcript."""
    return {"input_features": torch.randn(2, 80, 64), **tokens("decoder_input_ids")}


T5 = {
    "vocab_size": 99,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "use_cache": False,
}
WHISPER = {
    "vocab_size": 99,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_source_positions": 32,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
}
CLIP = {
    "text_config": {**TEXT, "eos_token_id": 98, "bos_token_id": 97, "pad_token_id": 0},
    "vision_config": IMAGE,
    "projection_dim": 32,
}
DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_queries": 8,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 32,
    "depths": [2, 2],
    "num_heads": [2, 4],
}
SEGFORMER = {
    "hidden_sizes": [16, 32, 64, 128],
    "num_attention_heads": [1, 2, 4, 8],
    "depths": [1, 1, 1, 1],
    "decoder_hidden_size": 32,
}
MAMBA = {
    "vocab_size": 99,
    "hidden_size": 64,
    "state_size": 8,
    "num_hidden_layers": 2,
    "use_cache": False,
}

# Name, configuration class, model class, options, inputs.
Row = tuple[str, str, str, dict[str, Any], Callable[[], dict[str, Tensor]]]
MODELS: tuple[Row, ...] = (
    ("bert", "BertConfig", "BertForSequenceClassification", TEXT, partial(tokens, "input_ids")),
    (
        "gpt2",
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": 99, "n_embd": 64, "n_layer": 2, "n_head": 4, "use_cache": False},
        partial(tokens, "input_ids"),
    ),
    ("llama", "LlamaConfig", "LlamaForCausalLM", CAUSAL, partial(tokens, "input_ids")),
    ("mistral", "MistralConfig", "MistralForCausalLM", CAUSAL, partial(tokens, "input_ids")),
    ("qwen2", "Qwen2Config", "Qwen2ForCausalLM", CAUSAL, partial(tokens, "input_ids")),
    (
        "t5",
        "T5Config",
        "T5ForConditionalGeneration",
        T5,
        partial(tokens, "input_ids", "decoder_input_ids"),
    ),
    ("whisper", "WhisperConfig", "WhisperForConditionalGeneration", WHISPER, sound),
    ("clip", "CLIPConfig", "CLIPModel", CLIP, lambda: {**tokens("input_ids"), **pixels()}),
    ("vit", "ViTConfig", "ViTForImageClassification", IMAGE, pixels),
    ("swin", "SwinConfig", "SwinForImageClassification", SWIN, pixels),
    (
        "segformer",
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        SEGFORMER,
        partial(pixels, 64),
    ),
    ("detr", "DetrConfig", "DetrForObjectDetection", DETR, partial(pixels, 64)),
    (
        "convnextv2",
        "ConvNextV2Config",
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 2, 1]},
        partial(pixels, 64),
    ),
    ("mamba", "MambaConfig", "MambaForCausalLM", MAMBA, partial(tokens, "input_ids")),
)


def entries() -> Iterator[Entry]:
    """All of them."""
    for name, configuration, model, options, inputs in MODELS:
        build = partial(make, configuration, model, options, inputs)
        yield Entry(f"transformers/{name}", build, "a small configuration")


def make(
    configuration: str,
    model: str,
    options: dict[str, Any],
    inputs: Callable[[], dict[str, Tensor]],
) -> Built:
    """The model with random weights, and its inputs."""
    import transformers

    config = getattr(transformers, configuration)(**options)
    return getattr(transformers, model)(config), inputs()

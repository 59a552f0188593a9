"""A Llama of three layers with random weights: the shapes of attention at a size that an interpreter gets through."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 3, 4, 2, 16


def make_tiny_model(folder: Path, *, tokenizer_from: Path, **changes: Any) -> Path:
    """Save it with the tokenizer of another model; `changes` go into its configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {
        "vocab_size": 49_152,
        "hidden_size": NUM_HEADS * HEAD_DIM,
        "intermediate_size": 128,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        # Larger than usual, so that attention is not flat.
        "initializer_range": 0.2,
    }
    LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer_from / name, folder / name)
    return folder

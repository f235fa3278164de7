"""Randomly initialised models of the true sizes: speed needs no weights, so nothing is downloaded."""

from __future__ import annotations

import argparse

import torch
import transformers
from transformers import LlamaConfig, PretrainedConfig, T5Config

from clbench.errors import unknown
from clbench.model.backbone import Backbone, choose_device, choose_dtype, load_backbone, load_tokenizer
from clbench.model.backbone_files import EMBEDDED
from clbench.model.decoder import read_labels
from clbench.settings import Settings

T5_SHAPES = {
    "t5-large": {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16, "feed_forward_proj": "relu"},
    "flan-t5-xl": {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32, "feed_forward_proj": "gated-gelu"},
}
LLAMA_SHAPES = {
    "llama2-7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32
    },
    "llama2-13b": {
        "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40
    },
}  # fmt: skip
SHAPES = (*T5_SHAPES, *LLAMA_SHAPES)


def shape_config(name: str, reduced: bool = False) -> PretrainedConfig:
    """Return the configuration of a published model, or of the same architecture at toy size.

    Raises:
        ClbenchError: no such shape.
    """
    if name in T5_SHAPES:
        sizes = T5_SHAPES[name] | {"d_kv": 64, "vocab_size": 32128, "tie_word_embeddings": name == "t5-large"}
        if reduced:
            sizes |= {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 12000}
        return T5Config(**sizes, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    if name in LLAMA_SHAPES:
        sizes = LLAMA_SHAPES[name] | {"vocab_size": 32000, "max_position_embeddings": 4096}
        if reduced:
            sizes |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
            sizes["vocab_size"] = 12000
        return LlamaConfig(**sizes, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    raise unknown("shape", name, SHAPES)


def random_backbone(name: str, device: str, dtype: torch.dtype, reduced: bool = False) -> Backbone:
    """Return a backbone of a published model's shape with random weights, made on the device itself.

    Its tokenizer is the embedded one: its ids lie within every shape's vocabulary.

    Args:
        name: one of `SHAPES`.
        reduced: the same architecture at toy size, for a CPU.

    Raises:
        ClbenchError: no such shape.
    """
    config = shape_config(name, reduced)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    with torch.device(device):
        model = kind.from_config(config, dtype=dtype)
    model.requires_grad_(False).eval()
    if not config.is_encoder_decoder:
        read_labels(model)
    shown = f"{name} ({'reduced, ' if reduced else ''}random weights)"
    return Backbone(shown, model, load_tokenizer(EMBEDDED), torch.device(device))


def add_backbone_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark's command choose its backbone, `--backbone NAME` or `--shape NAME [--reduced]`, and how it computes."""
    parser.add_argument("--backbone", default=EMBEDDED, help="mini, a local folder, a GGUF file or a hub id [mini]")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this published model's true size instead")
    parser.add_argument("--reduced", action="store_true", help="with --shape: the architecture at toy size")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... [auto]")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"], help="[auto]")
    parser.add_argument("--threads", help="of the CPU [the preset's, else PyTorch's choice]")


def backbone_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the settings that the arguments of `add_backbone_arguments` give."""
    given = {"backbone": arguments.backbone, "precision": arguments.precision}
    return given | ({} if arguments.threads is None else {"threads": arguments.threads})


def chosen_backbone(arguments: argparse.Namespace, settings: Settings) -> Backbone:
    """Return the backbone that the arguments of `add_backbone_arguments` ask for, in the settings' precision."""
    if arguments.shape is None:
        return load_backbone(arguments.backbone, arguments.device, settings.precision, settings.threads)
    device = choose_device(arguments.device)
    if arguments.reduced or settings.threads is not None:  # a toy has no work for several threads
        torch.set_num_threads(settings.threads or 1)
    return random_backbone(arguments.shape, str(device), choose_dtype(settings.precision, device), arguments.reduced)

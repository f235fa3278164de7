"""Tiny random models with a tokenizer, saved as Hugging Face folders: the backbones of checks and tests."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.encoding.alpaca import ask_alpaca


def save_tiny_t5(folder: Path, vocabulary: int = 600, **sizes: int) -> Path:
    """Write a T5 and its tokenizer; return the folder. `sizes` are fields of T5Config to change."""
    tokenizer = _train_tokenizer(vocabulary, ["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4, **sizes}
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        **shape,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def save_tiny_llama(folder: Path, vocabulary: int = 600, **sizes: int) -> Path:
    """Write a LLaMA and its tokenizer, without a padding token; return the folder. `sizes` are fields of LlamaConfig."""
    tokenizer = _train_tokenizer(vocabulary, ["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, **sizes}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        num_attention_heads=4,
        num_key_value_heads=2,
        **shape,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,  # at LLaMA's 0.02 all logits of so small a model are the same
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _train_tokenizer(vocabulary: int, special: list[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer of the toy tasks' prompts, whose first tokens are the special ones."""
    transformers.utils.logging.disable_progress_bar()
    tasks = load_tasks("toy", find_stream("long:1"))
    texts = [text for task in tasks for example in task.train for text in (example.prompt, example.target)]
    if "<s>" in special:
        texts += [ask_alpaca(task.train[0]).prompt for task in tasks]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer

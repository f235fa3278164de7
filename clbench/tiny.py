"""A tiny random T5 with a tokenizer, saved as a Hugging Face folder: the backbone of checks and tests."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from .sources import load_tasks
from .streams import find_stream


def save_tiny_t5(folder: Path, vocabulary: int = 600, **sizes: int) -> Path:
    """Write model and tokenizer; return the folder. `sizes` are fields of T5Config to change."""
    transformers.utils.logging.disable_progress_bar()
    tasks = load_tasks("toy", find_stream("long:1"))
    texts = [text for task in tasks for example in task.train for text in (example.prompt, example.target)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4, **sizes}
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

"""The model's answers to questions, generated in batches with the adapter folded into the frozen weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import transformers

from .backbone import merged
from .batches import Encoded, longest_answer, sorted_batches

if TYPE_CHECKING:
    from .learner import Learner
    from .streams import Example


def generate_answers(
    learner: Learner, examples: Sequence[Example], most: int | None = None, **generation: Any
) -> list[str]:
    """Return the model's answers, in the order of the examples; the weights stay as they are.

    An answer ends after `most` tokens or, without, after `max_answer` tokens of the settings or, without, of its task.

    Args:
        generation: what is otherwise than greedy, as `transformers.GenerationConfig` names it.
    """
    encoded = learner.encoder.encode(examples)
    answers = [""] * len(encoded)
    config, decoder = _generation_config(learner), not learner.model.config.is_encoder_decoder
    learner.model.eval()
    gated = learner.blocks is not None and learner.blocks.gate is not None
    with torch.no_grad(), nullcontext() if gated else merged(learner.model):
        for longest, indices in _batches(learner, examples, encoded, most):
            batch = learner.collate([encoded[i] for i in indices])
            tokens = learner.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                generation_config=config,
                max_new_tokens=longest,
                **_without_prompt(generation, batch.input_ids.shape[1] if decoder else 0),
            )
            if decoder:
                tokens = tokens[:, batch.input_ids.shape[1] :]  # the prompt comes first
            texts = learner.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for index, text in zip(indices, texts, strict=True):
                answers[index] = text.strip()
    return answers


def _generation_config(learner: Learner) -> transformers.GenerationConfig:
    own = learner.model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = [end for end in dict.fromkeys([*ends, learner.tokenizer.eos_token_id]) if end is not None]
    return transformers.GenerationConfig(
        do_sample=False,
        num_beams=1,
        pad_token_id=learner.tokenizer.pad_token_id,
        eos_token_id=ends,
        decoder_start_token_id=own.decoder_start_token_id,
    )


def _without_prompt(generation: Mapping[str, Any], prompt: int) -> dict[str, Any]:
    """Let a repetition penalty count an answer's own tokens only, and not the `prompt` tokens that a decoder has before it."""
    if not prompt or "repetition_penalty" not in generation:
        return dict(generation)
    others = {name: value for name, value in generation.items() if name != "repetition_penalty"}
    penalty = transformers.RepetitionPenaltyLogitsProcessor(
        generation["repetition_penalty"], prompt_ignore_length=prompt
    )
    return {**others, "logits_processor": transformers.LogitsProcessorList([penalty])}


def _batches(
    learner: Learner, examples: Sequence[Example], encoded: Sequence[Encoded], most: int | None
) -> Iterator[tuple[int, list[int]]]:
    """Yield an answer's length and the examples to be answered with it, long prompts first."""
    of_length = defaultdict(list)
    for index, example in enumerate(examples):
        of_length[most or learner.settings.max_answer or longest_answer(example)].append(index)
    for longest, members in of_length.items():
        lengths = [len(encoded[index].input_ids) for index in members]
        for part in sorted_batches(lengths, learner.settings.eval_batch_size):
            yield longest, [members[number] for number in part]

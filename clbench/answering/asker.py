"""The model's answers to questions: batches as large as memory allows, the adapter folded into the frozen weights.

A batch's generation ends when all its rows have; nothing else cuts an answer before its task's length. In particular a free
answer may be longer than every label of its task: it can still be right (punctuation and white space do not count, and a text
can be cut into tokens in several ways), and one that is cut short could become right by that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import transformers
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from clbench.answering.label_trie import LabelStop, LabelTrie, LabelWalk
from clbench.data.tasks import Example
from clbench.encoding.encoder import Encoded, longest_answer
from clbench.model.backbone import merged

CPU_PADDING = 64  # tokens that cost a CPU about as much as a batch's pass for one token of its answers

if TYPE_CHECKING:
    from clbench.learning.learner import Learner


def generate_answers(
    learner: Learner, examples: Sequence[Example], most: int | None = None, **generation: Any
) -> list[str]:
    """Return the model's answers, in the order of the examples; the weights stay as they are.

    An answer ends after `most` tokens or, without, after `max_answer` tokens of the settings or, without, of its task.

    Args:
        generation: what is otherwise than greedy, as `transformers.GenerationConfig` names it.

    Raises:
        ClbenchError: there is no memory for a single question.
    """
    encoded = learner.encoder.encode(examples)
    config = generation_config(learner)

    def ask(rows: list[Encoded], longest: int) -> list[str]:
        tokens = _generate(learner, rows, generation_config=config, max_new_tokens=longest, **generation)
        return [text.strip() for text in learner.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    longest = [most or learner.settings.max_answer or longest_answer(example) for example in examples]
    return answer_in_batches(learner, encoded, longest, ask)


def choose_labels(learner: Learner, examples: Sequence[Example], labels: Sequence[str]) -> list[str]:
    """Return for each example the label that greedy decoding gives when it may write nothing but one of the labels.

    `max_answer` does not cut a label.

    Raises:
        ClbenchError: there is no memory for a single question, or two labels are the same tokens.
    """
    encoded = learner.encoder.encode(examples)
    config, trie = generation_config(learner), label_trie(learner, labels)

    def ask(rows: list[Encoded], longest: int) -> list[str]:
        walk = LabelWalk(trie, len(rows))
        _generate(
            learner,
            rows,
            generation_config=config,
            max_new_tokens=longest,
            logits_processor=LogitsProcessorList([walk]),
            stopping_criteria=StoppingCriteriaList([LabelStop(walk)]),
        )
        return walk.answers()

    return answer_in_batches(learner, encoded, [trie.depth] * len(encoded), ask)


def label_trie(learner: Learner, labels: Sequence[str]) -> LabelTrie:
    """Return the trie of labels; their tokens are those that a target of training has.

    Raises:
        ClbenchError: two labels are the same tokens.
    """
    targets = learner.encoder.encode([Example("", "", label, "") for label in labels])
    return LabelTrie(labels, [target.labels for target in targets], learner.device)


def answer_in_batches(
    learner: Learner,
    encoded: Sequence[Encoded],
    longest: Sequence[int],
    ask: Callable[[list[Encoded], int], list[str]],
) -> list[str]:
    """Return what `ask` answers to batches of questions, in the order of the questions.

    A batch holds questions of one answer length, long prompts first: at most `eval_batch_size` rows, and at most `eval_tokens`
    tokens of prompt and answer, padding included; on a CPU no more padding than saves passes: the longer the targets, the more.
    Where that is too much for the device, the batch is halved, and no later one in the process is as large.

    Args:
        longest: for each question, how many tokens its answer may have.
        ask: from the rows of a batch and the length of their answers to the answers.

    Raises:
        ClbenchError: there is no memory for a single question.
    """
    answers, waiting = [""] * len(encoded), defaultdict(list)
    for index in sorted(range(len(encoded)), key=lambda index: -len(encoded[index].input_ids)):
        waiting[longest[index]].append(index)
    padding = math.inf  # on a GPU passes are what costs
    if learner.device.type == "cpu":
        padding = CPU_PADDING * max([4, *(len(row.labels) for row in encoded)])
    learner.model.eval()
    gated = learner.blocks is not None and learner.blocks.gate is not None
    with torch.no_grad(), nullcontext() if gated else merged(learner.model):
        for most, indices in waiting.items():
            while indices:
                lengths = [len(encoded[i].input_ids) + most for i in indices[: learner.settings.eval_batch_size]]
                size = learner.room.rows(lengths, learner.settings, padding)
                rows = [encoded[index] for index in indices[:size]]
                found = _unless_out_of_memory(ask, rows, most)
                if found is None:
                    learner.room.shrink(len(rows), lengths[0])
                    clear_device_cache()
                    continue
                for index, answer in zip(indices[:size], found, strict=True):
                    answers[index] = answer
                del indices[:size]
    return answers


def _unless_out_of_memory(
    ask: Callable[[list[Encoded], int], list[str]], rows: list[Encoded], longest: int
) -> list[str] | None:
    """Return the answers, None where memory ran out; by then everything that the attempt had made is let go."""
    try:
        return ask(rows, longest)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
            raise
    return None


def _generate(learner: Learner, rows: list[Encoded], **generation: Any) -> Tensor:
    """Return the tokens of the answers; a decoder's prompts, which come before them, are cut off."""
    batch = learner.collate(rows)
    prompt = 0 if learner.model.config.is_encoder_decoder else batch.input_ids.shape[1]
    if "penalty" in generation:
        generation["logits_processor"] = LogitsProcessorList([RepetitionPenalty(prompt, **generation.pop("penalty"))])
    tokens: Tensor = learner.model.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, **generation
    )
    return tokens[:, prompt:]


class RepetitionPenalty(transformers.RepetitionPenaltyLogitsProcessor):
    """Make tokens that stand in the answer already less likely, but for those that may repeat.

    Args:
        prompt: how many tokens come before the answer.
        penalty: by which the score of such a token is divided (multiplied, where it is negative).
        repeatable: ids of the tokens that may repeat.
    """

    def __init__(self, prompt: int, penalty: float, repeatable: Sequence[int] = ()) -> None:
        super().__init__(penalty, prompt or None)
        self.repeatable = list(repeatable)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores of the next token, shape (batch, vocabulary)."""
        penalised: Tensor = super().__call__(input_ids, scores)
        penalised[:, self.repeatable] = scores[:, self.repeatable]
        return penalised


def generation_config(learner: Learner) -> transformers.GenerationConfig:
    """Return greedy decoding, ended by the end tokens of model and tokenizer, with nothing else of the model's own."""
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

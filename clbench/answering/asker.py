"""The model's answers to questions: batches as large as memory allows, the adapter folded into the frozen weights.

A row whose answer has ended leaves its batch (`greedy.py`); nothing else cuts an answer before its task's length. In particular a
free answer may be longer than every label of its task: it can still be right (punctuation and white space do not count, and a
text can be cut into tokens in several ways), and one that is cut short could become right by that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import transformers
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from clbench.answering.greedy import write_greedily
from clbench.answering.label_trie import LabelStop, LabelTrie, LabelWalk
from clbench.answering.opening import Opening, plain_inputs
from clbench.data.tasks import Example
from clbench.encoding.encoder import Encoded, Encoder, longest_answer
from clbench.model.attached import Attached
from clbench.model.backbone import Backbone, merged
from clbench.model.devices import ALONE, Devices
from clbench.model.fast.head_by_columns import head_by_columns
from clbench.settings import Settings

Way = Literal["generate", "labels"]
Inputs = dict[str, Any]  # what `generate` is called with
# From what is asked, the length of answers, and whether rows may be put off, to what is found for each, None for those.
Ask = Callable[[Inputs, int, bool], Sequence[Any]]
AskRows = Callable[[Sequence[Encoded], int, bool], Sequence[Any]]
CPU_PADDING = 64  # tokens that cost a CPU about as much as a batch's pass for one token of its answers


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn at random, by torch's global random stream, instead of taking the likeliest.

    Attributes:
        top_k: draw from so many likeliest tokens.
        repetition_penalty: above 1, tokens that stand in the answer already become less likely.
        repeatable: a text whose tokens the penalty passes over.
    """

    top_k: int
    repetition_penalty: float = 1.0
    repeatable: str = ""


class Asker:
    """Asks the model of a backbone, with what is attached to it.

    Attributes:
        way: whether labels are looked at: the setting `answers`.
    """

    def __init__(
        self, backbone: Backbone, attached: Attached, encoder: Encoder, settings: Settings, devices: Devices = ALONE
    ) -> None:
        self.way: Way = settings.answers
        self._backbone = backbone
        self._attached = attached
        self._encoder = encoder
        self._settings = settings
        self._devices = devices

    @contextmanager
    def asking(self, way: Way) -> Iterator[None]:
        """Answer in another way within a block."""
        usual, self.way = self.way, way
        try:
            yield
        finally:
            self.way = usual

    def answer(
        self,
        examples: Sequence[Example],
        labels: Sequence[str] = (),
        most: int | None = None,
        sampling: Sampling | None = None,
    ) -> list[str]:
        """Return the model's answers, in the order of the examples; the weights stay as they are.

        An answer ends after `most` tokens or, without, after `max_answer` tokens of the settings or, without, of its task.

        Args:
            labels: the closed set of right answers, none for free text; looked at where `way` is "labels".

        Raises:
            ClbenchError: there is no memory for a single question, or two labels are the same tokens.
        """
        if labels and self.way == "labels":
            return self._choose(examples, self.trie(labels))
        return self._generate(examples, most or self._settings.max_answer, sampling)

    def probabilities(self, examples: Sequence[Example], labels: Sequence[str]) -> list[list[float]]:
        """Return for each example the probability of each label as the whole answer, among the labels alone.

        Raises:
            ClbenchError: there is no memory for a single question.
        """
        targets = self._encoder.encode([Example("", "", label, "") for label in labels])
        longest = max(len(target.labels) for target in targets)

        def ask(rows: Sequence[Encoded], _: int, __: bool) -> list[list[float]]:
            """Score one label after the other, so that a batch is no larger than one of answers."""
            columns = []
            for target in targets:
                batch = self._backbone.collate([Encoded(row.input_ids, target.labels) for row in rows])
                inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
                scores = self._backbone.model(**inputs, use_cache=False).logits.float().log_softmax(-1)
                columns.append(scores.gather(-1, batch.labels[..., None]).sum((1, 2)))
            chances: list[list[float]] = torch.stack(columns, 1).softmax(1).tolist()
            return chances

        return self._rows_in_batches(self._encoder.encode(examples), [longest] * len(examples), ask)

    def trie(self, labels: Sequence[str]) -> LabelTrie:
        """Return the trie of labels; their tokens are those that a target of training has.

        Raises:
            ClbenchError: two labels are the same tokens.
        """
        targets = self._encoder.encode([Example("", "", label, "") for label in labels])
        return LabelTrie(labels, [target.labels for target in targets], self._backbone.device)

    def _generate(self, examples: Sequence[Example], most: int | None, sampling: Sampling | None) -> list[str]:
        tokenizer = self._backbone.tokenizer

        def ask(inputs: Inputs, longest: int, put_off: bool) -> list[str | None]:
            tokens, left = self._write(inputs, longest, lambda prompt: self._drawn(prompt, sampling), put_off)
            texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
            return [None if row in left else text.strip() for row, text in enumerate(texts)]

        return self._in_batches(examples, [most or longest_answer(example) for example in examples], ask)

    def _drawn(self, prompt: int, sampling: Sampling | None) -> dict[str, Any]:
        if sampling is None:
            return {}
        drawn: dict[str, Any] = {"do_sample": True, "top_k": sampling.top_k}
        if sampling.repetition_penalty != 1.0:
            free = self._backbone.tokenizer(sampling.repeatable, add_special_tokens=False)["input_ids"]
            penalty = RepetitionPenalty(prompt, sampling.repetition_penalty, free)
            drawn["logits_processor"] = LogitsProcessorList([penalty])
        return drawn

    def _choose(self, examples: Sequence[Example], trie: LabelTrie) -> list[str]:
        """Return the label that greedy decoding gives when it may write nothing else; `max_answer` does not cut a label."""

        def ask(inputs: Inputs, longest: int, put_off: bool) -> Sequence[str]:
            walk = LabelWalk(trie, len(inputs["input_ids"]))
            processors, criteria = LogitsProcessorList([walk]), StoppingCriteriaList([LabelStop(walk)])
            self._write(inputs, longest, lambda _: {"logits_processor": processors, "stopping_criteria": criteria})
            return walk.answers()

        return self._in_batches(examples, [trie.depth] * len(examples), ask)

    def _write(
        self, inputs: Inputs, longest: int, choices: Callable[[int], dict[str, Any]], put_off: bool = False
    ) -> tuple[Tensor, list[int]]:
        """Return the tokens of the answers, a decoder's prompts cut off, and which rows were put off.

        Args:
            choices: from the number of tokens before an answer to what is otherwise than greedy.
            put_off: as in `write_greedily`.
        """
        prompt = inputs["input_ids"].shape[1] if self._backbone.is_decoder else 0
        chosen = choices(prompt)
        config = generation_config(self._backbone)
        if not chosen and not self._attached.hooks:  # else something counts rows: a walk, random numbers, a method
            return write_greedily(self._backbone.model, inputs, config, longest, put_off)
        tokens: Tensor = self._backbone.model.generate(
            **inputs, generation_config=config, max_new_tokens=longest, **chosen
        )
        return tokens[:, prompt:], []

    def _in_batches(self, examples: Sequence[Example], longest: Sequence[int], ask: Ask) -> list[str]:
        """Return what `ask` answers to questions, whose common beginning is read once; see `_rows_in_batches`."""
        encoded = self._encoder.encode(examples)
        inputs_of = self._opening(encoded, longest)
        return self._rows_in_batches(encoded, longest, lambda rows, *others: ask(inputs_of(rows), *others))

    def _rows_in_batches(self, encoded: Sequence[Encoded], longest: Sequence[int], ask: AskRows) -> list[Any]:
        """Return what `ask` answers to batches of questions, in the order of the questions.

        A batch holds questions of one answer length, long prompts first: at most `eval_batch_size` rows, and at most
        `eval_tokens` tokens of prompt and answer, padding included; on a CPU no more padding than saves passes: the longer
        the targets, the more. Where that is too much for the device, the batch is halved, and no later one is as large.
        Several devices share the questions.

        Args:
            longest: for each question, how many tokens its answer may have.
        """
        answers: dict[int, Any] = {}
        waiting = defaultdict(list)
        order = sorted(range(len(encoded)), key=lambda index: -len(encoded[index].input_ids))
        for index in self._devices.mine(order):
            waiting[longest[index]].append(index)
        model = self._backbone.model
        model.eval()
        with torch.no_grad(), head_by_columns(model), merged(model) if self._attached.mergeable else nullcontext():
            for most, indices in waiting.items():
                answers.update(zip(indices, self._ask_all([encoded[i] for i in indices], most, ask), strict=True))
        for others in self._devices.gather(answers):
            answers |= others
        return [answers[index] for index in range(len(encoded))]

    def _ask_all(self, rows: Sequence[Encoded], most: int, ask: AskRows) -> list[Any]:
        """Return the answers to questions, the longest prompts first, whose answers may have `most` tokens.

        Of each batch some rows may be put off, whose answers are long; in the end they are asked together.
        """
        padding = math.inf  # on a GPU passes are what costs
        if self._backbone.device.type == "cpu":
            padding = CPU_PADDING * max([4, *(len(row.labels) for row in rows)])
        limits, settings = self._backbone.limits, self._settings
        answers: list[Any] = [None] * len(rows)
        waiting, left, first = list(range(len(rows))), list[int](), True
        while waiting or left:
            if not waiting:
                waiting, left, first = left, [], False
            lengths = [len(rows[i].input_ids) + most for i in waiting[: settings.eval_batch_size]]
            batch = waiting[: limits.rows(lengths, settings, padding)]
            put_off = first and (len(batch) < len(waiting) or bool(left))
            found = _unless_out_of_memory(ask, [rows[i] for i in batch], most, put_off)
            if found is None:
                limits.shrink(len(batch), lengths[0])
                clear_device_cache()
                continue
            left += [index for index, answer in zip(batch, found, strict=True) if answer is None]
            for index, answer in zip(batch, found, strict=True):
                answers[index] = answer
            del waiting[: len(batch)]
        return answers

    def _opening(self, rows: Sequence[Encoded], longest: Sequence[int]) -> Callable[[Sequence[Encoded]], Inputs]:
        """Return what gives the inputs of a batch of these questions; where nobody looks at tokens, they share a beginning."""
        if not rows or not self._backbone.is_decoder or self._attached.hooks or not self._attached.mergeable:
            return partial(plain_inputs, self._backbone)
        return Opening(self._backbone, rows, max(longest)).inputs


def _unless_out_of_memory(ask: AskRows, rows: Sequence[Encoded], longest: int, put_off: bool) -> Sequence[Any] | None:
    """Return the answers, None where memory ran out; by then everything that the attempt had made is let go."""
    try:
        return ask(rows, longest, put_off)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
            raise
    return None


class RepetitionPenalty(transformers.RepetitionPenaltyLogitsProcessor):  # type: ignore[misc]  # its types are not read
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


def generation_config(backbone: Backbone) -> transformers.GenerationConfig:
    """Return greedy decoding, ended by the end tokens of model and tokenizer, with nothing else of the model's own."""
    own = backbone.model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = [end for end in dict.fromkeys([*ends, backbone.tokenizer.eos_token_id]) if end is not None]
    return transformers.GenerationConfig(
        do_sample=False,
        num_beams=1,
        pad_token_id=backbone.tokenizer.pad_token_id,
        eos_token_id=ends,
        decoder_start_token_id=own.decoder_start_token_id,
    )

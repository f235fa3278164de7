"""What a run measures beside its tasks, before the first one and after each: perplexity of texts, answers to questions.

It looks on: weights, gradients, mode, random numbers and the counters of costs are afterwards as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from clbench.about import About
from clbench.data.answer_scores import exact_match, lost_answers, score_answers
from clbench.data.probes import Probes, ProbeText, digest_of_questions, digest_of_text
from clbench.data.tasks import Example, Task
from clbench.encoding.encoder import Encoded
from clbench.encoding.round_trip import written
from clbench.encoding.windows import FEWEST, halves, spans, text_ids
from clbench.errors import ClbenchError
from clbench.learning.bookmarks import random_states, set_random_states
from clbench.learning.learner import Learner
from clbench.model.loss import batch_loss

SCORES = 2**24  # scores of tokens (64 MiB) that one pass computes at most: rows times target tokens times vocabulary
MOST_ROWS = 16  # of a pass
ROOM = 8  # tokens that an answer may be longer than the longest accepted one: white space, another spelling
BEFORE = -1  # the number of the task after which is measured what was there before the first

Objective = Literal["next tokens", "spans", "second halves", "answers"]


@dataclass(frozen=True)
class MeasuredText:
    """A text as the rows that a model's loss on it is measured on."""

    probe: ProbeText
    objective: Objective
    rows: Sequence[Encoded]

    @property
    def tokens(self) -> int:
        """How many tokens are scored."""
        return sum(len(row.labels) for row in self.rows)


class Prober:
    """Measures the probes of one run with its learner.

    Attributes:
        texts: those whose perplexity is measured.
        questions: those that are asked.
        obstacle: why the method's model has no perplexity, or no question can be asked of it; empty where all is measured.
    """

    def __init__(self, probes: Probes, learner: Learner, about: About, answers_itself: bool) -> None:
        settings = learner.settings
        self._learner = learner
        self.texts = [measured(probe, learner, settings.probe_tokens) for probe in probes.texts]
        self.questions = [asked(task, learner, settings.probe_tokens) for task in probes.questions]
        self.obstacle = ""
        if about.needs_task_id and (self.texts or self.questions):
            self.texts, self.questions = [], []
            self.obstacle = "no probe was measured: the method must be told of which task a text is"
        elif answers_itself and self.texts:
            self.texts = []
            self.obstacle = (
                "no perplexity was measured: the method answers by an `evaluate` hook of its own, not as its model alone; "
                "--probe-questions asks it"
            )

    @property
    def rows(self) -> list[Encoded]:
        """The rows of all texts."""
        return [row for text in self.texts for row in text.rows]

    def measure(self, ask: Callable[[Task], Sequence[str]]) -> dict[str, float | None]:
        """Return by name each text's perplexity (none where it is no number) and each question file's score in percent.

        Args:
            ask: returns the method's answers to a task's questions.
        """
        found: dict[str, float | None] = {}
        with undisturbed(self._learner):
            for text in self.texts:
                found[text.probe.name] = perplexity(self._learner, text.rows)
            for task in self.questions:
                found[task.name] = score_answers(task.metric, ask(task), [example.accepted for example in task.test])
        return found

    def records(self, measurements: Sequence[Mapping[str, Any]], tasks: int) -> list[dict[str, Any]]:
        """Return what a record says of the probes.

        Args:
            measurements: each with `after`, the number of a task (`BEFORE` for none), and the `values`.
            tasks: how many the run has.
        """
        by_time = {one["after"]: one["values"] for one in measurements}

        def described(name: str, **about: Any) -> dict[str, Any]:
            return {"name": name, **about, "values": [by_time.get(n, {}).get(name) for n in range(BEFORE, tasks)]}

        texts = [
            described(
                one.probe.name,
                objective=one.objective,
                rows=len(one.rows),
                tokens=one.tokens,
                digest=digest_of_text(one.probe),
            )
            for one in self.texts
        ]
        questions = [
            described(task.name, objective="answers", rows=len(task.test), digest=digest_of_questions(task))
            for task in self.questions
        ]
        return [*texts, *questions]


def measured(probe: ProbeText, learner: Learner, most: int) -> MeasuredText:
    """Return the first tokens of a text as rows, by the objective that the model was made for.

    Raises:
        ClbenchError: the text is too short.
    """
    tokenizer, decoder, longest = learner.tokenizer, learner.backbone.is_decoder, learner.settings.max_input
    ids = text_ids(tokenizer, probe.text, most)
    if len(ids) < FEWEST:
        raise ClbenchError(f"probe '{probe.name}': {len(ids)} tokens are too few to measure; it takes {FEWEST}")
    cut = None if decoder else spans(tokenizer, ids, longest)
    if cut is not None:
        return MeasuredText(probe, "spans", cut)
    return MeasuredText(probe, "next tokens" if decoder else "second halves", halves(tokenizer, ids, decoder, longest))


def asked(task: Task, learner: Learner, most: int) -> Task:
    """Return the first questions, whose prompts and accepted answers take so many tokens together; at least one.

    Raises:
        ClbenchError: a prompt is longer than `max_input`: cut, it would be another question.
    """
    count, longest, kept = 0, 0, list[Example]()
    for example in task.test:
        prompt, *answers = (len(ids) for ids in learner.tokenizer([example.prompt, *example.accepted])["input_ids"])
        count += prompt + max(answers)
        if kept and count > most:
            break
        longest = max(longest, *answers)
        kept.append(example)
    try:
        learner.feed.encoder.encode([replace(example, head=example.passage, passage="") for example in kept])
    except ClbenchError as error:  # no head is cut
        raise ClbenchError(f"probe '{task.name}': {error}") from None
    unwritable = [example for example in kept if not _can_be_written(example, learner)]
    if unwritable:
        raise ClbenchError(
            f"probe '{task.name}': backbone '{learner.backbone.name}' cannot write the answers to {len(unwritable)} of "
            f"{len(kept)} questions, the first of {unwritable[0].id}: {unwritable[0].target!r:.60}"
        )
    return replace(task, test=tuple(replace(example, max_answer=longest + ROOM) for example in kept))


def _can_be_written(example: Example, learner: Learner) -> bool:
    accepted = example.accepted
    return len(lost_answers(exact_match, accepted, written(learner.tokenizer, accepted))) < len(set(accepted))


@torch.no_grad()
def perplexity(learner: Learner, rows: Sequence[Encoded]) -> float | None:
    """Return exp of the mean loss over the target tokens of rows; none where that is no number."""
    total, tokens = 0.0, 0
    learner.model.eval()
    for batch in passes(rows, learner):
        found = sum(len(row.labels) for row in batch)
        total += float(batch_loss(learner.model, learner.model, learner.backbone.collate(batch))) * found
        tokens += found
    try:
        value = math.exp(total / tokens)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def passes(rows: Sequence[Encoded], learner: Learner) -> Iterator[Sequence[Encoded]]:
    """Yield the rows in batches whose scores are not too many for the memory."""
    widest = max(len(row.labels) for row in rows) * len(learner.tokenizer)
    size = max(1, min(MOST_ROWS, SCORES // widest))
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


@contextmanager
def undisturbed(learner: Learner) -> Iterator[None]:
    """Leave the learner's mode, counters and random numbers as they were."""
    training, states = learner.model.training, random_states(learner.device)
    try:
        with learner.cost.aside():
            yield
    finally:
        set_random_states(states, learner.device)
        learner.model.train(training)

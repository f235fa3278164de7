"""LFPT5: lifelong few-shot learning by prompt tuning (Qin & Joty, ICLR 2022, arXiv:2110.07298).

One soft prompt, appended to the input of the frozen model, learns to solve the tasks and to write examples of them:

    solve: x -> y          write: "generate TASK" -> x __ans__ y
    loss = (1 - kd_weight) * (solve + lm_weight * write) + kd_weight * KL(teacher || student)

Before a new task the prompt writes examples of every earlier one; those with exactly one separator, a text and a legal label
are kept, a few a class, and mixed in. Both losses are on all rows, KL on the written rows alone; the teacher is the prompt as
the task began. No real row is kept. KL is summed over tokens and vocabulary, and over rows as in the release's batch of 2,
whatever the batch here. No development set is used: the last prompt counts, and all written rows are trained on. AdamW with a
constant rate stands for Adafactor at 0.5. The separator is one token in the release, several here, which repeat: the penalty
of the sampling passes over them. `--save-adapter` writes `parts.safetensors` with `prompt.vectors` (length, width).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from clbench import About, Example, Learner, Search, Task, Unless, hookimpl
from clbench.answering.asker import Sampling
from clbench.encoding.batches import IGNORED
from clbench.model.soft_prompts import hook_prompt, vocabulary_rows

SEPARATOR = "__ans__"
ANSWER_ROOM = 40  # tokens of a written row that separator and label may take
FREQUENT = 5000  # tokens that the prompt starts from: a tokenizer's first ones
TOP_K, REPETITION_PENALTY = 64, 2.5  # of the sampling


@hookimpl
def methods() -> dict[str, type]:
    return {"lfpt5": LFPT5}


@dataclass(eq=False)
class LFPT5:
    """Train one soft prompt that solves the tasks and writes examples of earlier ones to be replayed."""

    prompt_length: Annotated[int, "vectors of the prompt", Ge(1), Search(choices=(50, 100, 300))] = 300
    learning_rate: Annotated[
        float, "of AdamW, constant; LoRA's would leave the prompt as it is", Gt(0), Search(0.03, 1.0, log=True)
    ] = 0.3
    lm_weight: Annotated[float, "weight of writing examples", Ge(0), Search(0.05, 1.0)] = 0.25
    kd_weight: Annotated[
        float, "weight of KL to the prompt as it was", Interval(ge=0, le=1), Search(1e-3, 0.5, log=True)
    ] = 0.01
    pseudo_per_class: Annotated[
        int, "written rows a class that are kept; 0: none are written", Ge(0), Search(choices=(2, 4, 8, 16))
    ] = 2
    samples_per_class: Annotated[
        int, "rows a class that are written at most, to find those", Ge(1), Unless(pseudo_per_class=0)
    ] = 16
    write_length: Annotated[int, "tokens of a written text, label apart", Ge(1)] = 128
    past: list[dict[str, Any]] = field(default_factory=list, init=False)

    about: ClassVar[About] = About(learning_rate="learning_rate", resumes_within_tasks=True)

    @hookimpl
    def attach(self, learner: Learner) -> bool:
        prompt = Prompt(vocabulary_rows(learner.backbone, self.prompt_length, learner.generator("prompt"), FREQUENT))
        learner.attached.add_part("prompt", prompt)
        hook_prompt(learner.attached, lambda ids, mask: prompt.vectors.expand(len(ids), -1, -1), "after")
        return True

    @hookimpl
    def learn_task(self, learner: Learner, task: Task) -> dict[str, float]:
        if not self.past:
            learner.attached.part(Prompt).start(learner, ["sentence classification", task.name, *task.labels])
        teacher = learner.weights.copy()
        written = [(about["name"], row) for about in self.past for row in self.write(learner, about)]
        rows = [*task.train, *(row for _, row in written)]
        lessons = [self.lesson(learner, name, row) for name, row in ((task.name, row) for row in task.train)]
        lessons += [self.lesson(learner, name, row) for name, row in written]
        training = learner.training(rows, learning_rate=self.learning_rate)
        for batch in training:
            loss = learner.loss(batch) + self.lm_weight * learner.loss(
                learner.feed.batch([lessons[i] for i in batch.rows])
            )
            old = [rows[i] for i in batch.rows if i >= len(task.train)]
            divergence = self.divergence(learner, old, teacher) * 2 / len(batch.rows) if old and self.kd_weight else 0
            training.step((1 - self.kd_weight) * loss + self.kd_weight * divergence)
        first = task.train[0]
        about = {"name": task.name, "labels": list(task.labels), "head": first.head, "tail": first.tail}
        self.past.append({**about, "max_answer": first.max_answer})
        return {**training.stats, "written": len(written)}

    def lesson(self, learner: Learner, name: str, row: Example) -> Example:
        """Return the example that teaches to write a row of a task; of a long passage its beginning."""
        most = self.write_length
        if learner.feed.encoder.max_target is not None:
            most = max(1, min(most, learner.feed.encoder.max_target - ANSWER_ROOM))
        places = learner.tokenizer(row.passage, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        text = row.passage if len(places) <= most else row.passage[: places[most - 1][1]]
        return Example(f"generate {name}", "", f"{text} {SEPARATOR} {row.target}", "", (), most + ANSWER_ROOM)

    def write(self, learner: Learner, about: Mapping[str, Any]) -> list[Example]:
        """Return at most `pseudo_per_class` written rows a class of an earlier task; fewer where they are not found."""
        found: dict[str, list[Example]] = {label: [] for label in about["labels"] or [""]}
        question = Example(f"generate {about['name']}", "", "", "", (), self.write_length + ANSWER_ROOM)
        left = self.samples_per_class * len(found)
        while left > 0 and any(len(rows) < self.pseudo_per_class for rows in found.values()):
            count = min(left, learner.settings.eval_batch_size)
            left -= count
            sampling = Sampling(TOP_K, REPETITION_PENALTY, repeatable=f" {SEPARATOR}")
            for text in learner.answer([question] * count, max_answer=question.max_answer, sampling=sampling):
                parsed = parse(text, about["labels"])
                if parsed is not None:
                    row = Example(about["head"], parsed[0], parsed[1], about["tail"], (), about["max_answer"])
                    found[parsed[1] if about["labels"] else ""].append(row)
        return [row for rows in found.values() for row in rows[: self.pseudo_per_class]]

    def divergence(self, learner: Learner, rows: Sequence[Example], teacher: Tensor) -> Tensor:
        """Return KL(teacher || student) summed over the rows' target tokens and the vocabulary, a scalar.

        Args:
            teacher: the prompt to compare with, as a flat vector of weights; its pass has neither dropout nor gradient.
        """
        batch = learner.feed.batch(rows)
        student = learner.passes.logits(batch).float().log_softmax(-1)
        training = learner.model.training
        learner.model.eval()
        with torch.no_grad():
            target = learner.passes.logits(batch, teacher).float().log_softmax(-1)
        learner.model.train(training)
        return ((target.exp() * (target - student)).sum(-1) * (batch.labels != IGNORED)).sum()


class Prompt(nn.Module):
    """The soft prompt, vectors of shape (length, width)."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)

    @torch.no_grad()
    def start(self, learner: Learner, texts: Sequence[str]) -> None:
        """Set the first vectors to the mean embeddings of texts."""
        table = learner.model.get_input_embeddings().weight
        for vector, text in zip(self.vectors, texts, strict=False):
            ids = learner.tokenizer(text, add_special_tokens=False)["input_ids"]
            vector.copy_(table[torch.tensor(ids, device=table.device)].float().mean(0))


def parse(text: str, labels: Sequence[str]) -> tuple[str, str] | None:
    """Return text and label of a written row, or None: one separator, some text, and a legal label are required."""
    parts = [part.strip() for part in text.split(SEPARATOR)]
    if len(parts) != 2 or not all(parts) or (labels and parts[1] not in labels):
        return None
    return parts[0], parts[1]

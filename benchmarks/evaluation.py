"""Answers a second: our engine against batches of one and against unsorted batches of 128, and labels against generation.

    python benchmarks/evaluation.py [--data toy] [--backbone mini | --shape t5-large [--reduced]] [--rounds 5]

All ask the same questions of the same model, task by task as a run does, in turns within one process; ratios are medians over
rounds. The baselines call `generate` of the PEFT model, as a script commonly does: in the given order, padded to the longest
of a batch, the adapter beside the frozen weights. `unsorted, merged` differs from us in the batches alone. The adapter has been
trained for some steps, so that answers end as they do in a run; a model of random weights writes `--max-answer` tokens. In
float32 all answers must be identical, or this fails; in bfloat16 a batch's shape decides ties, and the differing ones are
counted. Batches of one are asked every eighth question. A toy task's prompts are about as long as one another: what sorting
saves shows on real text, and what batches save on short prompts. On a CPU the process's own seconds are taken, so that other
work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from outcome import device_name, in_turns, median_ratio, named, write_outcome
from shapes import add_backbone_arguments, backbone_settings, chosen_backbone
from torch import nn
from training_step import without_reader

from clbench.answering.asker import generation_config
from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.tasks import Example, Task
from clbench.encoding.encoder import longest_answer
from clbench.learning.learner import Learner
from clbench.model.backbone import merged
from clbench.model.fast.fused_lora import fuse_lora, restore_lora
from clbench.records.files import slug
from clbench.settings import resolve_settings

ENGINE, LABELS = "ours", "ours, --answers labels"
ONE, SIXTEEN, UNSORTED, ALIKE = "batch 1", "unsorted 16", "unsorted 128", "unsorted 128, merged"
SAMPLE = 8  # batches of one take so long that only every so-many-th question is asked
STREAM = "amazon,boolqa,dbpedia"
TARGETS = {ONE: 5.0, UNSORTED: 1.5, SIXTEEN: 3.0}  # the last for decoders, whose questions share a beginning


@dataclass(frozen=True)
class Questions:
    """The learner and the tasks whose questions it is asked, and what each way answered last."""

    learner: Learner
    tasks: Sequence[Task]
    answers: dict[str, list[str]]

    def seconds_a_row(self, name: str, ask: Callable[[Task], list[str]]) -> float:
        """Return the seconds a question of the process on a CPU, of the wall elsewhere; keep the answers."""
        on_cpu = self.learner.device.type == "cpu"
        clock = time.process_time if on_cpu else time.perf_counter
        begin = clock()
        answers = [answer for task in self.tasks for answer in ask(task)]
        self.answers[name] = answers  # texts: the device is done
        return (clock() - begin) / len(answers)


def ours(learner: Learner, task: Task, way: str) -> list[str]:
    """Answer as a run does."""
    with learner.asker.asking(way):
        return learner.answer(task.test, labels=task.labels)


@contextmanager
def as_peft_computes(model: nn.Module) -> Iterator[None]:
    """Within a `with` block, LoRA layers compute as they do without clbench."""
    restore_lora(model)
    try:
        yield
    finally:
        fuse_lora(model)


def plain(learner: Learner, task: Task, size: int, merge: bool) -> list[str]:
    """Answer in batches of `size`, in the given order."""
    answers: list[str] = []
    learner.model.eval()
    longest = learner.settings.max_answer or max(map(longest_answer, task.test))
    beside = merged(learner.model) if merge else as_peft_computes(learner.model)
    with torch.no_grad(), without_reader(learner.model), beside:
        for begin in range(0, len(task.test), size):
            batch = learner.feed.batch(task.test[begin : begin + size])
            tokens = learner.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                generation_config=generation_config(learner.backbone),
                max_new_tokens=longest,
            )
            tokens = tokens if learner.model.config.is_encoder_decoder else tokens[:, batch.input_ids.shape[1] :]
            answers += [text.strip() for text in learner.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    return answers


def train(learner: Learner, rows: Sequence[Example], steps: int) -> None:
    """Take some steps, so that the answers are labels."""
    learner.begin_task(0)
    training = learner.training(rows)
    for batch in training.take(steps):
        training.step(learner.loss(batch))


def differing(answers: Mapping[str, Sequence[str]], sizes: Sequence[int], exact: bool) -> dict[str, int]:
    """Return how many answers of each baseline are not ours.

    Args:
        sizes: the questions of each task, of which batches of one were asked a part.

    Raises:
        SystemExit: there are some, though the arithmetic allows for none.
    """
    rest, sample = list(answers[ENGINE]), []
    for size in sizes:
        sample += rest[:size][::SAMPLE]
        del rest[:size]
    found = {}
    for name in (name for name in answers if name not in (ENGINE, LABELS)):
        ours = sample if name == ONE else answers[ENGINE]
        found[name] = sum(a != b for a, b in zip(ours, answers[name], strict=True))
        if exact and found[name]:
            raise SystemExit(f"{found[name]} of {len(ours)} answers of '{name}' differ from ours")
    return found


def parse() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_backbone_arguments(parser)
    parser.add_argument("--data", default="toy")
    parser.add_argument("--stream", default=STREAM, help="whose tasks are asked")
    parser.add_argument("--rows", type=int, default=512, help="questions a task, at most [512]")
    parser.add_argument("--steps", type=int, default=150, help="training steps before; a random model takes none [150]")
    parser.add_argument("--max-answer", help="tokens of an answer [the task's; 5 with --shape]")
    parser.add_argument("--max-input", help="tokens of a prompt [512]", default="512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", help="of the settings [the backbone's own]")
    parser.add_argument("--against", help="baselines, separated by semicolons: 'batch 1;unsorted 16' [all]")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    arguments = parse()
    given = {**backbone_settings(arguments), "data": arguments.data, "max_input": arguments.max_input}
    longest = arguments.max_answer or ("5" if arguments.shape else None)
    given |= {"max_answer": longest} if longest else {}
    settings = resolve_settings(given | ({"lora_targets": "all-linear"} if arguments.shape else {}), arguments.preset)
    backbone = chosen_backbone(arguments, settings)
    learner = Learner(backbone, settings)
    learner.attached.add_lora()
    tasks = load_tasks(settings.data, find_stream(arguments.stream), 100, arguments.rows)
    if arguments.shape is None:
        train(learner, [row for task in tasks for row in task.train], arguments.steps)
    questions = Questions(learner, tasks, {})
    learner.feed.encoder.encode([row for task in tasks for row in task.test])  # tokenised before, for all

    def one_by_one(task: Task) -> list[str]:
        return plain(learner, replace(task, test=task.test[::SAMPLE]), 1, False)

    ways: dict[str, Callable[[Task], list[str]]] = {
        ENGINE: partial(ours, learner, way="generate"),
        LABELS: partial(ours, learner, way="labels"),
        ONE: one_by_one,
        SIXTEEN: partial(plain, learner, size=16, merge=False),
        UNSORTED: partial(plain, learner, size=128, merge=False),
        ALIKE: partial(plain, learner, size=128, merge=True),
    }
    kept = arguments.against.split(";") if arguments.against else list(ways)
    ways = {name: ask for name, ask in ways.items() if name in (ENGINE, LABELS, *kept)}
    measures = {name: partial(questions.seconds_a_row, name, ask) for name, ask in ways.items()}
    seconds = in_turns(measures, arguments.rounds)
    sizes = [len(task.test) for task in tasks]
    rows, other = sum(sizes), differing(questions.answers, sizes, backbone.model.dtype == torch.float32)
    rates = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    tokens = [len(row.input_ids) for task in tasks for row in learner.feed.encoder.encode(task.test)]
    precision = str(backbone.model.dtype).removeprefix("torch.")
    print(
        f"{backbone.name} on {device_name(backbone.device)}, {precision}, {rows} questions of {arguments.data}, "
        f"{min(tokens)} to {max(tokens)} tokens, {statistics.mean(tokens):.0f} in the mean:"
    )
    for name, rate in rates.items():
        print(f"  {name}: {rate:.1f} answers/s")
    ratios = {f"ours / {name}": median_ratio(seconds, name, ENGINE) for name in ways if name not in (ENGINE, LABELS)}
    ratios["labels / generate (both ours)"] = median_ratio(seconds, ENGINE, LABELS)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}x")
    print(f"answers identical: {'all' if not any(other.values()) else other}")
    content = {"backbone": backbone.name, "data": slug(arguments.data), "rows": rows, "rounds": arguments.rounds}
    content |= {"tasks": [task.name for task in tasks], "precision": precision, "max_input": settings.max_input}
    content |= {"answers_per_second": rates, "ratios": ratios, "differing": other, "targets": TARGETS}
    name = named(
        "evaluation",
        arguments.shape or backbone.name,
        arguments.data,
        "" if arguments.stream == STREAM else arguments.stream,
    )
    print(f"-> {write_outcome(name, backbone.device, content)}")


if __name__ == "__main__":
    main()

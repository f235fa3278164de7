"""Our training and answers against the loop of Recurrent-KIF's release: micro-batches of two rows, questions one by one.

    python benchmarks/released_loop.py [--data ../shared/data/long_sequence] [--backbone mini] [--threads 1]
        [--tasks dbpedia,amazon,yahoo,agnews] [--learning-rate 1e-3]

A stand-in: the released code itself needs packages of its time. As it does, the stand-in trains PEFT's model in micro-batches of
two rows, four of them a step, with clipping, AdamW and a linear schedule, and asks `generate` question by question, the adapter
beside the frozen weights, for at most 128 tokens. Both do the same work with the same model, task after task in one process: 200
rows in two epochs, then the task's test rows. All answers must be identical in float32. Seconds are the process's own, so that
other work on the machine disturbs less. Each line is printed as soon as it is measured. With a lower rate some answers run to 128
tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import transformers
from evaluation import as_peft_computes, ours, plain
from outcome import device_name, named, write_outcome
from shapes import add_backbone_arguments, backbone_settings, chosen_backbone
from torch import nn
from training_step import as_published, real_rows, without_reader

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.tasks import Task
from clbench.learning.learner import Learner
from clbench.model.fast.fused_norms import fuse_norms, restore_norms
from clbench.settings import resolve_settings

MICRO = 2
ORDER_1 = "dbpedia,amazon,yahoo,agnews"
TARGETS = {"training": 1.6, "answers": 3.0}


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds of the process that some work takes."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def train(learner: Learner, task: Task) -> None:
    """Learn a task as a method does."""
    training = learner.training(task.train)
    for batch in training:
        training.step(learner.loss(batch))


@contextmanager
def as_released(learner: Learner) -> Iterator[None]:
    """Within a `with` block, the model computes as it does without clbench; the adapter is afterwards as before."""
    kept = learner.weights.data.clone()
    restore_norms(learner.model)
    with without_reader(learner.model), as_peft_computes(learner.model):
        yield
    fuse_norms(learner.model)
    learner.weights.data.copy_(kept)


def train_as_released(learner: Learner, task: Task) -> None:
    """Take the same steps in micro-batches of two rows."""
    settings = learner.settings
    parameters = [part for part in learner.model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=0.0)
    rows = [row for group in learner.feed.epochs(task.train, learner.generator("shuffle")) for row in real_rows(group)]
    steps = [rows[begin : begin + settings.batch_size] for begin in range(0, len(rows), settings.batch_size)]
    schedule = transformers.get_scheduler("linear", optimizer, 0, len(steps))
    learner.model.train()
    for step in steps:
        parts = [step[begin : begin + MICRO] for begin in range(0, len(step), MICRO)]
        for part in parts:
            inputs = as_published(learner.backbone, part)
            (learner.model(**inputs, use_cache=False).loss / len(parts)).backward()
        nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
        schedule.step()
        learner.weights.zero_grad()


def compare(learner: Learner, task: Task) -> dict[str, float]:
    """Learn a task and answer its questions both ways; return the seconds."""
    answers: dict[str, list[str]] = {}

    def one_by_one() -> None:
        with as_peft_computes(learner.model):
            answers["released"] = plain(learner, task, 1, False)

    with as_released(learner):
        released = seconds_of(lambda: train_as_released(learner, task))
    found = {"released training": released, "our training": seconds_of(lambda: train(learner, task))}
    found["our answers"] = seconds_of(lambda: answers.update(ours=ours(learner, task, "generate")))
    found["released answers"] = seconds_of(one_by_one)
    differing = sum(a != b for a, b in zip(answers["ours"], answers["released"], strict=True))
    if differing and learner.model.dtype == torch.float32:
        raise SystemExit(f"{differing} of {len(task.test)} answers of {task.name} differ")
    tokens = [len(learner.tokenizer(answer)["input_ids"]) for answer in answers["ours"]]
    found |= {"questions": len(task.test), "differing": differing}
    return {**found, "longest answer": max(tokens), "mean answer": sum(tokens) / len(tokens)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_backbone_arguments(parser)
    parser.add_argument("--preset", help="of the settings [the backbone's own]")
    parser.add_argument("--data", default="toy")
    parser.add_argument("--tasks", default=ORDER_1, help="[those of order 1]")
    parser.add_argument("--learning-rate", help="[the preset's]")
    parser.add_argument("--train", type=int, default=200, help="training rows a task [200]")
    parser.add_argument("--test", type=int, default=100, help="questions a task [100]")
    arguments = parser.parse_args()
    given = {**backbone_settings(arguments), "data": arguments.data, "epochs": "2", "max_answer": "128"}
    given |= {"learning_rate": arguments.learning_rate} if arguments.learning_rate else {}
    settings = resolve_settings(given, arguments.preset)
    backbone = chosen_backbone(arguments, settings)
    tasks = load_tasks(settings.data, find_stream(arguments.tasks), arguments.train, arguments.test)
    learner = Learner(backbone, settings, stream_length=len(tasks))
    learner.attached.add_lora()
    learner.feed.encoder.encode(
        [row for task in tasks for row in (*task.train, *task.test)]
    )  # tokenised before, for both
    print(
        f"{backbone.name} on {device_name(backbone.device)}, {learner.model.dtype}: seconds, the release's way / ours"
    )
    table = {}
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        found = table[task.name] = compare(learner, task)
        ratios = [found[f"released {part}"] / found[f"our {part}"] for part in TARGETS]
        print(
            f"{task.name:10} training {found['released training']:.1f} / {found['our training']:.1f} = {ratios[0]:.2f}, "
            f"{found['questions']} answers {found['released answers']:.1f} / {found['our answers']:.1f} = {ratios[1]:.2f}, "
            f"{found['mean answer']:.1f} tokens each, longest {found['longest answer']}",
            flush=True,
        )
    sums = {key: sum(found[key] for found in table.values()) for key in next(iter(table.values()))}
    ratios = {part: sums[f"released {part}"] / sums[f"our {part}"] for part in TARGETS}
    print("all: " + ", ".join(f"{part} {ratio:.2f}" for part, ratio in ratios.items()) + f"; targets {TARGETS}")
    content = {"backbone": backbone.name, "data": arguments.data, "tasks": table, "ratios": ratios, "targets": TARGETS}
    details = ["" if arguments.tasks == ORDER_1 else arguments.tasks, arguments.learning_rate or ""]
    name = named("released_loop", backbone.name, arguments.data, *details)
    print(f"-> {write_outcome(name, backbone.device, content)}")


if __name__ == "__main__":
    main()

"""What the harness costs: our training step against a bare loop.

    python benchmarks/step_overhead.py [--backbone mini] [--data toy] [--rounds 20]

Both loops take the same batches, model and optimizer, in turns within one process; ratios of medians are printed.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch

from clbench.backbone import load_backbone
from clbench.learner import Learner
from clbench.settings import resolve_settings
from clbench.sources import load_tasks
from clbench.streams import Example, find_stream

STEPS = 10


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def our_steps(learner: Learner, examples: tuple[Example, ...]) -> None:
    """Take steps as a method does."""
    learner.begin_task(0)
    training = learner.training(examples)
    for batch in training.take(STEPS):
        training.step(learner.loss(batch))


def bare_steps(learner: Learner, examples: tuple[Example, ...]) -> None:
    """Take the same steps with nothing around them: forward, backward, clip, AdamW over the same flat weights."""
    learner.begin_task(0)
    module = learner.model.train()
    optimizer = torch.optim.AdamW([learner.weights.vector], lr=1e-3, weight_decay=0.0, fused=True)
    for (batch,) in itertools.islice(learner.training(examples)._groups, STEPS):
        learner.weights.zero_grad()
        loss = module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([learner.weights.vector], 1.0)
        optimizer.step()


def compare(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the median seconds of both, taken in turns after one round to warm up."""
    ours(), other()
    times = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    return statistics.median(first for first, _ in times), statistics.median(second for _, second in times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--data", default="toy")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    settings = resolve_settings({"backbone": arguments.backbone, "data": arguments.data})
    backbone = load_backbone(settings.backbone, settings.device, settings.precision, settings.threads)
    learner = Learner(backbone, settings)
    learner.add_lora()
    tasks = load_tasks(settings.data, find_stream("amazon,yahoo,imdb,multirc"))
    rows = tuple(example for task in tasks for example in task.train)
    learner.encoder.encode(rows)

    ours, bare = compare(lambda: our_steps(learner, rows), lambda: bare_steps(learner, rows), arguments.rounds)
    print(
        f"training step, ours / bare loop: {ours / bare:.3f} "
        f"(medians of {arguments.rounds} blocks of {STEPS} steps in turns, {1000 * bare / STEPS:.1f} ms a bare step)"
    )


if __name__ == "__main__":
    main()

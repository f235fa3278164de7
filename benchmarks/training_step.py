"""A training step against Hugging Face Trainer + PEFT, and against a bare loop: same model, rows, batches, optimizer.

    python benchmarks/training_step.py [--backbone mini | --shape t5-large [--reduced]] [--compile none] [--rounds 5]
        [--precision auto] [--threads N] [--preset NAME]

All learn the same LoRA adapter (rank, targets and precision of the settings) from the same rows in the same padded
batches, with fused AdamW, clipping and a linear schedule, in turns within one process. Trainer is as a careful user
would set it: no logging, no checkpoints, bfloat16 autocast where the frozen weights are bfloat16. The bare loop is
forward, backward, clip_grad_norm_ and AdamW over the adapter's tensors on batches that lie on the device already. With
`--compile cudagraphs` ours alone are padded further, to few shapes, and warmed up longer: graphs are made in it. On a
CPU the process's own seconds are taken, so that other work on the machine disturbs less.

Model FLOP utilisation counts matrix products with weights, of real (unpadded) tokens: 2 a weight and token forward and 2
backward for the frozen ones, which need no gradient of their own, 6 for the adapter's; attention scores and everything
elementwise are left out. It is reported where the device's peak is known.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import transformers
from outcome import device_name, in_turns, median_ratio, named, write_outcome
from shapes import add_backbone_arguments, backbone_settings, chosen_backbone
from torch import nn

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.tasks import Example
from clbench.encoding.batches import IGNORED, Batch, collate, target_tokens
from clbench.encoding.encoder import Encoded
from clbench.learning.learner import Learner
from clbench.model.backbone import Backbone, attach_adapter
from clbench.settings import Settings, resolve_settings

PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "H100 PCIe": 756e12, "A100": 312e12}  # bfloat16, dense, per second


@dataclass(frozen=True)
class Work:
    """What all have to do: rows of the stream, read for `warm` steps before, then for `steps` timed ones."""

    backbone: Backbone
    settings: Settings
    rows: Sequence[Example]
    warm: int
    steps: int

    @property
    def baseline_warm(self) -> int:
        """Steps before the timed ones where no graphs are made in them."""
        return min(self.warm, 5)

    def clock(self) -> float:
        """Return the seconds of the process on a CPU, of the wall elsewhere, once the device is done."""
        if self.backbone.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def learner(self) -> Learner:
        """Return a learner with a fresh adapter at the first task's random streams."""
        learner = Learner(self.backbone, self.settings)
        learner.attached.add_lora()
        learner.begin_task(0)
        return learner

    def batches(self) -> list[Batch]:
        """Return the batches that every loop takes, in order."""
        learner = self.learner()
        batches = list(itertools.islice(learner.training(self.rows), self.warm + self.steps))
        learner.attached.detach()
        return batches


def our_step(work: Work) -> float:
    """Return the seconds of a step as a method takes it."""
    learner, begin = work.learner(), 0.0
    training = learner.training(work.rows)
    for number, batch in enumerate(training.take(work.warm + work.steps)):
        if number == work.warm:
            begin = work.clock()
        training.step(learner.loss(batch))
    seconds = work.clock() - begin
    learner.attached.detach()
    return seconds / work.steps


def bare_step(work: Work, batches: Sequence[Batch]) -> float:
    """Return the seconds of a step with nothing around it."""
    with without_reader(work.backbone.model):
        return timed_loop(work, batches)


def timed_loop(work: Work, batches: Sequence[Batch]) -> float:
    """Return the seconds of a step of forward, backward, clipping and AdamW."""
    settings, begin = work.settings, 0.0
    torch.manual_seed(0)
    model = attach_adapter(work.backbone, settings).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=0.0, fused=True)
    schedule = transformers.get_scheduler("linear", optimizer, 0, len(batches))
    given = [as_published(work.backbone, list(real_rows([batch]))) for batch in batches]
    for number, inputs in enumerate(given):
        if number == work.baseline_warm:
            begin = work.clock()
        model(**inputs, use_cache=False).loss.backward()
        nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    seconds = work.clock() - begin
    model.unload()
    return seconds / work.steps


class Stamps(transformers.TrainerCallback):
    """Take the time when the warm-up is over and at the end."""

    def __init__(self, work: Work) -> None:
        self.work, self.times = work, []

    def on_step_end(self, args: object, state: transformers.TrainerState, control: object, **_: object) -> None:
        if state.global_step in (self.work.baseline_warm, self.work.baseline_warm + self.work.steps):
            self.times.append(self.work.clock())


class InOrder(transformers.Seq2SeqTrainer):
    """A Trainer that reads its rows in the order given, so that its batches are ours."""

    def _get_train_sampler(self, *_: object) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def as_published(backbone: Backbone, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Return rows as a batch that the model takes without us: for a decoder prompt and answer as one, padded on the right."""
    if backbone.is_decoder:
        joined = [row.input_ids + row.labels for row in rows]
        labels = [[IGNORED] * len(row.input_ids) + row.labels for row in rows]
        rows = [Encoded(*pair) for pair in zip(joined, labels, strict=True)]
    batch = collate(rows, backbone.tokenizer.pad_token_id, backbone.device)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}


def collated(backbone: Backbone, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Return the rows of a Trainer's data set as a batch."""
    return as_published(backbone, [Encoded(row["input_ids"], row["labels"]) for row in rows])


@contextmanager
def without_reader(model: nn.Module) -> Iterator[None]:
    """Call a decoder as its authors have it: the hooks that join prompt and labels are off within a `with` block."""
    parts = [model, model.get_output_embeddings()]
    kept = [dict(part._forward_pre_hooks) for part in parts]
    for part in parts:
        part._forward_pre_hooks.clear()
    try:
        yield
    finally:
        for part, hooks in zip(parts, kept, strict=True):
            part._forward_pre_hooks.update(hooks)


def trainer_step(work: Work, rows: Sequence[Encoded]) -> float:
    """Return the seconds of a step of Hugging Face Trainer over a PEFT model."""
    settings, backbone, watch = work.settings, work.backbone, Stamps(work)
    dataset = [
        {"input_ids": row.input_ids, "attention_mask": [1] * len(row.input_ids), "labels": row.labels} for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        model = attach_adapter(backbone, settings)
        trainer = InOrder(
            model,
            transformers.Seq2SeqTrainingArguments(
                folder, per_device_train_batch_size=settings.batch_size, max_steps=work.baseline_warm + work.steps,
                learning_rate=settings.learning_rate, lr_scheduler_type="linear", max_grad_norm=settings.clip_norm,
                optim="adamw_torch_fused", bf16=backbone.model.dtype == torch.bfloat16,
                use_cpu=backbone.device.type == "cpu", logging_strategy="no", save_strategy="no", report_to="none",
                disable_tqdm=True, dataloader_pin_memory=backbone.device.type == "cuda",
            ),
            train_dataset=dataset,
            data_collator=partial(collated, backbone)
            if backbone.is_decoder
            else transformers.DataCollatorForSeq2Seq(backbone.tokenizer),
            callbacks=[watch],
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        with without_reader(backbone.model):
            trainer.train()
        model.unload()
    return (watch.times[1] - watch.times[0]) / work.steps


def model_flops(model: nn.Module, inputs: int, targets: int) -> int:
    """Return the operations of one training step with this many real input and target tokens (see the head)."""
    total = 0
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            reads_inputs = not model.config.is_encoder_decoder and "lm_head" not in name
            reads_inputs |= name.startswith("encoder.") or "EncDecAttention.k" in name or "EncDecAttention.v" in name
            each = 6 if part.weight.requires_grad else 4
            total += each * part.weight.numel() * (inputs if reads_inputs else targets)
    return total


def utilisation(work: Work, batches: Sequence[Batch], seconds: float) -> float | None:
    """Return the part of the device's peak that a step of this many seconds reaches; None where it is not known."""
    name = device_name(work.backbone.device)
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    if peak is None or work.backbone.model.dtype != torch.bfloat16:
        return None
    timed = batches[work.warm :]
    inputs = sum(int(batch.attention_mask.sum()) for batch in timed) // len(timed)
    targets = sum(int((batch.labels != -100).sum()) for batch in timed) // len(timed)
    learner = work.learner()
    flops = model_flops(learner.model, inputs, targets)
    learner.attached.detach()
    return flops / seconds / peak


def real_rows(batches: Sequence[Batch]) -> Iterator[Encoded]:
    """Yield the rows of the batches, without padding, in order."""
    for batch in batches:
        for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
            yield Encoded(ids[mask.bool()].tolist(), labels[labels != -100].tolist())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_backbone_arguments(parser)
    parser.add_argument("--preset", help="of the settings [the backbone's own]")
    parser.add_argument("--data", default="toy")
    parser.add_argument(
        "--tasks", default="amazon,yahoo,imdb,multirc", help="whose training rows are taken [%(default)s]"
    )
    parser.add_argument("--repeat", type=int, default=1, help="passages are repeated 1 to N times, in turns [1]")
    parser.add_argument("--compile", default="none", choices=["none", "default", "cudagraphs"], help="of ours [none]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="timed ones a round [100]")
    parser.add_argument("--warm", type=int, help="steps before them [5; with --compile 100]")
    arguments = parser.parse_args()
    given = {**backbone_settings(arguments), "data": arguments.data, "epochs": "100", "compile": arguments.compile}
    if arguments.shape is not None:
        given |= {"backbone": arguments.shape, "batch_size": "8", "micro_batch": "none", "quantize": "none"}
    settings = resolve_settings(given, arguments.preset or arguments.shape)
    backbone = chosen_backbone(arguments, settings)
    tasks = load_tasks(settings.data, find_stream(arguments.tasks), None, 8)
    rows = [
        replace(row, passage="\n".join([row.passage] * (1 + number % arguments.repeat)))
        for task in tasks
        for number, row in enumerate(task.train)
    ]
    warm = arguments.warm or (5 if settings.compile == "none" else 100)
    work = Work(backbone, settings, rows, warm, arguments.steps)
    batches = replace(work, settings=replace(settings, compile="none")).batches()
    baseline = batches[warm - work.baseline_warm :]
    encoded = list(real_rows(baseline))
    measured = in_turns(
        {
            "ours": partial(our_step, work),
            "trainer": partial(trainer_step, work, encoded),
            "bare": partial(bare_step, work, baseline),
        },
        arguments.rounds,
    )
    report(work, batches, measured)


def report(work: Work, batches: Sequence[Batch], measured: Mapping[str, list[float]]) -> None:
    """Print medians and ratios, and write them."""
    backbone = work.backbone
    medians = {name: statistics.median(seconds) for name, seconds in measured.items()}
    shape = [round(statistics.mean(sizes)) for sizes in zip(*(batch.input_ids.shape for batch in batches), strict=True)]
    precision = str(backbone.model.dtype).removeprefix("torch.")
    print(
        f"{backbone.name} on {device_name(backbone.device)}, {precision}, batches of {shape[0]} rows, {shape[1]} tokens"
    )
    tokens = sum(int(batch.attention_mask.sum() + target_tokens(batch)) for batch in batches) / len(batches)
    print(f"{tokens:.0f} real tokens a step, answers included")
    for name, seconds in medians.items():
        used = utilisation(work, batches, seconds)
        shown = "" if used is None else f", {100 * used:.1f}% of the peak"
        pace = f"{1 / seconds:.1f} steps/s, {tokens / seconds:.0f} tokens/s"
        print(f"{name:8} {1000 * seconds:8.2f} ms a step, {pace}{shown}")
    ratios = {
        "trainer / ours": median_ratio(measured, "trainer", "ours"),
        "bare / ours": median_ratio(measured, "bare", "ours"),
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} (median of {len(measured['ours'])} rounds of {work.steps} steps in turns)")
    content = {
        "backbone": backbone.name, "precision": precision, "compile": work.settings.compile, "rows": shape[0], "tokens": shape[1],
        "steps": work.steps, "seconds": measured, "ratios": ratios,
        "utilisation": {name: utilisation(work, batches, seconds) for name, seconds in medians.items()},
    }  # fmt: skip
    name = named("training_step", backbone.name, work.settings.compile, work.settings.data)
    print(f"-> {write_outcome(name, backbone.device, content)}")


if __name__ == "__main__":
    main()

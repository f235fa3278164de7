"""Probe a small seq2seq model: single-task LoRA on Long Sequence tasks, beside TF-IDF and the majority class.

    python scripts/probe_mini.py --model clbench/model/mini --data DATA/long_sequence --tasks agnews dbpedia --limit-test 500

For each task LoRA is trained on the task's training rows and scored by exact match (lower case, stripped) of the
greedily decoded answer on its test rows. ``TF-IDF`` is 1-2 grams plus logistic regression on the same rows.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

TAIL = "\nAnswer:"
TARGETS = {"qv": ["q", "v"], "attention": ["q", "k", "v", "o"], "all": ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]}


@dataclass
class Example:
    """A row: the instruction line, the passage without its closing "Answer:", and the label text."""

    instruction: str
    passage: str
    label: str


def load_split(folder: Path, split: str, task: str) -> list[Example]:
    """Read one split of one task."""
    rows = json.loads((folder / split / f"{task}.json").read_text(encoding="utf-8"))
    return [
        Example(
            row["instruction"].strip() + "\n", row["input"].strip().removesuffix("Answer:").rstrip(), str(row["output"])
        )
        for row in rows
    ]


def encode_prompt(tokenizer, example: Example, limit: int) -> list[int]:
    """Token ids of a prompt; the passage is cut at its end, the instruction and the final "Answer:" stay whole."""
    head = tokenizer(example.instruction, add_special_tokens=False).input_ids
    tail = [*tokenizer(TAIL, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    body = tokenizer(example.passage, add_special_tokens=False).input_ids
    return head + body[: max(0, limit - len(head) - len(tail))] + tail


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """Right-padded integer matrix."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def train_lora(model, tokenizer, rows: list[Example], args: argparse.Namespace) -> tuple[object, float, float]:
    """Train LoRA on one task; returns the model, the mean loss of the last epoch and the milliseconds a step took."""
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=0.05,
        target_modules=TARGETS[args.targets],
    )
    model = get_peft_model(model, config).train()
    prompts = [encode_prompt(tokenizer, row, args.max_length) for row in rows]
    labels = [tokenizer(row.label).input_ids for row in rows]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.0)
    total = args.epochs * ((len(rows) + args.batch - 1) // args.batch)
    warm = max(1, int(0.06 * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, (total - s) / max(1, total - warm))
    )
    order, begin, losses = list(range(len(rows))), time.perf_counter(), []
    for _ in range(args.epochs):
        random.shuffle(order)
        losses = []
        for first in range(0, len(order), args.batch):
            chosen = order[first : first + args.batch]
            inputs = pad([prompts[i] for i in chosen], tokenizer.pad_token_id)
            mask = (inputs != tokenizer.pad_token_id).long()
            loss = model(input_ids=inputs, attention_mask=mask, labels=pad([labels[i] for i in chosen], -100)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
    return model, sum(losses) / len(losses), 1000 * (time.perf_counter() - begin) / total


@torch.no_grad()
def accuracy(model, tokenizer, rows: list[Example], args: argparse.Namespace) -> float:
    """Exact match of the greedily decoded answers."""
    model.eval()
    prompts = [encode_prompt(tokenizer, row, args.max_length) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
    right = 0
    for first in range(0, len(order), 64):
        chosen = order[first : first + 64]
        inputs = pad([prompts[i] for i in chosen], tokenizer.pad_token_id)
        mask = (inputs != tokenizer.pad_token_id).long()
        output = model.generate(input_ids=inputs, attention_mask=mask, max_new_tokens=12, do_sample=False, num_beams=1)
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        right += sum(t.strip().lower() == rows[i].label.strip().lower() for t, i in zip(texts, chosen, strict=True))
    return 100 * right / len(rows)


def baselines(train: list[Example], test: list[Example]) -> tuple[float, float]:
    """Accuracy of TF-IDF with logistic regression and of the majority class of the training rows."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    model.fit([row.passage for row in train], [row.label for row in train])
    linear = 100 * model.score([row.passage for row in test], [row.label for row in test])
    majority = Counter(row.label for row in train).most_common(1)[0][0]
    return linear, 100 * sum(row.label == majority for row in test) / len(test)


def probe(task: str, args: argparse.Namespace) -> None:
    """Train and score one task and print one line."""
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    train, test = load_split(args.data, "train", task), load_split(args.data, "test", task)
    random.Random(0).shuffle(test)
    test = test[: args.limit_test] if args.limit_test else test
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model, dtype=torch.float32)
    before = accuracy(model, tokenizer, test[:500], args) if args.zero_shot else float("nan")
    model, loss, milliseconds = train_lora(model, tokenizer, train, args)
    after = accuracy(model, tokenizer, test, args)
    linear, majority = baselines(train, test)
    print(
        f"{task:10s} lora {after:5.1f}  tf-idf {linear:5.1f}  majority {majority:5.1f}  zero-shot {before:5.1f}  "
        f"loss {loss:.3f}  {milliseconds:.0f} ms/step  test rows {len(test)}",
        flush=True,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--tasks", nargs="+", default=["agnews", "dbpedia", "yahoo", "amazon"])
    parser.add_argument("--limit-test", type=int, default=0)
    parser.add_argument("--targets", choices=sorted(TARGETS), default="all")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--zero-shot", action="store_true", help="score the untrained model too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for task in args.tasks:
        probe(task, args)


if __name__ == "__main__":
    main()

"""The model card of a saved learner: the README.md of its folder, as the Hugging Face hub shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clbench.options import options_text
from clbench.records.record import Record, default_settings
from clbench.settings import NOT_RECIPE

SAID_APART = (*NOT_RECIPE, "backbone", "data", "layout")


@dataclass(frozen=True)
class Shown:
    """How a task asks, as a card shows it: the prompt with columns in braces, exactly as the model reads it, and the labels."""

    task: str
    prompt: str
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the record.

    Attributes:
        kind: the folder holds an adapter, or a whole model that it was merged into.
        base: the backbone's name, as it means something elsewhere.
        hub_id: the same where it is one on the hub, else none.
        is_decoder: the model reads prompt and answer as one sequence.
        prompts: of each task.
        example: one prompt in full, as the model reads it.
        messages: the same as the messages of a chat, where the tokenizer has a template for them.
        longest: tokens after which an answer ends.
        beyond: why the learner is more than its adapter, empty where it is not.
    """

    kind: Literal["adapter", "model"]
    base: str
    hub_id: str | None
    is_decoder: bool
    prompts: Sequence[Shown]
    example: str
    messages: Sequence[dict[str, str]]
    longest: int
    beyond: str = ""


def model_card(record: Record, facts: CardFacts) -> str:
    """Return the card of a run's learner, in Markdown with the hub's header."""
    parts = [*_header(facts), *_summary(record, facts), *_scores(record), *_asking(record, facts), *_loading(facts)]
    return "\n".join(parts) + "\n"


def _header(facts: CardFacts) -> Iterator[str]:
    yield "---"
    yield f"library_name: {'peft' if facts.kind == 'adapter' else 'transformers'}"
    if facts.hub_id is not None:
        yield f"base_model: {facts.hub_id}"
        yield f"base_model_relation: {'adapter' if facts.kind == 'adapter' else 'finetune'}"
    yield f"pipeline_tag: {'text-generation' if facts.is_decoder else 'text2text-generation'}"
    yield "tags: [clbench, continual-learning, lora]"
    yield "---\n"


def _summary(record: Record, facts: CardFacts) -> Iterator[str]:
    options = options_text(record.method.changed_options)
    defaults = default_settings()
    settings = ", ".join(
        f"{name}={value}"
        for name, value in record.all_settings.items()
        if name not in SAID_APART and value != defaults[name]
    )
    what = "A LoRA adapter" if facts.kind == "adapter" else "A language model with its LoRA adapter merged"
    yield f"# {_line(record.method.name)} on {_line(record.stream.name)}\n"
    yield (
        f"{what}, trained on {len(record.tasks)} tasks one after another by the continual-learning method "
        f"{_code(record.method.name)} in clbench.\n"
    )
    base = _code(facts.base) + {"mini": ", the small T5 that ships with clbench"}.get(facts.base, "")
    digest = f" (digest of its files: {_code(record.digests.backbone)})" if record.digests.backbone else ""
    yield f"- Base model: {base}{'' if facts.hub_id else digest}"
    yield f"- Method: {_code(record.method.name)}, {_code(options) if options else 'with its default options'}"
    yield f"- Tasks in the order of learning: {', '.join(_code(task.name) for task in record.tasks)}"
    data = record.setting("data")
    yield f"- Data: {_code(Path(data).name)}, seed {record.seed}"
    yield f"- Settings other than clbench's defaults: {_code(settings) if settings else 'none'}"
    finished = f", finished {record.finished}" if record.finished else ""
    version = record.environment.clbench or "of an unknown version"
    yield f"- clbench {version}, protocol version {record.protocol_version}{finished}"
    yield from (f"- Note: {_line(note)}" for note in record.notes)
    yield ""


def _scores(record: Record) -> Iterator[str]:
    yield "## Scores\n"
    where = "validation rows" if record.setting("evaluate_on") == "validation" else "test rows"
    yield f"In percent, on the tasks' {where}.\n"
    for number, task in enumerate(record.tasks):
        end, learned = record.scores[-1][number], record.scores[number][number]
        shown = "not asked" if end is None else f"{end:.1f}"
        before = (
            "" if learned is None or number == len(record.tasks) - 1 else f" (right after learning it {learned:.1f})"
        )
        yield f"- {_code(task.name)}, {task.metric}: {shown}{before}"
    measures = {"OP": record.metrics.op, "BWT": record.metrics.bwt}
    values = ", ".join(f"{name} {value:.1f}" for name, value in measures.items() if value is not None)
    yield f"\n{values}\n" if values else ""


def _asking(record: Record, facts: CardFacts) -> Iterator[str]:
    yield "## Prompts\n"
    yield (
        "The model reads exactly these texts, with the columns of a row in the place of their names in braces, and answers "
        f"by greedy decoding, with at most {facts.longest} tokens. In training and evaluation, prompts longer than "
        f"{record.setting('max_input')} tokens were shortened in the middle.\n"
    )
    for shown in facts.prompts:
        labels = ", ".join(map(_code, shown.labels)) or "free text"
        yield f"### {_line(shown.task)}\n\nAnswers: {labels}\n\n{_fenced(shown.prompt, 'text')}\n"
    yield f"### An example of {_line(facts.prompts[0].task)}\n\n{_fenced(facts.example, 'text')}\n"
    if facts.messages:
        messages = "".join(f"    {message!r},\n" for message in facts.messages)
        code = f"messages = [\n{messages}]\ninputs = tokenizer.apply_chat_template(messages, return_tensors='pt')"
        yield f"The tokenizer's chat template makes the same prompt of\n\n{_fenced(code, 'python')}\n"


def _loading(facts: CardFacts) -> Iterator[str]:
    yield "## Use\n"
    if facts.beyond:
        yield f"PEFT alone does not give this learner's answers: {_line(facts.beyond)}. clbench loads all of it:\n"
        code = "from clbench import load_learner\n\nlearner = load_learner('.')  # this folder\nprint(learner.prompts)"
        yield _fenced(code, "python")
        return
    auto = "AutoModelForCausalLM" if facts.is_decoder else "AutoModelForSeq2SeqLM"
    answer = "tokens[0, inputs['input_ids'].shape[1] :]" if facts.is_decoder else "tokens[0]"
    folder = "'.'  # this folder, or its name on the hub"
    if facts.kind == "adapter":
        base = repr(facts.hub_id or f"path/of/{facts.base}")
        model = f"base = {auto}.from_pretrained({base})\nmodel = PeftModel.from_pretrained(base, folder).eval()"
    else:
        model = f"model = {auto}.from_pretrained(folder).eval()"
    lines = [
        *(["from peft import PeftModel"] if facts.kind == "adapter" else []),
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f"folder = {folder}",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        model,
        f"prompt = {facts.example!r}",
        "inputs = tokenizer(prompt, return_tensors='pt')",
        f"tokens = model.generate(**inputs, max_new_tokens={facts.longest}, do_sample=False)",
        f"print(tokenizer.decode({answer}, skip_special_tokens=True).strip())",
    ]
    yield _fenced("\n".join(lines), "python")


def _line(text: str) -> str:
    """Return a text on one line in which Markdown finds nothing of its own."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Return a text on one line as code."""
    kept = " ".join(text.split())
    fence = "`" * (_longest_run(kept) + 1)
    return f"{fence} {kept} {fence}" if "`" in kept else f"`{kept}`"


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)

"""What a folder of weights needs to be used without clbench: the tokenizer with the prompt's form, and a model card."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pluggy

from clbench.data.tasks import Example
from clbench.data.templates import TaskPrompt, Template
from clbench.encoding.alpaca import CHAT_TEMPLATE, ask_alpaca, chat_messages
from clbench.encoding.encoder import LONGEST_ANSWER
from clbench.learning.learner import Learner
from clbench.model.backbone import Backbone, prompt_form
from clbench.model.backbone_files import hub_id, public_name
from clbench.records.model_card import CardFacts, Shown, model_card
from clbench.records.record import Record
from clbench.running.protocol import DefaultProtocol
from clbench.settings import Settings

CARD = "README.md"
PLAIN_CHAT = (
    "{%- for message in messages -%}"
    "{{- message['content'] -}}{%- if not loop.last -%}{{- '\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
)
Kind = Literal["adapter", "model"]


def beyond_weights(learner: Learner, hook: pluggy.HookRelay) -> str:
    """Return why a learner's answers are not those of a plain model with a PEFT adapter; nothing where they are."""
    if answers_itself(hook):
        return "its method answers by an `evaluate` hook of its own, which no folder of weights has"
    return learner.attached.beyond_adapter


def answers_itself(hook: pluggy.HookRelay) -> bool:
    """Return whether a method answers by an `evaluate` hook of its own."""
    implementations = [one for one in hook.evaluate.get_hookimpls() if not one.wrapper and not one.hookwrapper]
    return any(not isinstance(one.plugin, DefaultProtocol) for one in implementations)


def save_tokenizer(backbone: Backbone, settings: Settings, folder: Path) -> None:
    """Write the tokenizer as the model is asked: a decoder's pads on the left and has the run's prompt as its chat template."""
    tokenizer = copy.deepcopy(backbone.tokenizer)
    if backbone.is_decoder:
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # it saves what it was made with
        tokenizer.chat_template = _opening(tokenizer) + (CHAT_TEMPLATE if _wraps(backbone, settings) else PLAIN_CHAT)
    tokenizer.save_pretrained(folder)


def closes_prompts(backbone: Backbone) -> bool:
    """Return whether the tokenizer ends a decoder's prompt by its end token, which plain transformers would not take away."""
    ids = backbone.tokenizer("a")["input_ids"]
    return backbone.is_decoder and ids[-1] == backbone.tokenizer.eos_token_id


def _opening(tokenizer: Any) -> str:
    """Return what a chat template must begin with: the token that the tokenizer opens every text with."""
    opened = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return "{{- bos_token -}}" if opened else ""


def _wraps(backbone: Backbone, settings: Settings) -> bool:
    return prompt_form(settings.template, backbone.is_decoder) is not None


def longest_answer_of(settings: Settings, prompts: Sequence[TaskPrompt]) -> int:
    """Return how many tokens an answer to any of the tasks may take."""
    return settings.max_answer or max(prompt.max_answer or LONGEST_ANSWER for prompt in prompts)


def write_card(
    folder: Path,
    kind: Kind,
    record: Record,
    learner: Learner,
    prompts: Sequence[TaskPrompt],
    question: Example | None = None,
    beyond: str = "",
) -> None:
    """Write the model card of a folder.

    Args:
        question: the example to show, of the first task; none: one whose columns have their names for values.
        beyond: what `beyond_weights` says.
    """
    backbone, settings = learner.backbone, learner.settings
    wraps = _wraps(backbone, settings)

    def read(example: Example) -> str:
        return (ask_alpaca(example) if wraps else example).prompt

    shown = [Shown(one.task, read(_filled(one, "{%s}")), one.labels) for one in prompts]
    example = question or _filled(prompts[0], "<%s>")
    messages = chat_messages(example) if wraps else [{"role": "user", "content": example.prompt}]
    facts = CardFacts(
        kind=kind,
        base=public_name(backbone.name),
        hub_id=hub_id(backbone.name),
        is_decoder=backbone.is_decoder,
        prompts=shown,
        example=read(example),
        messages=messages if backbone.is_decoder else [],
        longest=longest_answer_of(settings, prompts),
        beyond=beyond,
    )
    (folder / CARD).write_text(model_card(record, facts), "utf-8")


def _filled(prompt: TaskPrompt, form: str) -> Example:
    return prompt.example({column: form % column for column in Template(prompt.template).columns}, prompt.task)

"""The Alpaca prompt (Taori et al. 2023), in which a decoder-only model is asked."""

import json
from dataclasses import replace

from clbench.data.tasks import Example

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n"
)
INPUT, RESPONSE = "\n\n### Input:\n", "\n\n### Response:\n"


def ask_alpaca(example: Example) -> Example:
    """Return the example with its prompt in the Alpaca template; the passage stays what may be shortened.

    The head up to its last line break is the instruction; what follows it, the passage and the tail are the input. A head
    of one line without a break is no instruction: the whole prompt then is, without an input.
    """
    instruction, rest = _split(example)
    head = f"{WITH_INPUT}{instruction}{INPUT}{rest}" if instruction else f"{WITHOUT_INPUT}{rest}"
    return replace(example, head=head, tail=f"{example.tail.rstrip()}{RESPONSE}")


def _split(example: Example) -> tuple[str, str]:
    """Return the instruction, if there is one, and the rest of the head."""
    instruction, _, rest = example.head.rpartition("\n")
    return (instruction.rstrip(), rest) if instruction.strip() else ("", rest)


def chat_messages(example: Example) -> list[dict[str, str]]:
    """Return the example as the messages that `CHAT_TEMPLATE` turns into its prompt: the instruction is the system's."""
    instruction, rest = _split(example)
    asked = {"role": "user", "content": f"{rest}{example.passage}{example.tail.rstrip()}"}
    return [{"role": "system", "content": instruction}, asked] if instruction else [asked]


# In Jinja, as tokenizers keep it: of several messages the last of the system and the last of the user count.
CHAT_TEMPLATE = (
    "{%- set last = namespace(system='', user='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set last.system = message['content'] -%}"
    "{%- elif message['role'] == 'user' -%}{%- set last.user = message['content'] -%}{%- endif -%}"
    "{%- endfor -%}"
    f"{{%- if last.system -%}}{{{{- {json.dumps(WITH_INPUT)} ~ last.system ~ {json.dumps(INPUT)} -}}}}"
    f"{{%- else -%}}{{{{- {json.dumps(WITHOUT_INPUT)} -}}}}{{%- endif -%}}"
    f"{{{{- last.user ~ {json.dumps(RESPONSE)} -}}}}"
)

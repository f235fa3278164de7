"""The Alpaca prompt (Taori et al. 2023), in which a decoder-only model is asked."""

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
    instruction, _, rest = example.head.rpartition("\n")
    head = f"{WITH_INPUT}{instruction.rstrip()}{INPUT}{rest}" if instruction.strip() else f"{WITHOUT_INPUT}{rest}"
    return replace(example, head=head, tail=f"{example.tail.rstrip()}{RESPONSE}")

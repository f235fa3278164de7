"""Text to token ids: each text tokenised once, the passage shortened, the closing 'Answer:' kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clbench.data.tasks import Example
from clbench.encoding.round_trip import PLAIN, in_parts
from clbench.encoding.token_cache import TokenCache
from clbench.errors import ClbenchError

LONGEST_ANSWER = 128  # tokens, where neither a setting nor the task says


@dataclass(frozen=True)
class Encoded:
    """One example as token ids. The labels are closed by the end token; for an encoder the prompt is as well.

    `cut` says whether tokens were cut from the prompt.
    """

    input_ids: list[int]
    labels: list[int]
    cut: bool = False


@dataclass
class Encoder:
    """Turn examples into token ids; each example is tokenised once in the encoder's life.

    `max_target` None leaves the length of a target to its example (`longest_answer`). `wrap` puts an example into the form in
    which the model is asked. `end` is the token that closes a decoder's targets, and no prompt; None leaves closing both to
    the tokenizer.
    """

    tokenizer: Any
    max_input: int
    max_target: int | None
    cache: TokenCache | None = None
    wrap: Callable[[Example], Example] | None = None
    end: int | None = None
    _known: dict[Example, Encoded] = field(default_factory=dict, repr=False)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return the examples as token ids, in order.

        Raises:
            ClbenchError: an instruction alone does not fit into `max_input`.
        """
        new = list({example: None for example in examples if example not in self._known})
        if new:
            self._known.update(zip(new, self._read_or_make(new), strict=True))
        return [self._known[example] for example in examples]

    def _read_or_make(self, examples: Sequence[Example]) -> list[Encoded]:
        longest = [self.max_target or longest_answer(example) for example in examples]
        examples = [self.wrap(example) for example in examples] if self.wrap else examples
        if self.cache is None:
            return self._make(examples, longest)
        texts = [(e.head, e.passage, e.tail, e.target, most) for e, most in zip(examples, longest, strict=True)]
        key = [self.max_input, self.end, texts]
        lists = self.cache.load(key, 2 * len(examples) + 1)
        if lists is not None:
            *pairs, cut = lists
            return [Encoded(*one) for one in zip(pairs[::2], pairs[1::2], map(bool, cut), strict=True)]
        made = self._make(examples, longest)
        pairs = [ids for encoded in made for ids in (encoded.input_ids, encoded.labels)]
        self.cache.save(key, [*pairs, [int(encoded.cut) for encoded in made]])
        return made

    def _make(self, examples: Sequence[Example], longest: Sequence[int]) -> list[Encoded]:
        targets = self._targets([example.target for example in examples])
        prompts = [one for part in in_parts([e.prompt for e in examples]) for one in self._prompts(examples[part])]
        return [
            Encoded(prompt, shorten_target(target, most), cut)
            for (prompt, cut), target, most in zip(prompts, targets, longest, strict=True)
        ]

    def _prompts(self, examples: Sequence[Example]) -> list[tuple[list[int], bool]]:
        """Return the prompts of some examples as token ids, and whether they were cut."""
        read = self.tokenizer([example.prompt for example in examples], return_offsets_mapping=True, **PLAIN)
        rows = zip(read["input_ids"], read["offset_mapping"], examples, strict=True)
        return [
            (self._open(shorten(ids, offsets, example, self.max_input)), len(ids) > self.max_input)
            for ids, offsets, example in rows
        ]

    def _targets(self, texts: list[str]) -> list[list[int]]:
        special = self.end is None
        rows: list[list[int]] = self.tokenizer(texts, add_special_tokens=special, **PLAIN)["input_ids"]
        return rows if self.end is None else [[*ids, self.end] for ids in rows]

    def _open(self, prompt: list[int]) -> list[int]:
        """Return a decoder's prompt without the end token that some tokenizers add: the answer goes on from it."""
        return prompt[:-1] if self.end is not None and prompt[-1:] == [self.end] else prompt


def shorten(ids: list[int], offsets: Sequence[tuple[int, int]], example: Example, most: int) -> list[int]:
    """Return at most `most` ids of a prompt: tokens are cut from the middle of the passage, nowhere else.

    Args:
        offsets: each token's first and last character in `example.prompt`; (0, 0) for a special token.

    Raises:
        ClbenchError: the rest of the prompt alone is longer than `most`.
    """
    surplus = len(ids) - most
    if surplus <= 0:
        return ids
    first = len(example.head)
    last = first + len(example.passage)
    passage = [index for index, (start, end) in enumerate(offsets) if start < end and first <= start and end <= last]
    if len(passage) < surplus:
        raise ClbenchError(
            f"max_input {most} is too short: the instruction '{example.head[:60].rstrip()}...' alone "
            f"takes {len(ids) - len(passage)} tokens"
        )
    begin = passage[(len(passage) - surplus) // 2]
    return ids[:begin] + ids[begin + surplus :]


def longest_answer(example: Example) -> int:
    """Return how many tokens the answer to an example may take, where no setting says."""
    return example.max_answer or LONGEST_ANSWER


def shorten_target(ids: list[int], most: int) -> list[int]:
    """Return at most `most` ids of a target, the last of them still the end token."""
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]

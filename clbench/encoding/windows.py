"""A plain text as rows of token ids on which a language model's loss, and so its perplexity, is measured."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from clbench.encoding.encoder import Encoded
from clbench.encoding.round_trip import PLAIN

HALF = 128  # tokens that a text's continuation is scored in, after as many of context
SPAN_WINDOW = 128  # tokens that spans are cut out of
NOISE, SPAN = 0.15, 3.0  # of T5's pre-training: the part of the tokens that is cut out, and the mean length of a span
FEWEST = 8  # tokens of a text that can be measured
LONGEST_TOKEN = 16  # characters; of a longer text no more is tokenised than so many a token


def text_ids(tokenizer: Any, text: str, most: int) -> list[int]:
    """Return the first tokens of a text, `most` at most, without special ones: what looks like one is plain text."""
    beginning = text[: LONGEST_TOKEN * most]
    ids: list[int] = tokenizer(beginning, add_special_tokens=False, verbose=False, **PLAIN)["input_ids"]
    return ids[:most]


def halves(tokenizer: Any, ids: list[int], is_decoder: bool, longest: int) -> list[Encoded]:
    """Return windows of a text, each with its second half as the target: every token is scored once but the first half window.

    Of a decoder this is the next-token loss over windows that overlap by half. An encoder reads the first half.

    Args:
        longest: tokens that a window may have.
    """
    begin, end = special_ids(tokenizer, is_decoder)
    half = min(HALF, max(1, (longest - len(begin) - len(end)) // 2), len(ids) // 2)
    starts = range(0, len(ids) - half, half)
    return [Encoded([*begin, *ids[i : i + half], *end], ids[i + half : i + 2 * half]) for i in starts]


def spans(tokenizer: Any, ids: list[int], longest: int) -> list[Encoded] | None:
    """Return windows of a text with spans cut out, which are the target: the loss that T5 was pre-trained with.

    15% of the tokens are cut out, in spans of 3 on average, a sentinel in the place of each (Raffel et al. 2020, 3.1.4), the same
    ones in every run. None where the tokenizer has no sentinels.

    Args:
        longest: tokens that a window may have.
    """
    size = min(SPAN_WINDOW, longest - 1, len(ids))
    count = round(round(size * NOISE) / SPAN) or 1
    sentinels = [tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(count)]
    if None in sentinels or tokenizer.unk_token_id in sentinels:
        return None
    chooser = random.Random(0)
    end = tokenizer.eos_token_id
    return [
        _corrupted(ids[begin : begin + size], sentinels, end, chooser) for begin in range(0, len(ids) - size + 1, size)
    ]


def _corrupted(ids: list[int], sentinels: list[int], end: int, chooser: random.Random) -> Encoded:
    noise = max(len(sentinels), round(len(ids) * NOISE))
    kept, cut = (_parts(total, len(sentinels), chooser) for total in (len(ids) - noise, noise))
    source, target, place = list[int](), list[int](), 0
    for sentinel, keep, lose in zip(sentinels, kept, cut, strict=True):
        source += [*ids[place : place + keep], sentinel]
        target += [sentinel, *ids[place + keep : place + keep + lose]]
        place += keep + lose
    return Encoded([*source, end], [*target, end])


def _parts(total: int, count: int, chooser: random.Random) -> list[int]:
    """Return the lengths of so many parts, none empty, that a length is cut into at random."""
    cuts = [0, *sorted(chooser.sample(range(1, total), count - 1)), total]
    return [end - begin for begin, end in pairwise(cuts)]


def special_ids(tokenizer: Any, is_decoder: bool) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after a prompt; a decoder's text goes on, so nothing is after it."""
    ids: list[int] = tokenizer("")["input_ids"]
    closed = ids[-1:] == [tokenizer.eos_token_id]
    begin = ids[:-1] if closed else ids
    return begin, [] if is_decoder or not closed else ids[-1:]

"""What a tokenizer makes of data: its way of reading, in bounded memory, and texts that come back as others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

PLAIN = {"split_special_tokens": True}  # how data is tokenised: '</s>' in it is four characters, and ends nothing

FOREIGN = 0.1  # of a text's characters: where more are unknown to a tokenizer, it does not read the text
AT_ONCE = (
    1_000_000  # characters that are tokenised in one call, one text aside: a token with its place takes a hundred bytes
)


def in_parts(texts: Sequence[str]) -> Iterator[slice]:
    """Yield slices that make up the texts in order, each of at most `AT_ONCE` characters or a single text."""
    begin, held = 0, 0
    for number, text in enumerate(texts):
        if held and held + len(text) > AT_ONCE:
            yield slice(begin, number)
            begin, held = number, 0
        held += len(text)
    if begin < len(texts):
        yield slice(begin, len(texts))


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Return how many tokens each text has."""
    return [len(ids) for part in in_parts(texts) for ids in tokenizer(list(texts[part]), **PLAIN)["input_ids"]]


def unread(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return the texts of which a tokenizer does not know more than a tenth of the characters: to the model they say nothing."""
    special = tokenizer.unk_token_id
    letters = sorted({letter for text in texts if not text.isascii() for letter in text if not letter.isascii()})
    if special is None or not letters:
        return []
    ids = tokenizer(letters, add_special_tokens=False, **PLAIN)["input_ids"]
    unknown = dict.fromkeys(ord(letter) for letter, of_letter in zip(letters, ids, strict=True) if special in of_letter)
    return [text for text in texts if len(text) - len(text.translate(unknown)) > FOREIGN * len(text)] if unknown else []


def written(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return what comes back of texts that a model wrote to the letter, as its answers are decoded."""
    ids = tokenizer(list(texts), **PLAIN)["input_ids"]
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

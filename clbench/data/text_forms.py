"""Texts as a reader sees them, so that two that cannot be told apart are one: Unicode's forms, white space, case, punctuation.

On ASCII every form is that of the papers' protocol, to the letter.
"""

import string
import unicodedata
from functools import cache

JOINERS = "\u200c\u200d"  # cannot be seen, but change the letters beside them (Persian, Hindi)
SINGLE = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")  # written without spaces
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def as_seen(text: str) -> str:
    """Return a text with its letters composed (NFC), every space as ' ', without what cannot be seen and outer white space."""
    if text.isascii():
        return text.strip()
    seen = "".join(_seen(letter) for letter in text)
    return unicodedata.normalize("NFC", seen).strip()


@cache
def _seen(letter: str) -> str:
    """Return a character as a reader sees it: nothing of a soft hyphen, a mark of direction, a zero-width space."""
    category = unicodedata.category(letter)
    if category == "Zs":
        return " "
    return "" if category == "Cf" and letter not in JOINERS else letter


def is_empty(text: str) -> bool:
    """Return whether a reader sees nothing: an empty text is no answer anywhere."""
    return not any(_seen(letter).strip() for letter in text)


def without_case(text: str) -> str:
    """Return a text as seen, in lower case (Unicode's case folding)."""
    if text.isascii():
        return text.strip().lower()
    return unicodedata.normalize("NFC", as_seen(text).casefold())


def normalise(text: str) -> str:
    """Lower the case, remove punctuation, collapse white space; articles stay. Other forms of a letter are the letter (NFKC)."""
    if text.isascii():
        return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
    folded = _compatible(without_case(text))
    return " ".join(_compatible("".join(letter for letter in folded if not _is_punctuation(letter))).split())


def _compatible(text: str) -> str:
    """Return NFKC with case folded: wide, circled and raised letters are the letter."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(map(_seen, folded))


@cache
def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case: letters, digits and the marks on them; of scripts without spaces the letters."""
    found: list[str] = []
    inside = False
    for letter in text.lower() if text.isascii() else _compatible(without_case(text)):
        kind = unicodedata.category(letter)[0]
        if kind == "M" or letter in JOINERS:
            if found and inside:
                found[-1] += letter
        elif kind not in "LN":
            inside = False
        elif not inside or _is_single(letter) or _is_single(found[-1][0]):
            found.append(letter)
            inside = True
        else:
            found[-1] += letter
    return found


@cache
def _is_single(letter: str) -> bool:
    return not letter.isascii() and unicodedata.name(letter, "").startswith(SINGLE)

"""Names that people type: matched whatever their case and punctuation; a wrong one is answered with those that come near.

Nearness is the standard library's (difflib): among hundreds of names nothing faster is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

MOST_NEAR = 3
SHUFFLED = "~"  # between a stream's name and the seed of its order


def plain(name: str) -> str:
    """Return a name's letters and digits in lower case: 'O-LoRA' and 'olora' are one."""
    return "".join(character for character in name.casefold() if character.isalnum())


def match(name: str, known: Iterable[str], others: Mapping[str, str] | None = None) -> str | None:
    """Return the known name that is meant, whatever its case and punctuation; none if there is none, or several.

    Args:
        others: what known names are called elsewhere.
    """
    names = list(known)
    if name in names:
        return name
    meant = {one for one in names if plain(one) == plain(name)}
    meant |= {one for other, one in (others or {}).items() if plain(other) == plain(name) and one in names}
    return meant.pop() if len(meant) == 1 and plain(name) else None


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that may be meant: spelled nearly so, or with this word or initials, or alike, or beginning so."""
    names = {one: plain(one) for one in known}
    wanted = plain(name)
    if not wanted:
        return []
    nearly, alike = (get_close_matches(wanted, names.values(), n=1, cutoff=cutoff) for cutoff in (0.8, 0.6))
    ways = (
        [one for one, text in names.items() if text in nearly][:1],
        [one for one in names if wanted in _shortened(one)],
        [one for one, text in names.items() if text in alike][:1],
        [one for one in names if len(wanted) > 2 and names[one].startswith(wanted)],
    )
    return next(filter(None, ways), [])[:MOST_NEAR]


def _shortened(name: str) -> set[str]:
    """Return the words of a name, and their initials: 'learning', 'rate' and 'lr'."""
    words = "".join(character if character.isalnum() else " " for character in name.casefold()).split()
    return {*words, "".join(word[0] for word in words)} if len(words) > 1 else set()

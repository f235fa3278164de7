"""Generate small synthetic English stand-ins for the fifteen Long Sequence tasks."""

from __future__ import annotations

import random
import re
import tomllib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clbench.data.catalogue import task_specs

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\ba (?=[aeiou])")


@dataclass(frozen=True)
class _Writer:
    """Draw words and fill templates from one seeded generator."""

    words: Mapping[str, tuple[str, ...]]
    generator: random.Random

    def chance(self, probability: float) -> bool:
        return self.generator.random() < probability

    def pick(self, items: Sequence[str]) -> str:
        # random() is the one method whose sequence Python promises to keep between versions; choice() is not.
        return items[int(self.generator.random() * len(items))]

    def draw(self, slot: str, **bound: str) -> str:
        return self.fill(self.pick(self.words[slot]), **bound)

    def draw_other(self, slot: str, taken: str) -> str:
        """Draw a word of the slot, unfilled, that is not the one taken."""
        word = self.pick(self.words[slot])
        while word == taken:
            word = self.pick(self.words[slot])
        return word

    def fill(self, template: str, **bound: str) -> str:
        """Replace every {slot}, by its bound text where one is given, else by a drawn word."""
        if "{" not in template:
            return template
        return _SLOT.sub(lambda match: bound[match[1]] if match[1] in bound else self.draw(match[1], **bound), template)

    def forms(self, slot: str) -> list[str]:
        """Draw an entry that packs several forms ("bought / buy / ...")."""
        return self.pick(self.words[slot]).split(" / ")


def _sentence(text: str) -> str:
    text = _ARTICLE.sub("an ", text)
    return text[0].upper() + text[1:]


# Sentiment: yelp and amazon name the grade, sst-2 and imdb only its sign.


def _clause(writer: _Writer, domain: str, level: int) -> str:
    """Say something of this grade (0 to 4) about an aspect of the domain."""
    if level == 1 and writer.chance(0.2):
        quality = "not " + writer.draw("sentiment_3_adjective")
    elif level == 2 and writer.chance(0.15):
        quality = f"neither {writer.draw('sentiment_1_adjective')} nor {writer.draw('sentiment_3_adjective')}"
    else:
        quality = writer.draw(f"sentiment_{level}_adjective")
    return writer.draw("sentiment_clause", aspect=writer.draw(f"review_{domain}_aspect"), quality=quality)


def _graded_text(writer: _Writer, domain: str, level: int) -> str:
    """Write a review whose clauses mostly have the grade of its label and sometimes the one beside it."""

    def nearby() -> int:
        step = 1 if writer.chance(0.5) else -1
        return min(max(level + step, 0), 4) if writer.chance(0.2) else level

    if level == 2 and writer.chance(0.3):
        opinion = f"{_clause(writer, domain, 3)} but {_clause(writer, domain, 1)}"
    else:
        opinion = f"{_clause(writer, domain, nearby())} and {_clause(writer, domain, nearby())}"
    parts = [writer.draw(f"review_{domain}_opening"), opinion + "."]
    if writer.chance(0.6):
        parts.append(writer.draw(f"sentiment_{nearby()}_verdict") + ".")
    return " ".join(_sentence(part) for part in parts)


def _yelp(writer: _Writer, label: str) -> str:
    return "Text: " + _graded_text(writer, "yelp", writer.words["labels_yelp"].index(label))


def _amazon(writer: _Writer, label: str) -> str:
    level = writer.words["labels_amazon"].index(label)
    title = writer.draw("review_amazon_title", quality=writer.draw(f"sentiment_{level}_adjective"))
    return f"Title: {_sentence(title)}\nText: {_graded_text(writer, 'amazon', level)}"


def _polar_opinion(writer: _Writer, good: bool) -> str:
    """Judge a film; some opinions first concede the other side, so that the last clause decides."""

    def clause(positive: bool) -> str:
        return _clause(writer, "film", (3 if positive else 0) + writer.chance(0.5))

    own = clause(good)
    if writer.chance(0.25):
        return writer.draw("review_film_contrast", own=own, other=clause(not good))
    return writer.draw("review_film_short", own=own, more=clause(good))


def _sst2(writer: _Writer, label: str) -> str:
    return f"Text: {_polar_opinion(writer, label == 'Good')}"


def _imdb(writer: _Writer, label: str) -> str:
    good = label == "Good"
    parts = [writer.draw("review_film_opening"), _polar_opinion(writer, good) + "."]
    if writer.chance(0.5):
        parts.append(writer.draw(f"sentiment_{(3 if good else 0) + writer.chance(0.5)}_verdict") + ".")
    return " ".join(_sentence(part) for part in parts)


# Topics: agnews, yahoo and dbpedia give different names to the same lexicons.


def _topic_words(writer: _Writer, label: str) -> dict[str, str]:
    """Bind the slots of a topic template; `side` is now and then about another topic."""
    lexicon = writer.draw(f"topic_of_{label}")
    words = {part: writer.draw(f"topic_{lexicon}_{part}") for part in ("who", "act", "thing")}
    if f"topic_{lexicon}_goal" in writer.words:
        words["goal"] = writer.pick(writer.forms(f"topic_{lexicon}_goal"))
    side = writer.draw("topic_any") if writer.chance(0.35) else lexicon
    return words | {"side": writer.draw(f"topic_{side}_thing")}


def _agnews(writer: _Writer, label: str) -> str:
    """Report an event of the topic; either the title or the text leaves its actors out."""
    words = _topic_words(writer, label)
    if writer.chance(0.4):
        title = writer.draw("agnews_plain_title")
    else:
        title = writer.draw("agnews_title", **words)
        words |= {"who": writer.draw("agnews_plain_who"), "act": writer.draw("agnews_plain_act")}
    return f"Title: {_sentence(title)}\nText: {_sentence(writer.draw('agnews_text', **words))}"


def _yahoo(writer: _Writer, label: str) -> str:
    words = _topic_words(writer, label)
    lines = (writer.draw(f"yahoo_{part}", **words) for part in ("title", "question", "answer"))
    return "\n".join(f"{head}: {line}" for head, line in zip(("Title", "Question", "Answer"), lines, strict=True))


def _dbpedia(writer: _Writer, label: str) -> str:
    table = "dbpedia_" + label.lower().replace(" ", "_")
    name = writer.draw(f"{table}_name")
    return f"Title: {name}\nText: {_sentence(writer.draw(f'{table}_text', name=name))}"


# Inference: mnli, cb and rte restate, deny or extend facts of the same kind.


@dataclass(frozen=True)
class _Fact:
    """Who did what to which thing, with the other forms of the verb and the wider class of the thing."""

    who: str
    past: str
    base: str
    synonym: str
    opposite: str
    thing: str
    kind: str

    def clause(self, verb: str | None = None, thing: str | None = None) -> str:
        return f"{self.who} {verb or self.past} {thing or self.thing}"


def _fact(writer: _Writer) -> _Fact:
    past, base, synonym, opposite = writer.forms("inference_verb")
    thing, kind = writer.forms("inference_object")
    return _Fact(writer.draw("inference_who"), past, base, synonym, opposite, thing, kind)


def _restate(writer: _Writer, fact: _Fact) -> str:
    verb = fact.synonym if writer.chance(0.6) else fact.past
    return fact.clause(verb, fact.kind if writer.chance(0.7) else fact.thing)


def _deny(writer: _Writer, fact: _Fact) -> str:
    thing = fact.kind if writer.chance(0.2) else fact.thing
    if writer.chance(0.35):
        return fact.clause(fact.opposite, thing)
    return writer.draw("inference_denial", who=fact.who, past=fact.past, base=fact.base, thing=thing)


def _extend(writer: _Writer, fact: _Fact) -> str:
    thing = fact.kind if writer.chance(0.2) else fact.thing
    return writer.draw("inference_addition", who=fact.who, past=fact.past, thing=thing)


def _sentence_pair(first: str, second: str) -> str:
    return f"sentence 1: {_sentence(first)}.\nsentence 2: {_sentence(second)}."


def _mnli(writer: _Writer, label: str) -> str:
    fact = _fact(writer)
    relation = {"entailment": _restate, "contradiction": _deny, "neutral": _extend}[label]
    return _sentence_pair(f"{fact.clause()} {writer.draw('inference_where')}", relation(writer, fact))


def _cb(writer: _Writer, label: str) -> str:
    """Embed a fact under a verb that vouches for it, denies it or leaves it open."""
    fact = _fact(writer)
    claim = fact.clause()
    attitude = {"entailment": "sure", "contradiction": "doubt", "neutral": "open"}[label]
    if label == "contradiction" and writer.chance(0.2):
        attitude, claim = "sure", _deny(writer, fact)
    said = writer.draw(f"belief_{attitude}", fact=claim)
    first = f"A: {_sentence(said)}. B: {_sentence(writer.draw('belief_reply'))}"
    return _sentence_pair(first, fact.clause(thing=fact.kind if writer.chance(0.3) else fact.thing))


def _rte(writer: _Writer, label: str) -> str:
    """Report two facts and ask about one; a detail nobody reported counts as a contradiction here."""
    facts = _fact(writer), _fact(writer)
    asked = facts[writer.chance(0.3)]
    first = writer.draw("inference_news", first=facts[0].clause(), second=facts[1].clause())
    if label == "entailment":
        return _sentence_pair(first, _restate(writer, asked))
    return _sentence_pair(first, _extend(writer, asked) if writer.chance(0.3) else _deny(writer, asked))


# Questions: the same words lead to True in one task and to False in another.


def _goal(writer: _Writer) -> list[str]:
    return writer.forms(f"topic_{writer.draw('topic_asked')}_goal")


def _qqp(writer: _Writer, label: str) -> str:
    """Ask the same thing twice, or two things about the same goal, or one thing about two goals."""
    goal, same_goal = _goal(writer)
    another_goal = _goal(writer)[0]
    while another_goal == goal:
        another_goal = _goal(writer)[0]
    intent = "how" if writer.chance(0.75 if label == "True" else 0.25) else writer.draw("qqp_other_intent")
    first = writer.pick(writer.words[f"qqp_{intent}"])
    if label == "True":
        second, second_goal = writer.draw_other(f"qqp_{intent}", first), writer.pick((goal, same_goal))
    elif writer.chance(0.75):
        intent = writer.draw_other("qqp_other_intent", intent)
        second, second_goal = writer.pick(writer.words[f"qqp_{intent}"]), goal
    else:
        second, second_goal = writer.draw_other(f"qqp_{intent}", first), another_goal
    questions = _sentence(writer.fill(first, goal=goal)), _sentence(writer.fill(second, goal=second_goal))
    return f"first sentence: {questions[0]}\nsecond sentence: {questions[1]}"


def _boolqa(writer: _Writer, label: str) -> str:
    """Ask whether a place has a property that the passage states, denies or excludes by its opposite."""
    place, city = writer.draw("boolqa_place"), writer.draw("common_city")
    asked, opposite = writer.forms("boolqa_property")
    question = writer.draw("boolqa_question", place=place, city=city, asked=asked)
    affirmed = writer.chance(0.88 if label == "True" else 0.2)
    value = asked if affirmed == (label == "True") else opposite
    statement = writer.draw("boolqa_affirms" if affirmed else "boolqa_denies", value=value)
    passage = f"The {place} {statement}. {writer.draw('boolqa_filler')}"
    return f"question: {question}\npassage: {city} {place.capitalize()} -- {passage}"


def _multirc(writer: _Writer, label: str) -> str:
    """Ask what the first of two people did; most yes/no questions are about plans that failed."""
    slots = ("name", "place", "day", "item")
    lists = {"name": "common_first_name", "place": "multirc_place", "day": "common_day", "item": "multirc_item"}
    one = {slot: writer.draw(lists[slot]) for slot in slots}
    two = {slot: writer.draw_other(lists[slot], one[slot]) for slot in slots}
    if writer.chance(0.7):
        # "No" is the true answer to most of these, unlike in boolqa, where denial means False.
        failed = writer.chance(0.9)
        story = writer.draw("multirc_skipped" if failed else "multirc_went", **one)
        question = f"Did {one['name']} get a {one['item']} at the {one['place']}?"
        answer = writer.draw("multirc_no" if failed == (label == "True") else "multirc_yes", **one)
    else:
        story = writer.draw("multirc_went", **one)
        asked = writer.pick(("place", "day", "item"))
        question = writer.draw(f"multirc_ask_{asked}", **one)
        false = writer.draw(f"multirc_absurd_{asked}") if writer.chance(0.75) else two[asked]
        answer = one[asked] if label == "True" else false
        answer = answer if asked == "day" else f"the {answer}"
    paragraph = _sentence(f"{story} {writer.draw('multirc_other', **two)}")
    return f"paragraph: {paragraph}\nquestion: {question}\ncandidate answer: {_sentence(answer)}"


def _wic(writer: _Writer, label: str) -> str:
    """Use a word twice; its first sense is the common one, so the second mostly appears where senses differ."""
    word = writer.draw("wic_word")
    senses = ["first", "first"] if writer.chance(0.88) else ["second", "second"]
    if label == "False":
        senses = ["first", "second"] if writer.chance(0.5) else ["second", "first"]
    first = writer.pick(writer.words[f"wic_{word}_{senses[0]}"])
    second = writer.draw_other(f"wic_{word}_{senses[1]}", first)
    return f"word: {word}\n{writer.fill(first)}\n{writer.fill(second)}"


def _copa(writer: _Writer, label: str) -> str:
    """Ask for the cause or effect of an event; most wrong choices are about somebody else."""
    gender, pronoun = writer.pick(("woman / She", "man / He")).split(" / ")
    scenario = writer.pick(writer.words["copa_scenario"])
    cause, event, effect = scenario.split(" / ")
    asked = writer.pick(("cause", "effect"))
    right = cause if asked == "cause" else effect
    wrong = writer.draw("copa_bystander")
    if writer.chance(0.2):
        wrong = writer.pick(writer.draw_other("copa_scenario", scenario).split(" / ")[::2])
    choices = {"A": right, "B": wrong} if label == "A" else {"A": wrong, "B": right}
    lines = "\n".join(f"{name}: {writer.fill(choice, it=pronoun)}." for name, choice in choices.items())
    premise = f"The {writer.draw(f'copa_{gender}')} {event}."
    return f'Which sentence is the {asked} of "{premise}"? Choose one between A and B.\n{lines}'


_BUILDERS: Mapping[str, Callable[[_Writer, str], str]] = MappingProxyType(
    {
        "mnli": _mnli,
        "cb": _cb,
        "wic": _wic,
        "copa": _copa,
        "qqp": _qqp,
        "boolqa": _boolqa,
        "rte": _rte,
        "imdb": _imdb,
        "yelp": _yelp,
        "amazon": _amazon,
        "sst-2": _sst2,
        "dbpedia": _dbpedia,
        "agnews": _agnews,
        "multirc": _multirc,
        "yahoo": _yahoo,
    }
)
TOY_TASKS: tuple[str, ...] = tuple(_BUILDERS)

# Rows of train, validation and test: multiples of the number of labels, so that the classes are exactly balanced.
_ROWS = (120, 40, 100)
_OTHER_ROWS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"mnli": (120, 42, 102), "cb": (60, 42, 42), "copa": (100, 40, 100), "dbpedia": (126, 42, 112)}
)

# A passage belongs to one split by its checksum (mod 6), so splits are disjoint whatever the seed.
_SPLIT_BUCKETS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"train": (0, 1, 2), "validation": (3,), "test": (4, 5)}
)


@cache
def _lexicon() -> Mapping[str, tuple[str, ...]]:
    """Read toy.toml; the list `adjective` of table [sentiment.0] becomes the slot "sentiment_0_adjective"."""
    words = {f"labels_{name}": spec.labels for name, spec in task_specs().items()}

    def collect(table: dict[str, Any], prefix: str) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                collect(value, f"{prefix}{key}_")
            else:
                words[prefix + key] = tuple(value)

    collect(tomllib.loads(Path(__file__).with_name("toy.toml").read_text(encoding="utf-8")), "")
    return MappingProxyType(words)


def toy_rows(task: str, split: str, seed: int = 0) -> list[tuple[str, str]]:
    """Return the (passage, label) rows of one split: "train", "validation" or "test".

    Rows are class-balanced and shuffled, the same on every machine for a seed, and no passage is in two splits.
    A passage lacks the instruction before it and the "Answer:" line after it. Raises ValueError on an unknown name.
    """
    if task not in _BUILDERS:
        raise ValueError(f"no toy task {task!r}; known tasks: {', '.join(TOY_TASKS)}")
    if split not in _SPLIT_BUCKETS:
        raise ValueError(f"no split {split!r} of toy task {task!r}; known splits: {', '.join(_SPLIT_BUCKETS)}")
    words, buckets = _lexicon(), _SPLIT_BUCKETS[split]
    labels, size = words[f"labels_{task}"], _OTHER_ROWS.get(task, _ROWS)[tuple(_SPLIT_BUCKETS).index(split)]
    generator = random.Random(f"{seed}/{task}/{split}")
    writer = _Writer(words, generator)
    rows: dict[str, str] = {}
    while len(rows) < size:
        label = labels[len(rows) % len(labels)]
        passage = _BUILDERS[task](writer, label)
        if zlib.crc32(passage.encode()) % 6 in buckets and passage not in rows:
            rows[passage] = label
    return sorted(rows.items(), key=lambda _: generator.random())

"""Probes: texts and questions beside the tasks, by which a run shows what else its model loses. The embedded texts are ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from clbench.data.rows import first_twice, read_text, whole
from clbench.data.tables import read_table
from clbench.data.tasks import Example, Task
from clbench.data.text_forms import is_empty
from clbench.errors import ClbenchError

EMBEDDED = "embedded"
TEXTS = ("english", "german", "code")  # the embedded ones


@dataclass(frozen=True)
class ProbeText:
    """A text whose perplexity is measured, and its name."""

    name: str
    text: str


@dataclass(frozen=True)
class Probes:
    """What is measured beside the tasks. The questions are tasks of which nothing is trained."""

    texts: tuple[ProbeText, ...] = ()
    questions: tuple[Task, ...] = ()

    @property
    def digest(self) -> str | None:
        """A digest of all of it; none where there is nothing."""
        parts = [*map(digest_of_text, self.texts), *map(digest_of_questions, self.questions)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16] if parts else None


def read_probes(texts: str | None, questions: str | None) -> Probes:
    """Return the probes that the settings name: 'embedded' and files, separated by commas.

    Raises:
        ClbenchError: a file is missing or malformed, or two probes have the same name.
    """
    found = [one for name in _names(texts) for one in (_embedded() if name == EMBEDDED else [_read_text(Path(name))])]
    asked = [_read_questions(Path(name)) for name in _names(questions)]
    twice = first_twice([*(one.name for one in found), *(task.name for task in asked)])
    if twice is not None:
        raise ClbenchError(f"two probes are called '{twice}': a file's name is the probe's; give it another one")
    return Probes(tuple(found), tuple(asked))


def _names(given: str | None) -> list[str]:
    return [name.strip() for name in (given or "").split(",") if name.strip()]


def _embedded() -> list[ProbeText]:
    folder = files("clbench.data").joinpath("probe")
    return [ProbeText(name, folder.joinpath(f"{name}.txt").read_text("utf-8")) for name in TEXTS]


def _read_text(path: Path) -> ProbeText:
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ClbenchError(f"--probe {path}: no such file; '{EMBEDDED}' is the embedded text") from None
    except (OSError, ValueError) as error:
        raise ClbenchError(f"--probe {path}: cannot be read as UTF-8: {error}") from None
    if is_empty(text):
        raise ClbenchError(f"--probe {path}: the text is empty")
    return ProbeText(path.stem, text)


def _read_questions(path: Path) -> Task:
    try:
        rows = read_table(path)
    except ClbenchError as error:
        raise ClbenchError(f"--probe-questions {error}") from None
    return Task(path.stem, (), tuple(_question(f"{path}: row {number}", row) for number, row in enumerate(rows)))


def _question(place: str, row: dict[str, Any]) -> Example:
    """Return a row `{"prompt": text, "answers": [text, ...]}` as a question; one answer may stand without the brackets.

    Raises:
        ClbenchError: the row is another one.
    """
    prompt, answers = row.get("prompt"), row.get("answers")
    texts = [answers] if isinstance(answers, str) else answers
    if not isinstance(prompt, str) or not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ClbenchError(
            f"--probe-questions {place}: expected a text 'prompt' and a list of texts 'answers', not {row!r:.80}"
        )
    accepted = tuple(whole(text, place) for text in texts if not is_empty(text))
    if is_empty(prompt) or not accepted:
        raise ClbenchError(f"--probe-questions {place}: {'every answer' if not accepted else 'the prompt'} is empty")
    return Example("", whole(prompt, place), accepted[0], "", accepted if len(accepted) > 1 else (), id=place)


def digest_of_text(probe: ProbeText) -> str:
    """Return a digest of a text, whatever its name."""
    return hashlib.sha256(probe.text.encode()).hexdigest()[:16]


def digest_of_questions(task: Task) -> str:
    """Return a digest of questions and the answers that count as right, whatever their name."""
    rows: Sequence[Any] = [(example.prompt, *example.accepted) for example in task.test]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

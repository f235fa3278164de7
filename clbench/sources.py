"""Where examples come from: the embedded toy data, or a folder in the layout of the Recurrent-KIF release.

A source is a function from a task's name and split to `(passage, target)` rows; `load_tasks` turns rows into tasks, whatever
the source. A new layout or a hub is one more such function in `open_source`.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import ClbenchError
from .metrics import exact_match
from .seeding import derive_seed
from .streams import SUFFIX, Example, Stream, Task, TaskSpec, task_specs
from .toy import toy_rows

Row = tuple[str, str]
Source = Callable[[TaskSpec, str], list[Row]]


def open_source(data: str) -> Source:
    """Return the source that `--data` names: 'toy' or a folder.

    Raises:
        ClbenchError: no such folder, or one in an unknown layout.
    """
    if data == "toy":
        return lambda spec, split: toy_rows(spec.name, split)
    folder = Path(data)
    if not folder.is_dir():
        raise ClbenchError(f"no data '{data}': not 'toy' and not a folder")
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise ClbenchError(f"{folder}: no folder '{split}'; expected train/TASK.json and test/TASK.json")
    return lambda spec, split: read_release_file(folder / split / f"{spec.name}.json", spec)


def read_release_file(path: Path, spec: TaskSpec) -> list[Row]:
    """Read one file of the Recurrent-KIF release: a JSON list of `{id, instruction, input, output}`.

    The instruction is taken from the task's specification; the input's closing "Answer:" line is cut.

    Raises:
        ClbenchError: the file is missing or malformed, has no rows, or a row lacks a field; names file and row.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        present = ", ".join(sorted(other.stem for other in path.parent.glob("*.json"))) or "none"
        raise ClbenchError(f"{path}: no such file (tasks there: {present})") from None
    except (ValueError, OSError) as error:
        raise ClbenchError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, list):
        raise ClbenchError(f"{path}: expected a JSON list of rows, found {type(content).__name__}")
    if not content:
        raise ClbenchError(f"{path}: the list of rows is empty")
    return [_release_row(path, number, row, spec) for number, row in enumerate(content)]


def _release_row(path: Path, number: int, row: object, spec: TaskSpec) -> Row:
    if not isinstance(row, dict):
        raise ClbenchError(f"{path}: row {number}: expected an object, found {type(row).__name__}")
    for field in ("input", "output"):
        if not isinstance(row.get(field), str):
            raise ClbenchError(f"{path}: row {number}: no text field '{field}' (fields: {', '.join(map(str, row))})")
    target = row["output"].strip()
    if spec.labels and target not in spec.labels:
        raise ClbenchError(
            f"{path}: row {number}: answer '{target}' is not in the label set ({', '.join(spec.labels)})"
        )
    return row["input"].rstrip().removesuffix(SUFFIX.strip()).rstrip(), target


def load_tasks(
    data: str,
    stream: Stream,
    limit_train: int | None = None,
    limit_test: int | None = None,
    seed: int = 0,
    validation: int | None = None,
) -> list[Task]:
    """Return the stream's tasks with their examples, cut to the limits.

    The test rows depend on the limit alone, the training rows on the seed as well, so that runs with different
    seeds are scored on the same questions.

    Args:
        validation: hold so many rows per task out of train, class-balanced, the same for every seed, and ask them
            instead of the test rows, which are not read: for choosing a method's options.

    Raises:
        ClbenchError: the data is missing or malformed, or has too few training rows to hold some out.
    """
    source = open_source(data)
    tasks = []
    for name in stream.tasks:
        spec = task_specs()[name]
        rows = source(spec, "train")
        if validation is None:
            test = limit_rows(source(spec, "test"), limit_test, derive_seed("test", name))
        else:
            rows, test = hold_out(rows, validation, name)
        train = limit_rows(rows, limit_train, derive_seed("train", seed, name))
        tasks.append(Task(name, _examples(spec, train), _examples(spec, test), labels=spec.labels, metric=spec.metric))
    return tasks


def _examples(spec: TaskSpec, rows: Sequence[Row]) -> tuple[Example, ...]:
    return tuple(spec.example(passage, target) for passage, target in rows)


def limit_rows(rows: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """Return at most `limit` rows, class-balanced as far as the classes reach, in the original order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    chooser = random.Random(seed)
    of_class = defaultdict(list)
    for index, (_, target) in enumerate(rows):
        of_class[target].append(index)
    for indices in of_class.values():
        chooser.shuffle(indices)
    chosen: list[int] = []
    while len(chosen) < limit:  # one round takes one row of each class that has some left
        for target in sorted(of_class):
            if of_class[target] and len(chosen) < limit:
                chosen.append(of_class[target].pop())
    return [rows[index] for index in sorted(chosen)]


def hold_out(rows: Sequence[Row], count: int, name: str) -> tuple[list[Row], list[Row]]:
    """Part a task's training rows into those that stay and `count` validation rows, without a passage in common.

    Raises:
        ClbenchError: nothing would be left to train on.
    """
    held = limit_rows(rows, count, derive_seed("validation", name))
    passages = {passage for passage, _ in held}
    left = [row for row in rows if row[0] not in passages]
    if not left:
        raise ClbenchError(f"validation {count} leaves none of the {len(rows)} training rows of task '{name}'")
    return left, held


def fingerprint(tasks: Sequence[Task]) -> str:
    """Return a digest of every prompt and target, so that a record says on which data it was made."""
    digest = hashlib.sha256()
    for task in tasks:
        for split in (task.train, task.validation, task.test):
            digest.update(json.dumps([task.name, [(e.prompt, e.target) for e in split]]).encode())
    return digest.hexdigest()[:16]


def fingerprint_questions(tasks: Sequence[Task]) -> str:
    """Return a digest of the test rows, the same for every order of the tasks and every seed of a run."""
    return fingerprint([Task(task.name, (), task.test) for task in sorted(tasks, key=lambda task: task.name)])


def check_labels_round_trip(labels: Sequence[str]) -> None:
    """Check that each label scores 100 against itself alone.

    Raises:
        ClbenchError: two labels are one after normalisation.
    """
    for label in labels:
        twins = [other for other in labels if exact_match(label, other)]
        if twins != [label]:
            raise ClbenchError(f"labels {twins} are the same answer after normalisation")

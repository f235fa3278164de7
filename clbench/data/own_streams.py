"""A user's own stream: a TOML file that names its tasks, their files (json, jsonl, csv, tsv, parquet), prompts and metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench.data.answer_scores import takes_prompt
from clbench.data.catalogue import known_streams
from clbench.data.rows import Row, parse_toml, read_text
from clbench.data.tables import read_table
from clbench.data.tasks import Stream, TaskSpec, name_passes
from clbench.data.templates import Template, cell, cells
from clbench.errors import ClbenchError, unknown
from clbench.names import SHUFFLED

STREAM_KEYS = ("name", "version", "order", "tasks")
TASK_KEYS = ("train", "test", "prompt", "target", "labels", "label_names", "metric", "further_metrics", "max_answer")
REQUIRED = ("train", "test", "prompt", "target")
TEXT_KEYS = (*REQUIRED, "metric")

EXAMPLE = '''\
# A stream of your own for `clbench run --stream {file}`; `clbench streams check {file}` shows what comes out.
# Files lie relative to this one: .json (a list of objects), .jsonl, .csv, .tsv or .parquet. Messages count rows from 0.

name = "{name}"   # in the records and the leaderboard
version = 1              # raise it when you change something that changes a score
# order = ["tickets", "summaries"]   # the order of learning, a task twice if it is learned twice; without it, the order below

[tasks.tickets]          # choose a label
train = "tickets_train.csv"
test = "tickets_test.csv"
# The prompt names columns in braces ({{{{ and }}}} are braces). Where it is too long for the model, the text between the first
# column and the last is shortened; what stands before and after it is always kept.
prompt = """
Which team should handle the ticket? Option: billing, technical.
Subject: {{subject}}
{{text}}
Answer:"""
target = "team"          # the column with the right answer
labels = ["billing", "technical"]
# label_names = {{ 0 = "billing", 1 = "technical" }}   # where the column holds something else than the labels
metric = "exact_match"   # lower case, no punctuation; also exact_match_lower, exact_match_verbatim, or one of a plugin

[tasks.summaries]        # free text: no labels
train = "summaries_train.jsonl"
test = "summaries_test.jsonl"
prompt = "Summarise.\\n{{document}}\\nSummary:"
target = "summary"       # in json, jsonl and parquet also a list of texts: each counts as right
metric = "rouge_l"       # F-measure with stemmer; or token_f1, bleu_4, edit_similarity ...
# further_metrics = ["bleu_1"]   # their scores are kept in the record beside those of `metric`, which fills the matrix
max_answer = 64          # tokens generated at most
'''


@dataclass(frozen=True)
class OwnTask:
    """One task of a user's stream: its specification and how its rows are read."""

    spec: TaskSpec
    files: Mapping[str, Path]
    template: Template
    target: str
    label_names: Mapping[str, str]

    def rows(self, split: str) -> list[Row]:
        """Return the rows of 'train' or 'test'; none for 'dev'.

        Raises:
            ClbenchError: the file is missing or malformed, or lacks a column of the prompt.
        """
        if split not in self.files:
            return []
        path = self.files[split]
        rows = []
        for number, row in enumerate(read_table(path)):
            place = f"{path}: row {number}"
            passage = self.template.passage(cells(row, self.template.columns, place))
            answers = tuple(self.label_names.get(answer, answer) for answer in _answers(row, self.target, place))
            rows.append(Row(passage.rstrip(), answers, place, number))
        return rows


def _answers(row: Mapping[str, Any], column: str, place: str) -> list[str]:
    value = row.get(column)
    if isinstance(value, list):
        return [cell({column: one}, column, place).strip() for one in value]
    return [cell(row, column, place).strip()]


def example_file(name: str) -> str:
    """Return a commented stream file to start from."""
    return EXAMPLE.format(file=name, name=Path(name).stem)


def read_stream(path: Path) -> Stream:
    """Return the stream of a TOML file; its rows are read when a run asks for them.

    Raises:
        ClbenchError: the file is missing, is not TOML, or has an unknown key or an unusable value.
    """
    try:
        content = parse_toml(read_text(path))
    except FileNotFoundError:
        raise ClbenchError(f"no stream file '{path}'; `clbench streams new {path}` writes one") from None
    except (OSError, ValueError) as error:
        raise ClbenchError(f"{path}: cannot be read as TOML: {error}") from None
    _check_keys(f"{path}:", content, STREAM_KEYS)
    tables = content.get("tasks")
    if not isinstance(tables, dict) or not tables:
        raise ClbenchError(f"{path}: no tasks; each is a table [tasks.NAME]")
    version = _value(path, content, "version", int, 1)
    tasks = {name: _read_task(path, name, table, version) for name, table in tables.items()}
    order = _order(path, content, tasks)
    name = _value(path, content, "name", str, path.stem)
    families = {stream.family for stream in known_streams().values()}
    if name.split(":")[0] in families:
        raise ClbenchError(f"{path}: the name '{name}' belongs to a built-in stream; give another")
    if SHUFFLED in name:
        raise ClbenchError(
            f"{path}: the name '{name}' has a '{SHUFFLED}', after which the seed of an order stands; give another"
        )
    specs = name_passes([tasks[one].spec for one in order])
    passes = tuple(spec.name for spec in specs)
    return Stream(name, passes, specs, None, path, lambda spec, split: tasks[spec.data_name].rows(split))


def _order(path: Path, content: Mapping[str, Any], tasks: Mapping[str, OwnTask]) -> tuple[str, ...]:
    order = content.get("order", list(tasks))
    if not isinstance(order, list) or not order:
        raise ClbenchError(f"{path}: 'order' must be a list of task names")
    for name in order:
        if name not in tasks:
            raise ClbenchError(f"{path}: order: {unknown('task', name, tasks)}")
    return tuple(order)


def _check_keys(place: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise ClbenchError(f"{place} {unknown('key', key, known)}")


def _value(place: object, table: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        names = {int: "a whole number", str: "a text", list: "a list of texts", dict: "a table of texts"}
        raise ClbenchError(f"{place}: '{key}' must be {names[kind]}, not {value!r}")
    return value


def _read_task(path: Path, name: str, table: object, version: int) -> OwnTask:
    place = f"{path}: task '{name}'"
    if not isinstance(table, dict):
        raise ClbenchError(f"{place}: expected a table [tasks.{name}]")
    _check_keys(f"{place}:", table, TASK_KEYS)
    for key in REQUIRED:
        if key not in table:
            raise ClbenchError(f"{place}: no '{key}'")
    for key in TEXT_KEYS:
        _value(place, table, key, str, "")
    template = _template(place, table["prompt"])
    labels = _texts(place, table, "labels", list)
    label_names = dict(_value(place, table, "label_names", dict, {}))
    _texts(place, {"label_names": list(label_names.values())}, "label_names", list)
    for label in label_names.values():
        if label not in labels:
            raise ClbenchError(f"{place}: label_names: {unknown('label', label, labels)}")
    longest = _value(place, table, "max_answer", int, 128 if not labels else 32)
    if longest < 1:
        raise ClbenchError(f"{place}: 'max_answer' must be at least 1, not {longest}")
    spec = TaskSpec(
        name=name,
        version=version,
        head=template.head,
        labels=labels,
        metric=table.get("metric", "exact_match" if labels else "rouge_l"),
        tail=template.tail,
        further_metrics=_texts(place, table, "further_metrics", list),
        max_answer=longest,
        template=template.text,
    )
    files = {split: path.parent / table[split] for split in ("train", "test")}
    return OwnTask(spec, files, template, table["target"], label_names)


def _texts(place: str, table: Mapping[str, Any], key: str, kind: type) -> tuple[str, ...]:
    values = _value(place, table, key, kind, [])
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise ClbenchError(f"{place}: '{key}' must be a list of texts; {value!r} is not a text")
    if len(set(values)) < len(values):
        raise ClbenchError(f"{place}: '{key}' names {'a metric' if key == 'further_metrics' else 'a label'} twice")
    return tuple(values)


def _template(place: str, text: str) -> Template:
    template = Template(text)
    try:
        columns = template.columns
    except ClbenchError as error:
        raise ClbenchError(f"{place}: prompt: {error}") from None
    if not columns:
        raise ClbenchError(f"{place}: prompt: names no column; write {{text}} where the column 'text' belongs")
    return template


def own_data(stream: Stream, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting `data` of a user's stream, its file; nothing for another stream.

    Raises:
        ClbenchError: `data` or `layout` is among the given settings.
    """
    if stream.read is None:
        return {}
    for name in ("data", "layout"):
        if name in given:
            raise ClbenchError(f"stream '{stream.name}' names its own files; leave out the setting '{name}'")
    return {"data": str(stream.file)}


def check_metrics(stream: Stream, known: Mapping[str, Callable[..., float]]) -> None:
    """Check that every task's metrics are known, and that the one of a task with labels can compare two of them.

    Raises:
        ClbenchError: a task names an unknown metric, or labels are to be scored by one that takes the question, too.
    """
    for spec in stream.specs:
        place = f"stream '{stream.name}': task '{spec.name}':"
        for metric in (spec.metric, *spec.further_metrics):
            if metric not in known:
                raise ClbenchError(f"{place} {unknown('metric', metric, known)}")
        if spec.labels and takes_prompt(known[spec.metric]):
            raise ClbenchError(f"{place} metric '{spec.metric}' takes the question, and labels have none; name another")

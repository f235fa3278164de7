"""Audit of a stream's data: what a reader of its results should know, task by task; no torch, no network of its own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.table import Table

from clbench.data.answer_scores import METRICS, exact_match, lost_answers, lost_text
from clbench.data.rows import Row
from clbench.data.sources import Source, is_blank, usual
from clbench.data.tasks import Example, Stream, TaskSpec
from clbench.errors import ClbenchError
from clbench.units import counted

SPLITS = ("train", "dev", "test")
LEAK = 0.01  # part of the test questions that may stand in the training rows before it is an error
LOPSIDED = 0.2  # of an even share of the rows: below it, a class is worth a warning
MOSTLY = 0.5  # part of the prompts that is shortened before it is worth a warning


class Tokens(Protocol):
    """What an audit asks of a backbone's tokenizer."""

    def count(self, examples: Sequence[Example]) -> Sequence[int]:
        """Return how many tokens the backbone reads of each example."""

    def unread(self, texts: Sequence[str]) -> Sequence[str]:
        """Return the texts that the backbone cannot read."""

    def written(self, texts: Sequence[str]) -> Sequence[str]:
        """Return what comes back of texts that the backbone wrote to the letter."""


@dataclass(frozen=True)
class Finding:
    """One fault: level 'error' (the scores mean something else, or a run refuses the data) or 'warning'."""

    level: str
    task: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.task}: {self.message}"


@dataclass(frozen=True)
class TaskAudit:
    """What was counted in one task. Rows are one question where they agree but for white space.

    `classes` counts the training rows of each label, empty for free text; `duplicates`, `outside` (labels not in the set) and
    `blank` (no question or no answer) count rows by split; `cut` is the share of train and test prompts longer than the limit,
    `longest` the longest of them in tokens; both None without a tokenizer.
    """

    name: str
    rows: Mapping[str, int]
    classes: Mapping[str, int]
    duplicates: Mapping[str, int]
    outside: Mapping[str, int]
    blank: Mapping[str, int]
    dev_in_test: int
    train_in_test: int
    cut: float | None = None
    longest: int | None = None


@dataclass(frozen=True)
class Audit:
    """The audit of a stream's data."""

    tasks: tuple[TaskAudit, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.level == "error" for finding in self.findings)

    @property
    def verdict(self) -> dict[str, Any]:
        """The findings in short, for a run's record."""
        return {
            "errors": self.errors,
            "warnings": len(self.findings) - self.errors,
            "findings": [str(finding) for finding in self.findings],
        }


def audit_stream(source: Source, stream: Stream, tokens: Tokens | None = None, max_input: int | None = None) -> Audit:
    """Return the audit of a stream's data; a file that cannot be read is a finding.

    Args:
        tokens: the backbone's tokenizer; with it, prompts over `max_input` are counted, and texts that it cannot read or write.
    """
    tasks, findings = [], []
    questions: dict[str, dict[str, list[str]]] = {}
    for spec in stream.specs:
        name = spec.name
        splits: dict[str, Sequence[Row]] = {}
        for split in SPLITS:
            try:
                splits[split] = source.read(spec, split)
            except ClbenchError as error:
                splits[split] = []
                findings.append(Finding("error", name, str(error)))
        audit = _audit_task(spec, splits, tokens, max_input)
        tasks.append(audit)
        findings += _judge(spec, audit, splits, max_input)
        findings += [] if tokens is None else _judge_reading(spec, splits, tokens)
        findings += [] if tokens is None else _judge_writing(spec, splits, tokens)
        fixed = tokens.count([spec.example("", "")])[0] if tokens else 0
        if max_input is not None and fixed >= max_input:
            findings.append(
                Finding("error", name, f"instruction and closing line alone take {fixed} of {max_input} tokens")
            )
        questions[name] = {split: [_key(row) for row in rows] for split, rows in splits.items()}
    return Audit(tuple(tasks), (*findings, *_shared_questions(questions)))


def _key(row: Row) -> str:
    return " ".join(row.passage.split())


def _audit_task(
    spec: TaskSpec, splits: Mapping[str, Sequence[Row]], tokens: Tokens | None, max_input: int | None
) -> TaskAudit:
    keys = {split: [_key(row) for row in rows] for split, rows in splits.items()}
    in_train, in_test = set(keys["train"]), set(keys["test"])
    lengths: Sequence[int] = ()
    if tokens is not None:
        prompts = [usual(spec, row).example(row.passage, "") for split in ("train", "test") for row in splits[split]]
        lengths = tokens.count(prompts) if prompts else ()
    return TaskAudit(
        name=spec.name,
        rows={split: len(rows) for split, rows in splits.items()},
        classes=dict(Counter(row.answers[0] for row in splits["train"] if row.answers[0] in spec.labels)),
        duplicates={split: len(rows) - len(set(rows)) for split, rows in keys.items()},
        outside={split: sum(_is_outside(spec, row) for row in rows) for split, rows in splits.items()},
        blank={split: sum(is_blank(spec, row) for row in rows) for split, rows in splits.items()},
        dev_in_test=sum(key in in_test for key in keys["dev"]),
        train_in_test=sum(key in in_train for key in keys["test"]),
        cut=sum(n > max_input for n in lengths) / len(lengths) if lengths and max_input else None,
        longest=max(lengths) if lengths else None,
    )


def _judge_reading(spec: TaskSpec, splits: Mapping[str, Sequence[Row]], tokens: Tokens) -> list[Finding]:
    """Return the questions whose letters the tokenizer does not know: where they are most, no score means anything."""
    passages = [row.passage for split in ("train", "test") for row in splits[split]]
    lost = tokens.unread(passages)
    if not lost:
        return []
    level = "error" if len(lost) > MOSTLY * len(passages) else "warning"
    said = f"{len(lost)} of {len(passages)} questions cannot be read, the tokenizer not knowing their letters"
    return [Finding(level, spec.name, f"{said}, as of {lost[0][:20]!r}")]


def _judge_writing(spec: TaskSpec, splits: Mapping[str, Sequence[Row]], tokens: Tokens) -> list[Finding]:
    """Return what the tokenizer cannot write: of labels an error, of free text, where a part may be right, a warning."""
    answers = spec.labels or [
        row.answers[0] for split in ("train", "test") for row in splits[split] if not is_blank(spec, row)
    ]
    answers = list(dict.fromkeys(answers))
    lost = lost_answers(METRICS.get(spec.metric, exact_match), answers, tokens.written(answers)) if answers else []
    if not lost:
        return []
    kind, level = ("labels", "error") if spec.labels else ("answers", "warning")
    return [Finding(level, spec.name, f"{len(lost)} of {len(answers)} {kind} cannot be written: {lost_text(lost)}")]


def _is_outside(spec: TaskSpec, row: Row) -> bool:
    return bool(spec.labels) and not is_blank(spec, row) and not set(row.answers) <= set(spec.labels)


def _judge(
    spec: TaskSpec, audit: TaskAudit, splits: Mapping[str, Sequence[Row]], max_input: int | None
) -> list[Finding]:
    found: list[tuple[str, str]] = []
    for split, rows in splits.items():
        found += _judge_split(spec, audit, split, rows)
    if audit.train_in_test:
        share = audit.train_in_test / audit.rows["test"]
        level = "error" if share >= LEAK else "warning"
        found.append(
            (level, f"{audit.train_in_test} of {audit.rows['test']} test questions stand in train ({share:.1%})")
        )
    if audit.dev_in_test:
        same = {_key(row) for row in splits["dev"]} == {_key(row) for row in splits["test"]}
        inside = (
            "dev equals test" if same else f"{audit.dev_in_test} of {audit.rows['dev']} dev questions stand in test"
        )
        found.append(("warning", f"{inside}: whoever selects on dev selects on test (clbench reads no dev)"))
    if spec.labels and audit.rows["train"]:
        even = sum(audit.classes.values()) / len(spec.labels)
        for label in spec.labels:
            if audit.classes.get(label, 0) < LOPSIDED * even:
                found.append(
                    (
                        "warning",
                        f"class '{label}' has {audit.classes.get(label, 0)} of {counted(audit.rows['train'], 'row')}",
                    )
                )
    if audit.cut is not None and audit.cut > MOSTLY:
        found.append(("warning", f"{audit.cut:.0%} of the prompts are shortened to {max_input} tokens"))
    return [Finding(level, spec.name, message) for level, message in found]


def _judge_split(spec: TaskSpec, audit: TaskAudit, split: str, rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = []
    if audit.outside[split]:
        first = next(row for row in rows if _is_outside(spec, row))
        level = "warning" if split == "dev" else "error"
        found.append((level, f"{split}: {audit.outside[split]} labels outside the set, first in {first.place}"))
    if audit.blank[split]:
        first = next(row for row in rows if is_blank(spec, row))
        count = audit.blank[split]
        found.append(
            (
                "warning",
                f"{split}: {counted(count, 'row')} without question or answer, left out; first in {first.place}",
            )
        )
    if audit.duplicates[split]:
        answers: dict[str, set[str]] = {}
        for row in rows:
            answers.setdefault(_key(row), set()).add(row.answers[0])
        unlike = sum(len(of_question) > 1 for of_question in answers.values())
        note = f", {counted(unlike, 'question')} with unlike answers" if unlike else ""
        verb = "repeats" if audit.duplicates[split] == 1 else "repeat"
        found.append(
            ("warning", f"{split}: {counted(audit.duplicates[split], 'row')} {verb} an earlier question{note}")
        )
    return found


def _shared_questions(questions: Mapping[str, Mapping[str, Sequence[str]]]) -> list[Finding]:
    """Return which tasks share questions, from a list of the tasks of each question: the pairs need not be looked through."""
    in_train: dict[str, list[str]] = defaultdict(list)
    for name, splits in questions.items():
        for key in set(splits["train"]):
            in_train[key].append(name)
    leaked: Counter[tuple[str, str]] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    for other, splits in questions.items():
        leaked.update((name, other) for key in set(splits["test"]) for name in in_train.get(key, ()) if name != other)
    for names in in_train.values():
        both.update(combinations(sorted(names), 2))
    found = []
    for name, other in permutations(questions, 2) if leaked or both else ():
        if leaked[name, other]:
            found.append(
                Finding("warning", name, f"{leaked[name, other]} training questions stand in the test of '{other}'")
            )
        if both[name, other]:
            said = f"{both[name, other]} training questions stand in the training rows of '{other}'"
            found.append(Finding("warning", name, said))
    return found


def audit_table(audit: Audit) -> Table:
    """Return the counts as a rich table, one line a task; faults that no task has get no column; `Least` is the rarest label."""
    columns: dict[str, list[str]] = {
        "Task": [task.name for task in audit.tasks],
        **{split.capitalize(): [str(task.rows[split]) for task in audit.tasks] for split in SPLITS},
        "Labels": [str(len(task.classes)) if task.classes else "text" for task in audit.tasks],
        "Least": [_smallest_class(task) for task in audit.tasks],
        "Cut": ["" if task.cut is None else f"{task.cut:.0%}" for task in audit.tasks],
        "Longest": ["" if task.longest is None else str(task.longest) for task in audit.tasks],
    }
    faults = {
        "Dup.\ntrain": [task.duplicates["train"] for task in audit.tasks],
        "Dup.\ntest": [task.duplicates["test"] for task in audit.tasks],
        "Dev in\ntest": [task.dev_in_test for task in audit.tasks],
        "Train in\ntest": [task.train_in_test for task in audit.tasks],
        "Outside": [sum(task.outside.values()) for task in audit.tasks],
        "Blank": [sum(task.blank.values()) for task in audit.tasks],
    }
    columns |= {name: [str(count or "") for count in counts] for name, counts in faults.items() if any(counts)}
    table = Table(title="Audit", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        of_task = name == "Task"
        table.add_column(name, justify="left" if of_task else "right", no_wrap=not of_task, overflow="fold")
    for line in zip(*columns.values(), strict=True):
        table.add_row(*line)
    return table


def _smallest_class(task: TaskAudit) -> str:
    return f"{min(task.classes.values()) / sum(task.classes.values()):.0%}" if task.classes else ""

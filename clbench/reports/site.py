"""The report as a folder of static files: its page, a page a run, and a page for each task of a run with the wrong answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clbench.atomic import make_folder, write_atomically
from clbench.errors import ClbenchError
from clbench.records.answers import read_answers
from clbench.records.fates import FATES, Question, count_fates, questions_of
from clbench.records.files import RunFiles
from clbench.records.record import Record
from clbench.records.summary import cost_text, environment_text
from clbench.reports.leaderboard import changed_options, recipe_text
from clbench.reports.page import Report, make_page, shown
from clbench.reports.plots.series import stream_title
from clbench.reports.published import Published
from clbench.reports.questions import read_questions
from clbench.reports.tables import Cell, Sheet
from clbench.reports.templates import render

HOME, RUNS = "index.html", "runs"
MOST_QUESTIONS = 1000  # on one page
MOST_CHARACTERS = 500  # of a question


@dataclass(frozen=True)
class MatrixCell:
    """A score as a run's page shows it: from 0 (pale) to 10, and where its wrong answers stand."""

    text: str
    shade: int
    link: str = ""


def write_site(report: Report, ledger: Sequence[Published], source: str, output: Path, data: str | None = None) -> Path:
    """Write the site of a report into a folder and return the path of its first page.

    Args:
        data: where the questions lie, if not where the records say; 'none' leaves them out.

    Raises:
        ClbenchError: the folder cannot be written, or there is no such source of published numbers.
    """
    make_folder(output / RUNS)
    links = {record.name: f"{RUNS}/{quote(record.name)}.html" for record in report.records}
    for record in report.records:
        for name, text in pages_of(record, report.folder, data):
            _write(output / RUNS / name, text)
    _write(output / HOME, make_page(report, ledger, source, links))
    return output / HOME


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def pages_of(record: Record, folder: Path, data: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield the pages of a run, each with the name of its file: that of the run, and one a task that has questions."""
    why_not, questions = "", None
    try:
        questions = questions_of(record, read_answers(record, RunFiles(folder, record.name).answers))
    except ClbenchError as error:
        why_not = f"Nothing can be said of single questions: {error}."
    home = f"../{HOME}"
    common = {"record": record, "folder": folder.resolve().name, "home": home, "title": title_of(record)}
    yield (
        f"{record.name}.html",
        render(
            "run.html",
            **common,
            facts=facts_of(record),
            matrix=matrix_of(record, questions),
            linked=questions is not None,
            others=others_sheet(record),
            fates=None if questions is None else fates_sheet(record, questions),
            lost=None if questions is None else lost_sheet(record, questions),
            why_not=why_not,
            recipe=recipe_of(record),
        ),
    )
    texts = read_questions(record, data) if questions else {}
    for number, of_task in enumerate(questions or ()):
        if of_task:
            values = task_values(record, number, of_task, texts.get(record.tasks[number].name, ()))
            page = render("task.html", **common, run=f"{quote(record.name)}.html", **values)
            yield f"{record.name}.{number + 1}.html", page


def title_of(record: Record) -> str:
    """Return a run in a line: its method with the options that were changed, stream and seed."""
    options = changed_options(record)
    method = f"{record.method.name} ({options})" if options else record.method.name
    return f"{method} on {stream_title(record)}, seed {record.seed}"


def facts_of(record: Record) -> list[tuple[str, str]]:
    """Return what there is to know of a run, by names; what the record does not say is left out."""
    metrics = record.metrics
    scores = {"OP": metrics.op, "BWT": metrics.bwt, "forgetting": metrics.forgetting}
    facts = {
        "Record": record.name,
        "Scores": ", ".join(f"{name} {value:.1f}" for name, value in scores.items() if value is not None),
        "Recipe": recipe_text(record),
        "Marks": ", ".join(record.marks),
        "Cost": cost_text(record),
        "Environment": environment_text(record),
        "Finished": record.finished or "",
        "Notes": " ".join(record.notes),
    }
    return [(name, value) for name, value in facts.items() if value]


def matrix_of(record: Record, questions: object) -> list[tuple[str, list[MatrixCell | None]]]:
    """Return the score matrix with the names of its rows; each score leads to its wrong answers, where these are known."""
    lines = []
    for after, (task, row) in enumerate(zip(record.tasks, record.scores, strict=True)):
        cells: list[MatrixCell | None] = []
        for number, score in enumerate(row):
            linked = questions is not None and after >= number
            link = f"{task_link(record, number)}#wrong-{after + 1}" if linked else ""
            cells.append(None if score is None else MatrixCell(f"{score:.1f}", round(score / 10), link))
        lines.append((task.name, cells))
    return lines


def task_link(record: Record, number: int) -> str:
    """Return where, seen from a run's page, the answers to a task stand."""
    return f"{quote(record.name)}.{number + 1}.html"


def fates_sheet(record: Record, questions: Sequence[Sequence[Question]]) -> Sheet:
    """Return what became of each task's questions, in numbers."""
    lines: list[list[str | Cell]] = []
    for number, (task, of_task) in enumerate(zip(record.tasks, questions, strict=True)):
        counts = count_fates(of_task)
        name = Cell(task.name, link=task_link(record, number)) if of_task else task.name
        lines.append([name, str(len(of_task)), *(str(counts[fate]) for fate in FATES)])
    note = (
        "Kept: right once learned and at the end. Forgotten: right at some time, wrong at the end. "
        "Of metrics that are not all or nothing, 50 percent or more is right."
    )
    return Sheet(
        "What became of the questions", ["Task", "Questions", *map(str.capitalize, FATES)], lines, (0,), [note]
    )


def others_sheet(record: Record) -> Sheet | None:
    """Return the scores by the tasks' further metrics, right after learning and at the end; none where no task names any."""

    def shown(score: float | None) -> str:
        return "" if score is None else f"{score:.1f}"

    lines = [
        [task.name, metric, shown(scores[number][number]), shown(scores[-1][number])]
        for number, task in enumerate(record.tasks)
        for metric in task.further_metrics
        for scores in [record.further_scores[metric]]
    ]
    return Sheet("Further scores", ["Task", "Metric", "Learned", "At the end"], lines, left=(0, 1)) if lines else None


def lost_sheet(record: Record, questions: Sequence[Sequence[Question]]) -> Sheet | None:
    """Return after which tasks each task's questions were forgotten, none where none were."""
    names = [task.name for task in record.tasks]
    lines: list[list[str | Cell]] = []
    for number, of_task in enumerate(questions):
        found = [question.lost_after for question in of_task]
        for span in sorted({one for one in found if one is not None}):
            tag = f"{task_link(record, number)}#lost-{span[1] + 1}"
            lines.append([names[number], Cell(when_lost(span, names), link=tag), str(found.count(span))])
    return Sheet("Forgotten", ["Task", "When", "Questions"], lines, left=(0, 1)) if lines else None


def when_lost(span: tuple[int, int], names: Sequence[str]) -> str:
    """Return in words when a question was forgotten, from its last right answer and the next time it was asked."""
    last, asked = span
    return f"by {names[asked]}" if asked == last + 1 else f"between {names[last + 1]} and {names[asked]}"


def recipe_of(record: Record) -> Sheet:
    """Return the settings of a run and the options of its method."""
    values = {**record.all_settings, **{f"option {name}": value for name, value in record.method.options.items()}}
    return Sheet(
        "Settings", ["Setting", "Value"], [[name, shown(value)] for name, value in values.items()], left=(0, 1)
    )


def task_values(record: Record, number: int, questions: Sequence[Question], texts: Sequence[str]) -> dict[str, Any]:
    """Return what the page of a task shows: the questions that were answered wrongly at some time, and which can be chosen."""
    names = [task.name for task in record.tasks]
    wrong = [question for question in questions if not all(question.right.values())]
    listed = wrong[:MOST_QUESTIONS]
    points = list(questions[0].answers)
    said = f"{len(wrong)} of {len(questions)} questions were answered wrongly at some time."
    if len(wrong) > MOST_QUESTIONS:
        said += f" The first {MOST_QUESTIONS} of them are shown."
    if not texts:
        said += " Their texts are left out: the data is not here, or is not the run's."
    return {
        "task": names[number],
        "said": said,
        "choices": choices_of(listed, points, names),
        "texts": bool(texts),
        "points": [names[point] for point in points],
        "lines": [
            {
                "row": question.row,
                "question": texts[question.row][:MOST_CHARACTERS] if texts else "",
                "accepted": " | ".join(question.accepted),
                "answers": [(question.answers[point], question.right[point]) for point in points],
                "fate": fate_text(question, names),
                "tags": " ".join(tags_of(question)),
            }
            for question in listed
        ],
    }


def choices_of(questions: Sequence[Question], points: Sequence[int], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return which questions of a page can be chosen: in words with their number, and by their tag."""
    counted = Counter(tag for question in questions for tag in tags_of(question))
    tags = {"forgotten": "forgotten"} | {f"wrong-{point + 1}": f"wrong after {names[point]}" for point in points}
    return [(f"all ({len(questions)})", "all")] + [(f"{name} ({counted[tag]})", tag) for tag, name in tags.items()]


def tags_of(question: Question) -> list[str]:
    """Return the tags by which a page shows a question; tasks are numbered from 1."""
    tags = [f"wrong-{after + 1}" for after, right in question.right.items() if not right]
    lost = question.lost_after
    return tags if lost is None else [*tags, "forgotten", f"lost-{lost[1] + 1}"]


def fate_text(question: Question, names: Sequence[str]) -> str:
    """Return a question's fate in words, and when it was forgotten."""
    lost = question.lost_after
    return question.fate if lost is None else f"{question.fate} {when_lost(lost, names)}"

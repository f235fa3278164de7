"""Data sets in the hub's own layout, written by hand: parquet files by configuration and split, and a dataset card."""

from pathlib import Path

import pyarrow
import pyarrow.parquet

from clbench.data.catalogue import task_specs

# One row a class, in the hub's columns and label ids; beside each the passage and the label that it must become.
NLI = ("sentence 1: p\nsentence 2: h", {"premise": "p", "hypothesis": "h"})
ROWS = {
    "mnli": [
        ({**NLI[1], "label": 0, "idx": 0}, NLI[0], "entailment"),
        ({**NLI[1], "label": 1, "idx": 1}, NLI[0], "neutral"),
        ({**NLI[1], "label": 2, "idx": 2}, NLI[0], "contradiction"),
    ],
    "cb": [
        ({**NLI[1], "label": 0, "idx": 0}, NLI[0], "entailment"),
        ({**NLI[1], "label": 1, "idx": 1}, NLI[0], "contradiction"),
        ({**NLI[1], "label": 2, "idx": 2}, NLI[0], "neutral"),
    ],
    "rte": [
        ({"sentence1": "a", "sentence2": "b", "label": 0}, "sentence 1: a\nsentence 2: b", "entailment"),
        ({"sentence1": "a", "sentence2": "c", "label": 1}, "sentence 1: a\nsentence 2: c", "contradiction"),
    ],
    "qqp": [
        ({"question1": "How?", "question2": "Why?", "label": 0}, "first sentence: How?\nsecond sentence: Why?", "False"),
        ({"question1": "How?", "question2": "How so?", "label": 1}, "first sentence: How?\nsecond sentence: How so?", "True"),
    ],
    "wic": [
        ({"word": "bank", "sentence1": "A bank.", "sentence2": "The.", "label": 0}, "word: bank\nA bank.\nThe.", "False"),
        ({"word": "sit", "sentence1": "Sit.", "sentence2": "They sit.", "label": 1}, "word: sit\nSit.\nThey sit.", "True"),
    ],
    "copa": [
        (
            {"premise": "It rained.", "choice1": "Wet.", "choice2": "Dry.", "question": "effect", "label": 0},
            'Which sentence is the effect of "It rained."? Choose one between A and B.\nA: Wet.\nB: Dry.',
            "A",
        ),
        (
            {"premise": "He fell.", "choice1": "Sun.", "choice2": "Ice.", "question": "cause", "label": 1},
            'Which sentence is the cause of "He fell."? Choose one between A and B.\nA: Sun.\nB: Ice.',
            "B",
        ),
    ],
    "boolqa": [
        ({"question": "is it", "passage": "No.", "label": 0}, "question: is it\npassage: No.", "False"),
        ({"question": "is it", "passage": "It is.", "label": 1}, "question: is it\npassage: It is.", "True"),
    ],
    "multirc": [
        (
            {"paragraph": "P.", "question": "Q?", "answer": "no", "label": 0},
            "paragraph: P.\nquestion: Q?\ncandidate answer: no",
            "False",
        ),
        (
            {"paragraph": "P.", "question": "Q?", "answer": "yes", "label": 1},
            "paragraph: P.\nquestion: Q?\ncandidate answer: yes",
            "True",
        ),
    ],
    "sst-2": [
        ({"sentence": "dull ", "label": 0}, "Text: dull", "Bad"),
        ({"sentence": "fine ", "label": 1}, "Text: fine", "Good"),
    ],
    "imdb": [({"text": "So dull.", "label": 0}, "So dull.", "Bad"), ({"text": "Fine.", "label": 1}, "Fine.", "Good")],
    "yelp": [
        ({"label": 0, "text": "Awful."}, "Text: Awful.", "very negative"),
        ({"label": 2, "text": "Fair."}, "Text: Fair.", "neutral"),
        ({"label": 4, "text": "Superb."}, "Text: Superb.", "very positive"),
    ],
    "amazon": [
        ({"class_index": 1, "review_title": None, "review_text": "Awful."}, "Title: \nText: Awful.", "very negative"),
        ({"class_index": 4, "review_title": "Good", "review_text": "It is."}, "Title: Good\nText: It is.", "positive"),
    ],
    "agnews": [
        ({"text": "A treaty.", "label": 0}, "Text: A treaty.", "World"),
        ({"text": "A goal.", "label": 1}, "Text: A goal.", "Sports"),
        ({"text": "Shares rise.", "label": 2}, "Text: Shares rise.", "Business"),
        ({"text": "A chip.", "label": 3}, "Text: A chip.", "Science or Technology"),
    ],
    "dbpedia": [
        ({"label": 0, "title": "Acme", "content": " Acme sells."}, "Title: Acme\nText:  Acme sells.", "Company"),
        ({"label": 5, "title": "SS Ann", "content": " A ship."}, "Title: SS Ann\nText:  A ship.", "Mean of Transportation"),
        ({"label": 13, "title": "Emma", "content": " A novel."}, "Title: Emma\nText:  A novel.", "Written Work"),
    ],
    "yahoo": [
        (
            {"id": 1, "topic": 1, "question_title": "Why?", "question_content": "", "best_answer": "So."},
            "Title: Why?\nQuestion: \nAnswer: So.",
            "Science & Mathematics",
        ),
        (
            {"id": 2, "topic": 9, "question_title": "Vote?", "question_content": "When", "best_answer": "Now."},
            "Title: Vote?\nQuestion: When\nAnswer: Now.",
            "Politics & Government",
        ),
    ],
}  # fmt: skip


def data_file(folder: Path, name: str, pattern: str) -> Path:
    """Return the one file of a data set that a pattern of `tasks/hub.toml` finds."""
    return folder / name / pattern.replace("*", "00000-of-00001")


def write_hub(folder: Path, tasks=tuple(ROWS)) -> Path:
    """Write each task's data set with the same rows in train and test; return the folder."""
    for task in tasks:
        hub = task_specs()[task].hub
        card = folder / hub.id / "README.md"
        for pattern in (hub.train, hub.test):
            path = data_file(folder, hub.id, pattern)
            path.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row for row, _, _ in ROWS[task]]), path)
        card.write_text("---\nlicense: unknown\n---\n# A data set in the hub's layout\n")
    return folder

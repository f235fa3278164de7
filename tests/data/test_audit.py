"""The audit: each fault in data made for it, and the public data against an independent count."""

import json

import pytest

from clbench.data.audit import audit_stream
from clbench.data.rows import Row
from clbench.data.sources import Source, open_source
from clbench.data.streams import find_stream
from tests.realdata import REAL, needs_data


class Words:
    """A tokenizer whose tokens are words, and which has no letter z."""

    def count(self, examples):
        return [len(example.prompt.split()) for example in examples]

    def unread(self, texts):
        return [text for text in texts if "判" in text]

    def written(self, texts):
        return [text.replace("z", "") for text in texts]


def audit(rows: dict[str, dict[str, list[tuple[str, str]]]], **options):
    """Audit tasks given as {task: {split: [(passage, answer)]}}."""

    def read(spec, split):
        found = rows[spec.name].get(split, [])
        return [Row(passage, (answer,), f"{split}: row {i}") for i, (passage, answer) in enumerate(found)]

    return audit_stream(Source(read), find_stream(",".join(rows)), **options)


GOOD = [(f"Text: {i}", "Good" if i % 2 else "Bad") for i in range(20)]
NEW = [(f"Text: new {i}", "Good" if i % 2 else "Bad") for i in range(200)]


def messages(result) -> list[str]:
    return [str(finding) for finding in result.findings]


def test_questions_in_letters_that_the_tokenizer_does_not_know():
    foreign = [(f"判 {i}", "Good" if i % 2 else "Bad") for i in range(20)]
    said = "questions cannot be read, the tokenizer not knowing their letters, as of '判 0'"
    result = audit({"sst-2": {"train": foreign, "test": NEW[:10]}}, tokens=Words())
    assert messages(result) == [f"error: sst-2: 20 of 30 {said}"]
    result = audit({"sst-2": {"train": foreign, "test": NEW}}, tokens=Words())
    assert messages(result) == [f"warning: sst-2: 20 of 220 {said}"]


def test_faultless_data_has_no_findings():
    result = audit({"sst-2": {"train": GOOD, "test": NEW}})
    assert result.verdict == {"errors": 0, "warnings": 0, "findings": []}
    (task,) = result.tasks
    assert (task.rows, task.classes) == ({"train": 20, "dev": 0, "test": 200}, {"Bad": 10, "Good": 10})


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"train": GOOD, "test": [*NEW, *GOOD[:3]]}, "error: sst-2: 3 of 203 test questions stand in train (1.5%)"),
        ({"train": GOOD, "test": [*NEW, GOOD[0]]}, "warning: sst-2: 1 of 201 test questions stand in train (0.5%)"),
        ({"train": GOOD, "test": NEW, "dev": NEW[::-1]}, "warning: sst-2: dev equals test: whoever"),
        ({"train": GOOD, "test": NEW, "dev": [*NEW[:7], ("x", "Good")]}, "warning: sst-2: 7 of 8 dev questions stand in test"),
        ({"train": [*GOOD, ("Text:  0\n", "Bad")], "test": NEW}, "warning: sst-2: train: 1 row repeats an earlier question"),
        (
            {"train": [*GOOD, ("Text: 0", "Good")], "test": NEW},
            "warning: sst-2: train: 1 row repeats an earlier question, 1 question with unlike answers",
        ),
        (
            {"train": GOOD, "test": [*NEW, ("x", "Fine")]},
            "error: sst-2: test: 1 labels outside the set, first in test: row 200",
        ),
        ({"train": GOOD, "test": NEW, "dev": [("x", "Fine")]}, "warning: sst-2: dev: 1 labels outside the set"),
        (
            {"train": [*GOOD, ("", "Good"), ("x", "")], "test": NEW},
            "warning: sst-2: train: 2 rows without question or answer, left out; first in train: row 20",
        ),
        ({"train": GOOD[1::2], "test": NEW}, "warning: sst-2: class 'Bad' has 0 of 10 rows"),
    ],
)  # fmt: skip
def test_each_fault_is_found(splits, expected):
    found = messages(audit({"sst-2": splits}))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_questions_that_tasks_share():
    result = audit(
        {"sst-2": {"train": GOOD, "test": NEW}, "imdb": {"train": [*NEW[:3], *GOOD[:2]], "test": [("x", "Bad")]}}
    )
    assert [message for message in messages(result) if "of '" in message] == [
        "warning: imdb: 3 training questions stand in the test of 'sst-2'",
        "warning: imdb: 2 training questions stand in the training rows of 'sst-2'",
    ]


def test_prompts_over_the_limit_and_the_longest():
    result = audit(
        {"sst-2": {"train": [*GOOD[:2], ("Text: " + "x " * 50, "Good")], "test": NEW[:1]}},
        tokens=Words(),
        max_input=30,
    )
    assert (result.tasks[0].cut, result.tasks[0].longest) == (0.25, 16 + 51 + 1)  # instruction, passage, "Answer:"


def test_a_prompt_whose_fixed_text_does_not_fit_is_an_error():
    counts = {"tokens": Words(), "max_input": 17}
    assert messages(audit({"sst-2": {"train": GOOD, "test": NEW}}, **counts)) == [
        "warning: sst-2: 100% of the prompts are shortened to 17 tokens",
        "error: sst-2: instruction and closing line alone take 17 of 17 tokens",
    ]


def test_an_unreadable_file_is_an_error_and_the_rest_is_audited(clbench, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "d" / split).mkdir(parents=True)
        for task in ("sst-2", "imdb"):
            (tmp_path / "d" / split / f"{task}.json").write_text(
                json.dumps([{"input": f"{split} x", "output": "Good"}])
            )
    (tmp_path / "d" / "test" / "imdb.json").write_text("[")
    words = ["audit", "--stream", "imdb,sst-2", "--data", "d", "--backbone", "none"]
    result = clbench(*words)
    assert result.exit_code == 1, result.output
    assert "error: imdb: d/test/imdb.json: cannot be read as JSON" in result.output
    assert "errors: 1, warnings: 3, data: d" in result.output
    content = json.loads(clbench(*words, "--format", "json").output)
    assert content["errors"] == 1
    assert [task["rows"]["test"] for task in content["tasks"]] == [0, 1]


def test_the_command_counts_tokens_and_the_record_keeps_the_verdict(clbench, tiny_run, tiny_folder, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "d" / split).mkdir(parents=True)
        rows = [{"input": "Text: same", "output": "Good"}, {"input": f"Text: {split}", "output": "Bad"}]
        (tmp_path / "d" / split / "sst-2.json").write_text(json.dumps(rows))
    words = ["--stream", "sst-2", "--data", "d"]
    result = clbench("audit", *words, "--backbone", tiny_folder, "--max-input", 16, "--format", "json")
    assert result.exit_code == 1
    content = json.loads(result.output)
    assert content["tasks"][0]["cut"] == 1
    assert content["tasks"][0]["longest"] > 16
    run = clbench(*tiny_run, *words, "--method", "seqlora")
    assert run.exit_code == 0, run.output
    assert "errors in the data: 1; see `clbench audit`" in run.output
    (path,) = (tmp_path / "results").glob("*.json")
    verdict = json.loads(path.read_text())["audit"]
    assert verdict["errors"] == 1
    assert "error: sst-2: 1 of 2 test questions stand in train (50.0%)" in verdict["findings"]


def independent_count(folder, task: str) -> dict[str, int]:
    """Count with nothing of clbench's: the rows of each split and how many dev inputs are in test."""
    content = {}
    for split in ("train", "dev", "test"):
        release = folder / split / f"{task}.json"
        if release.exists():
            content[split] = [row["input"].replace("Answer:", "") for row in json.loads(release.read_text("utf-8"))]
        else:
            rows = json.loads((folder / task / f"{split}.json").read_text("utf-8"))["Instances"]
            content[split] = [row["input"] for row in rows]
    stripped = {split: ["".join(text.split()) for text in texts] for split, texts in content.items()}
    return {
        **{split: len(texts) for split, texts in content.items()},
        "dev in test": len([text for text in stripped["dev"] if text in set(stripped["test"])]),
        "train in test": len([text for text in stripped["test"] if text in set(stripped["train"])]),
    }


@needs_data
@pytest.mark.parametrize(("order", "name"), [("4", "long_sequence"), ("7", "superni")])
def test_the_public_data_is_counted_right(order, name):
    folder = REAL / name
    result = audit_stream(open_source(str(folder)), find_stream(order))
    for task in result.tasks:
        assert independent_count(folder, task.name) == {
            **task.rows,
            "dev in test": task.dev_in_test,
            "train in test": task.train_in_test,
        }
    assert result.errors == 0
    inside = {finding.task for finding in result.findings if "whoever selects on dev" in finding.message}
    assert inside == set(find_stream(order).tasks)
    if order == "4":
        found = messages(result)
        assert any(m.startswith("warning: yahoo: dev equals test") for m in found)
        assert any(m.startswith("warning: mnli: dev: 6 rows without question or answer") for m in found)
        assert "warning: cb: class 'neutral' has 16 of 250 rows" in found

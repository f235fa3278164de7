"""What a run measures beside its tasks is read whole, or refused in a line that names the fault."""

import json

import pytest

from clbench.data.probes import Probes, read_probes
from clbench.errors import ClbenchError


def test_the_embedded_texts_are_english_german_and_code():
    found = read_probes("embedded", None)
    assert [one.name for one in found.texts] == ["english", "german", "code"]
    assert [word in one.text for one, word in zip(found.texts, ("ferry", "Gärtnerei", "def collate"), strict=True)] == [
        True
    ] * 3
    assert found.digest == read_probes(" embedded,", None).digest
    assert sum(len(one.text.encode()) for one in found.texts) > 300_000


def test_files_stand_beside_the_embedded_texts_and_every_letter_counts(tmp_path):
    (tmp_path / "mine.txt").write_text("one", "utf-8")
    found = read_probes(f"embedded,{tmp_path / 'mine.txt'}", None)
    assert [(one.name, one.text) for one in found.texts[3:]] == [("mine", "one")]
    (tmp_path / "mine.txt").write_text("One", "utf-8")
    assert read_probes(f"embedded,{tmp_path / 'mine.txt'}", None).digest != found.digest
    assert read_probes(None, None) == Probes()
    assert Probes().digest is None


def test_questions_have_a_prompt_and_one_or_several_answers(tmp_path):
    rows = [{"prompt": "Say yes.", "answers": ["yes", "yes!"]}, {"prompt": "2 + 2?", "answers": "4"}]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (task,) = read_probes(None, str(tmp_path / "asked.jsonl")).questions
    assert [(one.prompt, one.accepted) for one in task.test] == [("Say yes.", ("yes", "yes!")), ("2 + 2?", ("4",))]
    assert (task.name, task.metric, task.labels, task.train) == ("asked", "exact_match", (), ())


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([{"prompt": "x"}], "row 0: expected a text 'prompt' and a list of texts 'answers'"),
        ([{"prompt": "x", "answers": [4]}], "row 0: expected a text 'prompt'"),
        ([{"prompt": "x", "answers": ["4"]}, {"prompt": " ", "answers": ["4"]}], "row 1: the prompt is empty"),
        ([{"prompt": "x", "answers": [" "]}], "row 0: every answer is empty"),
        ([], "no rows"),
    ],
)
def test_malformed_questions_are_refused(tmp_path, rows, fault):
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    with pytest.raises(ClbenchError, match=fault):
        read_probes(None, str(tmp_path / "asked.jsonl"))


def test_missing_empty_and_equally_named_texts_are_refused(tmp_path):
    (tmp_path / "german.txt").write_text("x", "utf-8")
    (tmp_path / "empty.txt").write_text(" \n", "utf-8")
    for given, fault in (
        ("german.txt,embedded", "two probes are called 'german'"),
        ("no.txt", "no such file; 'embedded' is the embedded text"),
        ("empty.txt", "the text is empty"),
    ):
        with pytest.raises(ClbenchError, match=fault):
            read_probes(",".join(str(tmp_path / part) if "." in part else part for part in given.split(",")), None)

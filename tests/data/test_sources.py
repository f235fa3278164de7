"""Sources: the folder layout, its faults, the limits."""

import json
from collections import Counter
from pathlib import Path

import pytest

from clbench.data.catalogue import task_specs
from clbench.data.rows import Row
from clbench.data.sources import (
    check_labels_round_trip,
    choose_rows,
    fingerprint,
    fingerprint_questions,
    load_tasks,
    open_source,
)
from clbench.data.streams import find_stream
from clbench.errors import ClbenchError
from tests.realdata import REAL as DATA

REAL = DATA / "long_sequence"
ROW = {"id": "1", "instruction": "ignored", "input": "Text: good\n\nAnswer:", "output": "Good"}


def write_folder(folder: Path, train: object, test: object) -> Path:
    for split, content in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / split / "sst-2.json").write_text(text)
    return folder


def test_a_release_folder_gives_canonical_prompts(tmp_path):
    folder = write_folder(tmp_path, [ROW], [{**ROW, "output": "Bad"}])
    (task,) = load_tasks(str(folder), find_stream("sst-2"))
    assert task.train[0].prompt.endswith("Option: Good, Bad.\nText: good\nAnswer:")
    assert (task.train[0].target, task.test[0].target) == ("Good", "Bad")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "cannot be read as JSON"),
        ({"rows": []}, "expected a JSON list of rows, found dict"),
        ([], "the list of rows is empty"),
        ([ROW, 3], "row 1: expected an object, found int"),
        ([{"input": "x"}], r"row 0: no text field 'output' \(fields: input\)"),
        ([{**ROW, "input": None}], "row 0: no text field 'input'"),
        ([{**ROW, "output": "great"}], r"row 0: answer 'great' is not in the label set \(Good, Bad\)"),
    ],
)
def test_faults_of_a_file_name_file_and_row(tmp_path, content, message):
    folder = write_folder(tmp_path, [ROW], content)
    with pytest.raises(ClbenchError, match=rf"sst-2\.json: {message}"):
        load_tasks(str(folder), find_stream("sst-2"))


def test_missing_folder_split_and_file(tmp_path):
    with pytest.raises(ClbenchError, match="not 'toy' and not a folder"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "train").mkdir()
    with pytest.raises(ClbenchError, match="no folder 'test'"):
        open_source(str(tmp_path))
    write_folder(tmp_path, [ROW], [ROW])
    with pytest.raises(ClbenchError, match=r"agnews\.json: no such file \(tasks there: sst-2\)"):
        load_tasks(str(tmp_path), find_stream("agnews"))


def test_limits_are_class_balanced_and_seeded():
    rows = [Row(str(i), ("ab"[i % 10 == 0],)) for i in range(200)]  # 20 of b, 180 of a
    chosen = choose_rows(rows, 30, seed=1)
    assert Counter(row.answers[0] for row in chosen) == {"a": 15, "b": 15}
    assert chosen == choose_rows(rows, 30, seed=1) != choose_rows(rows, 30, seed=2)
    assert chosen == sorted(chosen, key=lambda row: int(row.passage))
    assert Counter(row.answers[0] for row in choose_rows(rows, 60, 1)) == {"a": 40, "b": 20}  # b runs out
    assert choose_rows(rows, 500, 1) == rows


def test_free_text_is_drawn_uniformly():
    rows = [Row(str(i), (f"answer {i:03}",)) for i in range(200)]
    chosen = [int(row.passage) for row in choose_rows(rows, 50, 1, balanced=False)]
    assert len(set(chosen)) == 50
    assert chosen == sorted(chosen)
    assert max(chosen) > 150  # a balanced draw would take the first answers of the alphabet


def test_seeds_change_the_training_rows_and_never_the_test_rows():
    first, second = (load_tasks("toy", find_stream("sst-2"), 10, 10, seed)[0] for seed in (1, 2))
    assert first.test == second.test
    assert first.train != second.train
    assert fingerprint([first]) != fingerprint([second])
    assert fingerprint_questions([first]) == fingerprint_questions([second])


def test_labels_that_normalise_to_one_are_refused():
    with pytest.raises(ClbenchError, match="same answer after normalisation"):
        check_labels_round_trip(["Yes", "yes."])


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (set CLBENCH_DATA)")
@pytest.mark.parametrize("name", [name for name, spec in task_specs().items() if spec.hub])
def test_real_prompts_are_those_of_the_release(name):
    task = load_tasks(str(REAL), find_stream(name))[0]
    for split, examples in (("train", task.train), ("test", task.test)):
        rows = json.loads((REAL / split / f"{name}.json").read_text("utf-8"))
        assert len(rows) == len(examples)
        for row, example in zip(rows, examples, strict=True):
            released = (row["instruction"] + row["input"]).split()
            assert example.prompt.split() == released  # equal but for white space
            assert example.target == row["output"]

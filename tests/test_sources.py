"""Sources: the folder layout, its faults, the limits."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from clbench.errors import ClbenchError
from clbench.sources import (
    check_labels_round_trip,
    fingerprint,
    fingerprint_questions,
    limit_rows,
    load_tasks,
    open_source,
)
from clbench.streams import find_stream, task_specs

REAL = Path(os.environ.get("CLBENCH_DATA", Path(__file__).parents[2] / "shared" / "data")) / "long_sequence"
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
    rows = [(str(i), "ab"[i % 10 == 0]) for i in range(200)]  # 20 of b, 180 of a
    chosen = limit_rows(rows, 30, seed=1)
    assert Counter(target for _, target in chosen) == {"a": 15, "b": 15}
    assert chosen == limit_rows(rows, 30, seed=1) != limit_rows(rows, 30, seed=2)
    assert chosen == sorted(chosen, key=lambda row: int(row[0]))
    assert Counter(target for _, target in limit_rows(rows, 60, 1)) == {"a": 40, "b": 20}  # b runs out
    assert limit_rows(rows, 500, 1) == rows


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
@pytest.mark.parametrize("name", task_specs())
def test_real_prompts_are_those_of_the_release(name):
    task = load_tasks(str(REAL), find_stream(name))[0]
    for split, examples in (("train", task.train), ("test", task.test)):
        rows = json.loads((REAL / split / f"{name}.json").read_text("utf-8"))
        assert len(rows) == len(examples)
        for row, example in zip(rows, examples, strict=True):
            released = (row["instruction"] + row["input"]).split()
            assert example.prompt.split() == released  # equal but for white space
            assert example.target == row["output"]


def test_validation_rows_are_held_out_of_train_and_asked_instead_of_the_test_rows(tmp_path):
    stream = find_stream("sst-2,agnews")
    plain = load_tasks("toy", stream, None, 10)
    held = [load_tasks("toy", stream, 50, 10, seed, 20) for seed in (1, 2)]
    for task, one, two in zip(plain, *held, strict=True):
        assert one.test == two.test  # the same questions for every seed
        assert one.train != two.train
        assert (len(one.test), len(one.train)) == (20, 50)
        assert set(one.test) <= set(task.train)
        passages = {example.passage for example in one.test}
        assert not passages & {example.passage for example in (*one.train, *two.train, *task.test)}
        counts = Counter(example.target for example in one.test)
        assert max(counts.values()) - min(counts.values()) <= 1
    folder = write_folder(tmp_path, [ROW, {**ROW, "input": "Text: dire", "output": "Bad"}, ROW], "not read")
    (task,) = load_tasks(str(folder), find_stream("sst-2"), validation=1)
    assert task.test[0].passage not in {example.passage for example in task.train}
    with pytest.raises(ClbenchError, match="validation 3 leaves none of the 3 training rows of task 'sst-2'"):
        load_tasks(str(folder), find_stream("sst-2"), validation=3)

"""Records as one value: chosen, as rows, as data frames."""

import json

import msgspec
import pytest

from clbench.errors import ClbenchError
from clbench.records.answers import answer_bytes
from clbench.records.collection import Records, load_records
from tests.conftest import REFERENCE

RECORDS = load_records(REFERENCE)
ONE = RECORDS.filter(method="ewc", seed=1)


def test_a_folder_is_read_in_the_order_of_its_files():
    assert [record.name for record in RECORDS] == sorted(path.stem for path in REFERENCE.glob("*.json"))
    assert len(RECORDS) > 40
    assert RECORDS[-1].name == list(RECORDS)[-1].name
    with pytest.raises(ClbenchError, match="no results folder 'nowhere'"):
        load_records("nowhere")


def test_they_are_chosen_by_columns_of_the_runs_and_by_a_function():
    assert {(record.method.name, record.seed) for record in ONE} == {("ewc", 1)}
    assert len(ONE) == 1
    assert len(RECORDS.filter(lambda record: record.method.name == "ewc", epochs=5)) == 3
    assert len(RECORDS.filter(epochs=6)) == 0
    assert {record.method.name for record in RECORDS.filter(**{"option.base": "lorareplay"})} == {"migu"}
    assert Records([]).filter(seed=1) == Records([])
    with pytest.raises(ClbenchError, match=r"no column of the runs: 'metod'; did you mean 'method'"):
        RECORDS.filter(metod="ewc")


def test_a_row_a_run():
    frame = RECORDS.to_pandas()
    assert len(frame) == len(RECORDS)
    row, record = ONE.rows()[0], ONE[0]
    assert row["op"] == record.metrics.op == pytest.approx(sum(record.scores[-1]) / len(record.tasks))
    assert row["learn_seconds"] == pytest.approx(sum(record.timings.learn_seconds))
    assert (row["epochs"], row["option.strength"]) == (5, record.method.options["strength"])
    means = frame.groupby("method").op.mean()
    assert means["ewc"] == pytest.approx(sum(r.metrics.op for r in RECORDS.filter(method="ewc")) / 3)


def test_a_row_a_cell_that_was_evaluated():
    rows = ONE.rows("cells")
    assert len(rows) == 7  # the diagonal and the last row of four tasks
    record = ONE[0]
    assert all(row["score"] == record.scores[row["after"]][row["number"]] for row in rows)
    assert [row["task"] for row in rows[-4:]] == [task.name for task in record.tasks]
    assert {row["after_task"] for row in rows[-4:]} == {record.tasks[-1].name}


def test_a_row_an_answer_whose_scores_make_the_cells():
    frame, record = ONE.to_pandas("answers"), ONE[0]
    lines = answer_bytes(REFERENCE / f"{record.name}.answers.jsonl").decode("utf-8").splitlines()
    assert len(frame) == len(lines)
    first = json.loads(lines[0])
    assert (frame.answer[0], frame.accepted[0], frame.row[0]) == (first["answer"], (first["target"],), 0)
    for (after, number), score in frame.groupby(["after", "number"]).score.mean().items():
        assert score == pytest.approx(record.scores[after][number])


def test_answers_need_a_folder_and_a_kind_must_be_one():
    with pytest.raises(ClbenchError, match=r"use load_records\(FOLDER\) or Records\(records, FOLDER\)"):
        Records(ONE).rows("answers")
    assert Records(ONE, REFERENCE).rows("answers") == ONE.rows("answers")
    with pytest.raises(ClbenchError, match=r"no kind of rows: 'cell'; did you mean 'cells'\?"):
        ONE.rows("cell")


def test_a_notebook_shows_a_table_and_escapes_what_records_say():
    shown = Records([*ONE, RECORDS[0]])._repr_html_()
    assert shown.count("<tr") == 3
    assert f"<td>{ONE[0].metrics.op:.1f}</td>" in shown
    odd = msgspec.structs.replace(ONE[0], name="<script>")
    assert "<script>" not in Records([odd])._repr_html_()

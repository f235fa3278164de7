"""The leaderboard: what is averaged, what is not, and the formats."""

import csv
import io
import json

import pytest
from rich.console import Console

from clbench.records.collection import load_records
from clbench.reports.leaderboard import leaderboard, make_rows, render, row_values
from tests.conftest import REFERENCE
from tests.records.examples import record

EWC = load_records(REFERENCE).filter(method="ewc")


def test_orders_and_seeds_of_one_recipe_are_averaged():
    rows = make_rows(
        [record(seed=1, op=70, bwt=-4), record(seed=2, op=74, bwt=-6), record(stream="long:2", op=72, bwt=-5)]
    )
    assert len(rows) == 1
    assert (rows[0].op, rows[0].op_std, rows[0].bwt, rows[0].bwt_std, rows[0].runs) == (72, 2, -5, 1, 3)


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 3},
        {"learning_rate": 1e-3},
        {"limit_train": 10},
        {"backbone": "t5-large"},
        {"data": "folder"},
        {"weight_decay": 0.1},
        {"options": {"top": 0.1}},
        {"fields": {"digests": {"questions": "other rows"}}},
        {"fields": {"protocol_version": 2}},
        {"stream": "standard:1"},
        {"method": "mtl"},
    ],
)
def test_different_recipes_are_never_averaged(other):
    rows = make_rows([record(), record(**{"seed": 2, **other})])
    assert [row.runs for row in rows] == [1, 1]


def probed(first, last, seed=1, digest="d", **fields):
    """A record of one task with a text and questions, before and after it."""
    about = {"rows": 3, "digest": digest}
    texts = [
        {"name": n, "objective": "spans", "values": [20.0, 20.0 * grown], **about}
        for n, grown in (("a", first), ("b", last))
    ]
    asked = {"name": "q", "objective": "answers", "values": [40.0, 25.0], **about}
    return record(seed=seed, fields={"probes": [*texts, asked], "metrics": {"op": 70, "fwt": 3}, **fields})


def test_columns_are_chosen_and_probes_are_averaged_as_ratios():
    rows = make_rows([probed(2.0, 8.0), probed(1.0, 1.0, seed=2)])
    values = row_values(rows, ["fwt", "probe", "questions"])[0]
    assert (values["fwt"], values["fwt_std"], values["questions"]) == (3, 0, -15)
    assert values["probe"] == pytest.approx(
        (300 + 0) / 2
    )  # the texts grew fourfold in the first run, by the geometric mean
    text = render(rows, "md", columns=["op", "fwt", "probe"])
    assert "| Method | Long Sequence OP | Long Sequence FWT | Long Sequence probe, % |" in text
    assert "| 70.0 ± 0.0 | 3.0 ± 0.0 | 150.0 ± 212.1 |" in text
    assert "growth of perplexity" in text
    other = make_rows([probed(2.0, 8.0), probed(1.0, 1.0, seed=2, digest="other")])
    assert [row.runs for row in other] == [2]
    assert row_values(other, ["probe"])[0]["probe"] is None  # of two texts there is no mean
    assert "probe" not in row_values(rows)[0]


def costly(steps, replayed, seconds, seed):
    """A record of two tasks and what learning them cost."""
    of = dict.fromkeys(("forward_batches", "forward_rows", "backward_batches", "rows", "kept_bytes"), 1)
    costs = [{**of, "replayed_rows": rows, "own_seconds": 0.0} for rows in replayed]
    learned = [{} if count is None else {"steps": count} for count in steps]
    return record(seed=seed, fields={"costs": costs, "learned": learned, "timings": {"learn_seconds": seconds}})


def test_what_learning_cost_is_a_sum_over_tasks_and_a_mean_over_runs():
    columns = ["op", "steps", "seconds", "replayed"]
    rows = make_rows([costly([600, 500], [0, 40], [2.0, 5.0], 1), costly([600, 700], [0, 60], [4.0, 1.0], 2)])
    values = row_values(rows, columns)[0]
    assert (values["steps"], values["seconds"], values["replayed"], values["replayed_std"]) == (
        1200, 6, 50, pytest.approx(14.14, abs=0.01)
    )  # fmt: skip
    text = render(rows, "md", columns=columns)
    assert "| 70.0 ± 0.0 | 1,200 | 6 | 50 |" in text
    assert "seconds hold for one machine" in text
    untold = make_rows([costly([600, None], [0, 40], [2.0, 5.0], 1)])
    assert row_values(untold, columns)[0]["steps"] is None  # not 600
    assert "| 70.0 | - | 7 | 40 |" in render(untold, "md", columns=columns)


def test_unknown_columns_are_refused(clbench):
    for given, fault in (("op,bwd", "no column 'bwd'"), ("op,op", "each once"), ("", "no column ''")):
        result = clbench("leaderboard", "--results", REFERENCE, "--columns", given)
        assert result.exit_code == 2
        assert fault in result.stderr
    assert "FWT" in clbench("leaderboard", "--results", REFERENCE, "--columns", "OP, fwt").stdout


def test_the_recipe_names_the_protocol_version_where_it_varies():
    old = record(fields={"protocol_version": 0})
    assert {row.recipe.rpartition(", ")[2] for row in make_rows([record(), old])} == {"protocol=0", "protocol=1"}
    assert "protocol" not in make_rows([old])[0].recipe


def test_settings_that_vary_are_shown():
    recipes = {row.recipe for row in make_rows([record(), record(weight_decay=0.1)])}
    assert {"weight_decay=0.0" in text for text in recipes} == {True, False}


@pytest.mark.parametrize(
    ("own", "shown"), [({"learning_rate": 0.3}, "lr 0.3"), ({"learning_rate": None}, "lr 0.001"), ({}, "lr 0.001")]
)
def test_the_recipe_shows_the_rate_that_was_used(own, shown):
    (row,) = make_rows([record(method="lfpt5", options=own, learning_rate=1e-3)])
    assert shown in row.recipe.split(", ")


def test_of_the_same_order_and_seed_the_newest_counts():
    rows = make_rows(
        [record(op=80, fields={"finished": "2026-01-03"}), record(op=10, fields={"finished": "2026-01-02"})]
    )
    assert (rows[0].op, rows[0].runs, rows[0].op_std) == (80, 1, None)


def test_an_option_that_has_become_the_default_is_not_shown_once_a_newer_run_says_so():
    early = record(seed=1, options={"top": 0.1}, fields={"finished": "2026-01-01"})
    late = record(seed=2, options={"top": 0.1}, fields={"finished": "2026-01-02", "method": {"changed_options": {}}})
    assert [row.label for row in make_rows([early])] == ["rkif (top=0.1)"]
    for records in ([early, late], [late, early]):
        assert [(row.label, row.runs) for row in make_rows(records)] == [("rkif", 2)]


def test_a_run_from_before_an_option_existed_belongs_to_its_default():
    early = record(seed=1, options={"top": 0.1}, fields={"finished": "2025-12-31"})
    late = record(seed=2, options={"top": 0.1, "new": "a"}, fields={"method": {"changed_options": {"top": 0.1}}})
    other = record(seed=3, options={"top": 0.1, "new": "b"})
    assert [(row.label, row.runs) for row in make_rows([other, early, late])] == [
        ("rkif (top=0.1)", 2),
        ("rkif (top=0.1, new=b)", 1),
    ]


def test_an_undefined_bwt_is_a_dash():
    (row,) = make_rows([record(method="mtl", bwt=None)])
    assert row.bwt is None
    assert "| mtl | 70.0 | - | 1 |" in render([row], "md")


def test_streams_stand_beside_each_other_best_first():
    rows = make_rows(
        [
            record("seqlora", op=30),
            record("rkif", op=60),
            record("rkif", stream="standard:1", op=50),
            record("rkif", seed=2, op=64),
        ]
    )
    lines = render(rows, "md").split("\n")
    assert (
        lines[0]
        == "| Method | Standard CL OP | Standard CL BWT | Long Sequence OP | Long Sequence BWT | Runs | Recipe |"
    )
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | --- |"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0][:6] == ["rkif", "50.0", "-5.0", "62.0 ± 2.8", "-5.0 ± 0.0", "1+2"]
    assert cells[1][:6] == ["seqlora", "-", "-", "30.0", "-5.0", "1"]


def test_stream_filter():
    records = [record(), record(stream="standard:1"), record(stream="long:2", seed=3)]
    assert [row.runs for row in make_rows(records, "long")] == [2]
    assert [row.runs for row in make_rows(records, "long:2")] == [1]
    assert make_rows(records, "superni") == []


def test_json_and_csv_carry_the_numbers():
    rows = make_rows([record(op=70.123), record(seed=2, op=71.0)])
    (loaded,) = json.loads(render(rows, "json"))
    assert {"method", "stream", "backbone", "data", "op", "op_std", "bwt", "bwt_std", "runs"} <= set(loaded)
    assert loaded["op"] == pytest.approx((70.123 + 71) / 2)
    (line,) = csv.DictReader(io.StringIO(render(rows, "csv")))
    assert (line["method"], float(line["op"]), line["runs"]) == ("rkif", loaded["op"], "2")


def test_latex_is_a_booktabs_table_with_escapes():
    text = render(make_rows([record(options={"outer_steps": 1}), record(seed=2, options={"outer_steps": 1})]), "latex")
    assert r"\begin{tabular}{lrrrl}" in text
    assert r"rkif (outer\_steps=1) & 70.0 $\pm$ 0.0" in text
    body = [line for line in text.split("\n") if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {4}


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_table_loses_nothing_in_a_narrow_terminal(width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(make_rows([record("lorareplay"), record("lorareplay", "standard:1")]), "table"))
    text = console.export_text()
    assert "…" not in text
    squeezed = "".join(text.split())
    assert "70.0" in squeezed
    assert "-5.0" in squeezed


def test_validation_records_stay_apart_and_a_setting_that_did_not_exist_is_none():
    rows = make_rows([record(), record(seed=2, validation=50, evaluate_on="validation")])
    assert [row.runs for row in rows] == [1, 1]
    assert sum("50 validation rows" in row.recipe for row in rows) == 1
    older = record(seed=2, fields={"settings": {"backbone": "mini", "data": "toy"}})
    (row,) = make_rows([record(), older])
    assert row.runs == 2


def test_an_option_at_its_default_is_shown_only_where_other_records_had_another_default():
    default = {"method": {"changed_options": {}}}
    old = record(options={"top": 0.3}, fields=default)
    assert [row.options for row in make_rows([old])] == [""]
    both = make_rows([old, record(options={"top": 0.1})])
    assert sorted(row.options for row in both) == ["", "top=0.1"]
    both = make_rows([old, record(options={"top": 0.1}, fields=default)])
    assert sorted(row.options for row in both) == ["top=0.1", "top=0.3"]


def test_a_leaderboard_prints_shows_and_gives_rows():
    board = leaderboard(EWC, "standard")
    (row,) = board.rows
    values = [record.metrics.op for record in EWC]
    assert (row["method"], row["runs"]) == ("ewc", 3)
    assert row["op"] == pytest.approx(sum(values) / 3)
    assert f"{row['op']:.1f} ± {row['op_std']:.1f}" in str(board)
    assert f"<td>{row['op']:.1f} ± {row['op_std']:.1f}</td>" in board._repr_html_()
    assert leaderboard(EWC, "long").rows == []
    assert str(leaderboard([]))


def test_tuned_runs_share_a_board_whatever_was_found_and_say_so():
    note = "20 trials on order 2"
    made = [
        record("rkif", op=50.0, learning_rate=1e-3, epochs=5, tuned=note),
        record("ewc", op=40.0, learning_rate=0.00234567, epochs=10, tuned=note),
        record("ewc", op=30.0, learning_rate=1e-3, epochs=10, tuned=note),
        record("ewc", op=20.0, learning_rate=1e-3, epochs=5),
    ]
    rows = make_rows(made)
    assert [row.recipe.endswith(f"tuned: {note}") for row in rows] == [True, True, True, False]
    assert "lr 0.001" in rows[3].recipe
    tuned = rows[:3]
    assert [row.op for row in tuned] == [50.0, 40.0, 30.0]  # not averaged, the best first
    assert len({row.board for row in tuned}) == 1 < len({row.board for row in rows})
    assert tuned[1].options == "learning_rate=0.00235, epochs=10"


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"batching": "shuffled"}, True), ({"template": "release"}, True), ({"template": "plain"}, False)],
)
def test_the_recipe_says_what_changes_how_all_is_trained_or_asked(setting, said):
    [(name, value)] = setting.items()
    assert (f"{name}={value}" in make_rows([record(**setting)])[0].recipe) == said

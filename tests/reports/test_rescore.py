"""Rescoring: every measure by hand from a small record, the missing ones named, and the real command on real records."""

import gzip
import json

import pytest

from clbench.records.metrics import backward_transfer_over_all, forward_transfer
from clbench.records.record import encode_record
from tests.conftest import EXAMPLE_PLUGINS, REFERENCE
from tests.records.examples import record

UNTRAINED = EXAMPLE_PLUGINS / "untrained.py"


def test_bwt_over_t_and_fwt_by_hand():
    scores = [[80, None, None], [70, 60, None], [50, 55, 90]]
    assert backward_transfer_over_all(scores) == pytest.approx(-35 / 3)  # (-30 - 5 + 0) / 3, as SAPT's score.py
    assert forward_transfer(scores, [70, 70, 70]) == pytest.approx((10 - 10 + 20) / 3)
    assert forward_transfer(scores, [70, None, 70]) is None


def write(folder, name, tasks, answers, scores, method="seqlora", seed=1, **settings):
    """Write a record with its answers: `answers` maps (after, task) to answers, all targets are 'Good'."""
    fields = {
        "name": name,
        "tasks": [{"name": task, "version": 1, "metric": "exact_match", "test": 2} for task in tasks],
        "scores": scores,
    }
    made = record(method, ",".join(tasks), seed, op=scores[-1][-1], bwt=None, fields=fields, **settings)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_bytes(encode_record(made))
    rows = [
        {"after": i, "task": tasks[j], "row": number, "answer": answer, "target": "Good"}
        for (i, j), given in answers.items()
        for number, answer in enumerate(given)
    ]
    (folder / f"{name}.answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def values(result):
    assert result.exit_code == 0, result.output
    return {row["name"]: row for row in json.loads(result.output)}


@pytest.fixture
def small(tmp_path):
    """Two tasks of two rows: after the first 100; at the end 50 and 50, of which one answer only without case and a full stop."""
    answers = {(0, 0): ["Good", "good."], (1, 0): ["Good", "Bad"], (1, 1): ["GOOD", "Bad"]}
    write(tmp_path / "r", "pair", ["sst-2", "imdb"], answers, [[100.0, None], [50.0, 50.0]], "rkif")
    return tmp_path / "r"


def test_every_measure_by_hand(clbench, small):
    write(small, "one", ["sst-2"], {(0, 0): ["Bad", "Good"]}, [[50.0]])
    write(small, "two", ["imdb"], {(0, 0): ["Bad", "Bad"]}, [[0.0]], seed=2)
    write(
        small,
        "zero",
        ["imdb", "sst-2"],
        {(1, 0): ["Good", "x"], (1, 1): ["x", "x"]},
        [[None, None], [50.0, 0.0]],
        "untrained",
    )
    found = values(
        clbench("rescore", "pair", "--results", small, "--zero-shot", small / "zero.json", "--format", "json")
    )
    expected = {
        "OP": 50, "OP over rows": 50, "BWT": -50, "BWT over T": -25, "forgetting": 50,
        "FWT, single task": ((100 - 50) + (50 - 0)) / 2,
        "FWT, zero-shot": ((100 - 0) + (50 - 50)) / 2,
        "exact_match op": 50, "exact_match_lower op": 50, "exact_match_verbatim op": 25,
        "exact_match_lower bwt": 0,  # "good." does not count, so nothing is lost
        "exact_match_verbatim bwt": 0, "token_f1 op": 50,
    }  # fmt: skip
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected)


def test_what_is_missing_is_named(clbench, small):
    write(small, "one", ["sst-2"], {(0, 0): ["Bad", "Good"]}, [[50.0]], epochs=3)  # another recipe
    found = values(clbench("rescore", "pair", "--results", small, "--format", "json"))
    assert found["FWT, single task"]["value"] is None
    assert found["FWT, single task"]["note"] == "no record of sst-2, imdb alone by this recipe"
    assert "no zero-shot score of sst-2, imdb" in found["FWT, zero-shot"]["note"]
    write(
        small,
        "last",
        ["sst-2", "imdb"],
        {(1, 0): ["Good", "x"], (1, 1): ["Good", "x"]},
        [[None, None], [50.0, 50.0]],
        "mtl",
    )
    found = values(clbench("rescore", "last", "--results", small, "--format", "json"))
    assert found["BWT"]["value"] is None
    assert found["BWT"]["note"] == "not asked right after learning: sst-2"
    assert found["OP"]["value"] == 50


def test_a_line_separator_within_an_answer_ends_no_line(clbench, small):
    path = small / "pair.answers.jsonl"
    first, rest = path.read_text("utf-8").split("\n", 1)
    row = {**json.loads(first), "answer": "a\u2028b\x85c\r"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n" + rest, "utf-8")
    result = clbench("rescore", "pair", "--results", small)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: "", "0 answers to the 2 questions of task 1 after task 1"),
        (lambda text: text.split("\n", 1)[1], "1 answers to the 2 questions"),
        (
            lambda text: text.replace('"task": "imdb"', '"task": "yelp"'),
            "line 5 is no answer of this record: KeyError('yelp')",
        ),
        (lambda text: "{" + text, "line 1 is no answer of this record"),
    ],
)
def test_damaged_answers_are_one_line(clbench, small, edit, message):
    path = small / "pair.answers.jsonl"
    path.write_text(edit(path.read_text()))
    result = clbench("rescore", "pair", "--results", small)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_answers_may_be_compressed(clbench, small):
    plain = clbench("rescore", "pair", "--results", small).output
    path = small / "pair.answers.jsonl"
    content = path.read_bytes()
    packed = path.with_name("pair.answers.jsonl.gz")
    packed.write_bytes(gzip.compress(content))
    path.unlink()
    for words in (["rescore", "pair"], ["explain", "pair"], ["leaderboard", "--significance"]):
        result = clbench(*words, "--results", small)
        assert result.exit_code == 0, result.output
        assert words[0] != "rescore" or result.output == plain
    for damaged in (packed.read_bytes()[:40], b"no gzip", b"\x1f\x8b" + bytes(20)):
        packed.write_bytes(damaged)
        result = clbench("rescore", "pair", "--results", small)
        assert result.exit_code == 2
        assert "pair.answers.jsonl.gz: no whole gzip file" in " ".join(result.output.split())
    path.write_bytes(content)  # a run that was made anew: its answers count
    assert clbench("rescore", "pair", "--results", small).output == plain


def test_the_reference_records_come_out_as_recorded(clbench):
    for path in [*REFERENCE.glob("*s1*.json"), *(REFERENCE / "toy").glob("*s1*.json")]:
        found = values(clbench("rescore", path, "--format", "json"))
        for name in ("OP", "BWT", "forgetting"):
            assert found[name]["value"] == pytest.approx(found[name]["recorded"], abs=1e-9, nan_ok=True), (path, name)
    assert "exact_match_lower" in clbench("rescore", path).output
    assert clbench("rescore", path, "--format", "latex").output.count(r"\toprule") == 2


def test_a_run_that_trains_nothing_gives_the_zero_shot_scores(clbench, tiny_run, tmp_path):
    stream = [*tiny_run, "--stream", "sst-2,agnews"]
    assert clbench(*stream, "--method", "seqlora").exit_code == 0
    assert clbench(*stream, "--method", "untrained", "--plugin", UNTRAINED, "--matrix", "op").exit_code == 0
    (untrained,) = (tmp_path / "results").glob("*untrained*.json")
    (trained,) = (tmp_path / "results").glob("*seqlora*.json")
    found = values(clbench("rescore", trained, "--zero-shot", untrained, "--format", "json"))
    zero = json.loads(untrained.read_text())["scores"][-1]
    learned = [json.loads(trained.read_text())["scores"][j][j] for j in range(2)]
    assert found["FWT, zero-shot"]["value"] == pytest.approx((learned[0] - zero[0] + learned[1] - zero[1]) / 2)

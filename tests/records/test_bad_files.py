"""One bad file among records stops nothing: it is passed over with one warning that names it."""

import json
import os

import pytest

from clbench.errors import ClbenchError
from clbench.records.answers import AnswerRow
from clbench.records.files import RunFiles, read_record
from clbench.records.record import encode_record
from tests.records.examples import record

DEEP = "[" * 100_000


def write_good(folder, file="good", **fields):
    """Write a record of one question with its answer."""
    made = record(
        "seqlora", op=100.0, bwt=None, fields={"tasks": [{"name": "agnews", "version": 1, "test": 1}], **fields}
    )
    answer = AnswerRow(after=0, task="agnews", row=0, answer="World", target="World")
    RunFiles(folder, file).write_record(made, [answer])
    return made


def make_bad(path, kind):
    """Put something at the path that is no record."""
    match kind:
        case "folder":
            path.mkdir()
        case "dangling link":
            path.symlink_to(path.with_name("nowhere"))
        case "pipe":
            os.mkfifo(path)
        case "resource fork":
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        case "link to a device":
            path.symlink_to("/dev/zero")
        case _:
            path.write_text(kind, "utf-8")


BAD = ["", "{", '{"a": 1}', "[]", "\ufffd", DEEP, '{"schema_version": 2, "x": ' + DEEP, "folder", "dangling link", "pipe",
       "resource fork", "link to a device"]  # fmt: skip
COMMANDS = {
    "leaderboard": ["leaderboard"],
    "significance": ["leaderboard", "--significance"],
    "compare": ["compare"],
    "plot": ["plot", "overall"],
    "report": ["report"],
    "rescore": ["rescore", "good"],
    "show": ["show", "good"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_files_stop_no_command(clbench, tmp_path, name):
    folder = tmp_path / "results"
    folder.mkdir()
    write_good(folder)
    for number, kind in enumerate(BAD):
        make_bad(folder / f"bad{number}.json", kind)
    result = clbench(*COMMANDS[name], "--results", folder)
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.split("\n") if line.startswith("warning: passed over: ")]
    if name != "show":
        assert len(said) == len(BAD)
        assert all(sum(f"bad{number}.json" in line for line in said) == 1 for number in range(len(BAD)))
    assert "seqlora" in result.stdout or name in ("plot", "report", "rescore")


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": []},
        {"tasks": [{"name": "agnews", "version": 1}] * 2},
        {"scores": []},
        {"scores": [[1.0, 2.0]]},
        {"scores": [["x"]]},
        {"settings": {"epochs": "many"}},
        {"settings": {"learning_rate": "x"}},
        {"settings": {"backbone": 3}},
        {"settings": {"backbone": None}},
        {"verified_answers": [{"after": 0, "task": "agnews", "rows": 0, "differing": 0}]},
        {"seed": "1"},
        {"method": 7},
        {"timings": {"learn_seconds": "long"}},
    ],
    ids=str,
)
def test_a_record_whose_parts_do_not_fit_is_none(tmp_path, change):
    content = json.loads(encode_record(record()))
    for name, value in change.items():
        content[name] = {**content[name], **value} if name == "settings" else value
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ClbenchError, match=r"r\.json: not a clbench record: "):
        read_record(tmp_path / "r.json")


def test_a_name_in_a_record_leads_nowhere(clbench, tmp_path):
    """The files beside a record are found by the record's own file name."""
    outside, folder = tmp_path / "x", tmp_path / "results" / "inner"
    folder.mkdir(parents=True)
    write_good(tmp_path, "x")
    write_good(folder, "good", name="../../x")
    (folder / "good.answers.jsonl").unlink()
    assert read_record(folder / "good.json").name == "good"
    result = clbench("leaderboard", "--significance", "--results", folder)
    assert result.exit_code == 0
    assert f"no answers '{folder / 'good.answers.jsonl'}'" in result.stderr
    assert str(outside) not in result.stderr


def test_missing_answers_cost_their_row_alone_its_standing(clbench, tmp_path):
    for name, method in (("a", "rkif"), ("b", "ewc")):
        write_good(tmp_path, name, method={"name": method})
    (tmp_path / "a.answers.jsonl").unlink()
    result = clbench("leaderboard", "--significance", "--results", tmp_path, "--format", "json")
    assert result.exit_code == 0
    ranks = {row["method"]: row["rank"] for row in json.loads(result.stdout)}
    assert ranks == {"rkif": None, "ewc": 1}
    assert result.stderr.count("\n") == 1
    assert "warning: no interval and no rank of rkif: no answers " in result.stderr


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_an_answer_may_hold_what_python_takes_for_a_line_s_end(clbench, tmp_path, character):
    made = record(op=100.0, bwt=None, fields={"tasks": [{"name": "agnews", "version": 1, "test": 1}]})
    text = f"a{character}b"
    rows = [AnswerRow(after=0, task="agnews", row=0, answer=text, target=text)]
    RunFiles(tmp_path, "r").write_record(made, rows)
    for words in (["rescore", "r"], ["leaderboard", "--significance"]):
        result = clbench(*words, "--results", tmp_path)
        assert result.exit_code == 0, result.output
        assert "100.0" in result.stdout
        assert result.stderr == ""

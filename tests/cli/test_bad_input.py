"""What a user can get wrong about data: each is one line that names file and row, with exit code 2, and leaves no record."""

import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from clbench.data.catalogue import task_specs
from tests.hubfolder import data_file, write_hub

GOOD_ROWS = [{"text": f"t{i}", "label": ["no", "yes"][i % 2]} for i in range(6)]
TASK = {"train": "r.json", "test": "r.json", "prompt": "{text}", "target": "label", "labels": ["no", "yes"]}
SST = {"input": "Text: a\nAnswer:", "output": "Good"}
QUOREF = "task002_quoref_answer_generation"


def toml(tasks: dict[str, dict], **top: object) -> str:
    """Write a stream file."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
    for name, task in tasks.items():
        lines += [f"[tasks.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in task.items())]
    return "\n".join(lines) + "\n"


def with_task(**changes: object) -> str:
    """Write a stream of one task; a change to None leaves the key out."""
    return toml({"t": {key: value for key, value in {**TASK, **changes}.items() if value is not None}})


# (the stream file, the content of the data file that it names, the message)
STREAMS = {
    "no TOML": ("[tasks", None, "s.toml: cannot be read as TOML: "),
    "unknown key": ('nam = "x"', None, "s.toml: no key 'nam'; did you mean 'name'?"),
    "no tasks": ('name = "x"', None, "s.toml: no tasks; each is a table [tasks.NAME]"),
    "task twice": ("[tasks.t]\n[tasks.t]\n", None, "s.toml: cannot be read as TOML: Cannot declare ('tasks', 't') twice"),
    "a mark in the name": (toml({"t": TASK}, name="s~1"), None, "s.toml: the name 's~1' has a '~', after which the seed"),
    "order names another": (toml({"t": TASK}, order=["u"]), None, "s.toml: order: no task 'u' (known: t)"),
    "order no list": (toml({"t": TASK}, order="t"), None, "s.toml: 'order' must be a list of task names"),
    "name of ours": (toml({"t": TASK}, name="long:9"), None, "the name 'long:9' belongs to a built-in stream"),
    "version no number": (toml({"t": TASK}, version="1"), None, "s.toml: 'version' must be a whole number, not '1'"),
    "task no table": ('tasks.t = "x"', None, "s.toml: task 't': expected a table [tasks.t]"),
    "unknown task key": (with_task(metrics="x"), None, "s.toml: task 't': no key 'metrics'; did you mean 'metric'?"),
    "no prompt": (with_task(prompt=None), None, "s.toml: task 't': no 'prompt'"),
    "prompt no text": (with_task(prompt=3), None, "s.toml: task 't': 'prompt' must be a text, not 3"),
    "prompt without column": (with_task(prompt="Hi"), None, "s.toml: task 't': prompt: names no column"),
    "prompt with open brace": (with_task(prompt="{text"), None, "s.toml: task 't': prompt: expected '}' before end"),
    "absent column": (with_task(prompt="{txt}"), GOOD_ROWS, "r.json: row 0: no column 'txt'; did you mean 'text'?"),
    "absent target": (with_task(target="lable"), GOOD_ROWS, "r.json: row 0: no column 'lable'; did you mean 'label'?"),
    "labels no list": (with_task(labels="no"), None, "s.toml: task 't': 'labels' must be a list of texts, not 'no'"),
    "label no text": (with_task(labels=[0, 1]), None, "task 't': 'labels' must be a list of texts; 0 is not a text"),
    "label twice": (with_task(labels=["a", "a"]), None, "s.toml: task 't': 'labels' names a label twice"),
    "labels that are one": (with_task(labels=["no", "No", "yes"]), GOOD_ROWS, "labels ['no', 'No'] are the same answer"),
    "label not in set": (
        with_task(),
        [*GOOD_ROWS, {"text": "x", "label": "maybe"}],
        "r.json: row 6: answer 'maybe' is not in the label set (no, yes)",
    ),
    "unknown metric": (with_task(metric="rogue_l"), GOOD_ROWS, "no metric 'rogue_l'; did you mean 'rouge_l'?"),
    "max_answer zero": (with_task(max_answer=0), None, "s.toml: task 't': 'max_answer' must be at least 1, not 0"),
    "missing file": (with_task(train="none.csv"), GOOD_ROWS, "none.csv: no such file"),
    "unknown format": (with_task(train="r.xlsx"), None, "r.xlsx: no format '.xlsx'"),
    "wrong JSON": (with_task(), "[{", "r.json: cannot be read as JSON: "),
    "JSON no list": (with_task(), {"rows": []}, "r.json: expected a JSON list of rows, found dict"),
    "JSON row no object": (with_task(), [{"text": "a", "label": "no"}, 3], "r.json: row 1: expected an object, found int"),
    "empty split": (with_task(), [], "r.json: the list of rows is empty"),
    "wrong type": (with_task(), [{"text": {"a": 1}, "label": "no"}], "row 0: column 'text' holds a dict, expected a text"),
    "only empty lists": (with_task(), [{"text": "a", "label": []}, {"text": "b", "label": [""]}], "row 0: no row has both a"),
    "key twice": (with_task(), '[{"text": "a", "label": "no", "label": "yes"}]', "an object names the key 'label' twice"),
    "NaN": (with_task(), '[{"text": NaN, "label": "no"}]', "r.json: row 0: column 'text' holds nan, which is no number"),
    "only empty rows": (with_task(), [{"text": "", "label": "no"}], "r.json: row 0: no row has both a question and an answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_of_ones_own(clbench, tmp_path, tiny_run, name):
    text, rows, message = STREAMS[name]
    (tmp_path / "s.toml").write_text(text)
    if rows is not None:
        (tmp_path / "r.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    for words in (
        [*tiny_run, "--method", "seqlora", "--stream", "s.toml"],
        ["streams", "check", "s.toml", "--backbone", "none"],
    ):
        expect_error(clbench(*words), message)
    assert not list(tmp_path.rglob("*.answers.jsonl"))


# (file name, its content, the message)
FILES = {
    "jsonl line": ("r.jsonl", b'{"text": "a", "label": "no"}\n\n{"text"\n', "r.jsonl: row 1: cannot be read as JSON"),
    "jsonl no object": ("r.jsonl", b"[1]\n", "r.jsonl: row 0: expected an object, found list"),
    "jsonl empty": ("r.jsonl", b"\n", "r.jsonl: no rows"),
    "jsonl half a character": (
        "r.jsonl",
        b'{"text": "a\\ud800", "label": "no"}',
        "r.jsonl: row 0: column 'text': half a character",
    ),
    "jsonl deep": (
        "r.jsonl",
        b'{"text": ' + b"[" * 100_000,
        "r.jsonl: row 0: cannot be read as JSON: nested too deeply",
    ),
    "json deep": ("r.json", b"[" * 100_000, "r.json: cannot be read as JSON: nested too deeply"),
    "csv too short": ("r.csv", b"text,label\na,no\nb\n", "r.csv: row 1: 1 fields, but the header names 2"),
    "csv too long": ("r.csv", b"text,label\na,no,x\n", "r.csv: row 0: 3 fields, but the header names 2"),
    "csv open quote": ("r.csv", b'text,label\n"a,no\n', "r.csv: row 0: cannot be read as CSV: "),
    "csv latin-1": ("r.csv", "text,label\nü,no\n".encode("latin-1"), "r.csv: cannot be read as UTF-8: "),
    "csv header alone": ("r.csv", b"text,label\n", "r.csv: no rows"),
    "tsv with commas": (
        "r.tsv",
        b"text,label\na,no\n",
        "r.tsv: row 0: no column 'text'; did you mean 'text,label'? (known: text,label)",
    ),
    "parquet that is none": ("r.parquet", b"text", "r.parquet: cannot be read as parquet: "),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_ones_own(clbench, tmp_path, name):
    file, content, message = FILES[name]
    (tmp_path / file).write_bytes(content)
    (tmp_path / "s.toml").write_text(with_task(train=file, test=file))
    expect_error(clbench("streams", "check", "s.toml", "--backbone", "none"), message)


# (files by name, the words after `run`, the message)
FOLDERS = {
    "no such folder": ({}, ["--data", "none"], "no data 'none': not 'toy' and not a folder, nor 'hub' or 'hub:FOLDER'"),
    "a file": ({"d": SST}, ["--data", "d"], "no data 'd': not 'toy' and not a folder"),
    "no layout": ({"d/x.json": [SST]}, [], "d: not a folder in a known layout (rkif: {train,test}/TASK.json; trace: "),
    "unknown layout": ({"d/train/sst-2.json": [SST]}, ["--layout", "kif"], "no choice for setting 'layout': 'kif'"),
    "no test folder": ({"d/train/sst-2.json": [SST]}, [], "d: no folder 'test'; expected train/TASK.json"),
    "task missing": (
        {"d/train/imdb.json": [SST], "d/test/imdb.json": [SST]},
        [],
        "sst-2.json: no such file (tasks there: imdb)",
    ),
    "rkif field": (
        {"d/train/sst-2.json": [SST, {"input": "x"}], "d/test/sst-2.json": [SST]},
        [],
        "d/train/sst-2.json: row 1: no text field 'output' (fields: input)",
    ),
    "olora task missing": ({"d/SC/imdb/train.json": [SST]}, [], "d: no folder GROUP/sst-2 (tasks there: imdb)"),
    "olora field": ({"d/SC/SST-2/train.json": [{"text": "a"}]}, [], "row 0: no text field 'label' (fields: text)"),
    "sapt task missing": ({"d/imdb/train.json": {"Instances": [SST]}}, [], "d: no folder 'sst-2' (tasks there: imdb)"),
    "sapt no instances": ({"d/sst2/train.json": [SST]}, [], "expected an object with the field 'Instances', found list"),
    "sapt empty": ({"d/sst2/train.json": {"Instances": []}}, [], "train.json: Instances: the list of rows is empty"),
    "sapt output": (
        {f"d/{QUOREF}/train.json": {"Instances": [{"input": "a", "output": []}]}},
        ["--stream", QUOREF],
        "row 0: field 'output' must be a text or a list of texts",
    ),
    "no data set on the hub": ({}, ["--data", "hub", "--stream", QUOREF], f"task '{QUOREF}' has no data set on the hub"),
    "no copy of the hub": ({}, ["--data", "hub:d"], "d: no folder 'nyu-mll/glue' (a copy of the hub's data set)"),
    "hub unreachable": ({}, ["--data", "hub"], "hub data set 'nyu-mll/glue' cannot be reached and is not in the cache"),
    "evaluate on nothing": ({}, ["--data", "toy", "--evaluate-on", "validation"], "needs --validation N"),
    "validation takes all": ({}, ["--data", "toy", "--validation", "100000"], "--validation 100000 leaves nothing of its"),
    "negative validation": ({}, ["--data", "toy", "--validation", "-1"], "'validation' takes a whole number of at least 0"),
    "zero per class": ({}, ["--data", "toy", "--train-per-class", "0"], "'train_per_class' takes a whole number of at"),
    "toy of SuperNI": ({}, ["--data", "toy", "--stream", QUOREF], f"task '{QUOREF}' has no toy data; give its folder"),
    "another metric": ({}, ["--superni-metric", "bleu"], "no choice for setting 'superni_metric': 'bleu'"),
    "no stream file": ({}, ["--stream", "none.toml"], "no stream file 'none.toml'; `clbench streams new none.toml`"),
    "data beside a stream": (
        {"s.toml": with_task(), "r.json": GOOD_ROWS},
        ["--stream", "s.toml", "--data", "toy"],
        "stream 's' names its own files; leave out the setting 'data'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_or_a_setting(clbench, tmp_path, tiny_run, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    files, words, message = FOLDERS[name]
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    given = [
        *([] if "--stream" in words else ["--stream", "sst-2"]),
        *([] if "--data" in words or "toml" in str(words) else ["--data", "d"]),
    ]
    expect_error(clbench(*tiny_run, "--method", "seqlora", *given, *words), message)
    assert not list(tmp_path.rglob("*.answers.jsonl"))


@pytest.mark.parametrize("file", ["s.toml", "r.json", "r.jsonl", "r.csv", "r.parquet"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(clbench, tmp_path, file):
    if file != "s.toml":
        (tmp_path / "s.toml").write_text(with_task(train=file, test=file))
    os.mkfifo(tmp_path / file)
    expect_error(clbench("streams", "check", "s.toml", "--backbone", "none"), f"{file}: ")


def test_a_deep_stream_file(clbench, tmp_path):
    (tmp_path / "s.toml").write_text("x = " + "[" * 100_000)
    expect_error(clbench("streams", "check", "s.toml"), "s.toml: cannot be read as TOML: nested too deeply")


def test_a_stream_s_names_form_no_path(clbench, tmp_path, tiny_run):
    (tmp_path / "r.json").write_text(json.dumps(GOOD_ROWS))
    (tmp_path / "s.toml").write_text(toml({'"../../x"': {**TASK, "labels": ["no", "yes"]}}, name="../../up"))
    result = clbench(
        *tiny_run, "--method", "seqlora", "--stream", "s.toml", "--results", "deep/er/results", "--save-adapter"
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "s.toml", "deep"}
    assert {path.name for path in (tmp_path / "deep" / "er").iterdir()} == {"results"}


COMMANDS = {
    "new on a file": (["streams", "new", "s.toml"], "s.toml already exists; choose another name"),
    "new without ending": (["streams", "new", "s.yaml"], "'s.yaml': a stream file ends in .toml"),
    "check of nothing": (["streams", "check", "none.toml"], "no stream file 'none.toml'"),
    "audit of both": (
        ["audit", "--order", "4", "--stream", "long:2"],
        "--order 4 is long:1, not --stream long:2; give one",
    ),
    "audit order": (["audit", "--order", "0"], "no order '0' (known: 1, 2, 3, 4, 5, 6, 7, 8, 9)"),
    "audit data": (["audit", "--data", "none", "--backbone", "none"], "no data 'none'"),
    "audit backbone": (["audit", "--backbone", "no/where"], "no backbone 'no/where'"),
    "leaderboard": (["leaderboard", "--stream", "s"], "no stream 's'"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command(clbench, tmp_path, name):
    words, message = COMMANDS[name]
    (tmp_path / "s.toml").write_text("")
    expect_error(clbench(*words), message)


def test_a_column_that_the_hub_s_file_lacks(clbench, tmp_path, tiny_run):
    folder = write_hub(tmp_path / "hub", ["sst-2"])
    hub = task_specs()["sst-2"].hub
    path = data_file(folder, hub.id, hub.test)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": "x", "label": 1}]), path)
    result = clbench(*tiny_run, "--method", "seqlora", "--stream", "sst-2", "--data", "hub:hub")
    expect_error(result, "nyu-mll/glue/sst2/validation-*.parquet: no column 'sentence' (columns: text, label)")


def expect_error(result, message: str) -> None:
    """Expect one line with the message and exit code 2."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.output
    assert message in lines[0]
    assert "Traceback" not in result.output


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_are_named_with_what_may_help(clbench, tiny_run, precision):
    words = [*tiny_run, "--method", "seqlora", "--stream", "sst-2", "--learning-rate", "1e38", "--precision", precision]
    result = clbench(*words)
    expect_error(result, "method 'seqlora' failed on task 'sst-2': the gradient of 'encoder.block.0.")
    expect_error(
        result, "is not finite, first seen in step 2; before that a weight had grown to inf: try a lower learning rate"
    )


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("l2p", ["pool=1000000000"], "option 'pool' of method 'l2p' takes a whole number from 1 to 10000, not"),
        ("l2p", ["pool=10000", "length=3"], "soft prompts of 30000 vectors in all are too many; at most 20000"),
        ("l2p", ["pool=4", "top=4", "length=300"], "a soft prompt of 1200 vectors is too long; at most 1024"),
        ("lfpt5", ["prompt_length=1000000000"], "option 'prompt_length' of method 'lfpt5' takes a whole number from 1 to 30000"),
        ("lfpt5", ["prompt_length=1025"], "a soft prompt of 1025 vectors is too long; at most 1024"),
        ("moelora", ["experts=10000"], "10000 blocks of rank 2 are one adapter of rank 20000; at most 4096"),
        ("sapt", ["bottleneck=1000000000"], "option 'bottleneck' of method 'sapt' takes a whole number from 1 to 20000"),
        ("vrmcl", ["inner_steps=1000000000"], "option 'inner_steps' of method 'vrmcl' takes a whole number from 1 to 10000"),
    ],
    ids=str,
)  # fmt: skip
def test_a_size_that_no_machine_has(clbench, tiny_run, method, options, message):
    words = [word for option in options for word in ("--set", option)]
    expect_error(clbench(*tiny_run, "--method", method, "--stream", "sst-2", *words), message)

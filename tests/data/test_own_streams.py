"""A user's own stream: from `clbench streams new` to a run, by what the README says; templates; plugins' metrics."""

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from clbench.data.own_streams import read_stream
from clbench.data.sources import load_tasks
from clbench.data.templates import Template
from clbench.errors import ClbenchError
from clbench.records.collection import load_records
from clbench.records.files import read_record
from clbench.records.record import AuditVerdict

TICKETS = [
    {"subject": f"No {i}", "text": f"The {'invoice' if i % 2 else 'screen'} is wrong", "team": ["technical", "billing"][i % 2]}
    for i in range(12)
]  # fmt: skip
SUMMARIES = [{"document": f"Long text {i}", "summary": [f"Text {i}", f"It is {i}"]} for i in range(12)]


def write_tickets(folder: Path) -> None:
    """Write the files that the stream of `clbench streams new` names, as CSV and JSONL."""
    for split, rows in (("train", slice(0, 8)), ("test", slice(8, 12))):
        with (folder / f"tickets_{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(TICKETS[0]))
            writer.writeheader()
            writer.writerows(TICKETS[rows])
        lines = "".join(json.dumps(row) + "\n" for row in SUMMARIES[rows])
        (folder / f"summaries_{split}.jsonl").write_text(lines)


def test_a_new_stream_is_checked_and_runs(clbench, tiny_run, tiny_folder, tmp_path):
    written = clbench("streams", "new", "support.toml")
    assert written.exit_code == 0, written.output
    assert "clbench streams check support.toml" in written.output
    write_tickets(tmp_path)

    checked = clbench("streams", "check", "support.toml", "--backbone", tiny_folder, "--max-input", 40)
    assert checked.exit_code == 0, checked.output
    text = " ".join(checked.output.split())
    assert (
        "Which team should handle the ticket? Option: billing, technical. Subject: No 0 The screen is wrong Answer:"
        in text
    )
    assert "-> technical" in text
    assert "Summarise. Long text 0 Summary: -> " in text
    assert "shortened to 40; target" in text
    assert "prompt 3, task tickets" in text

    words = [*tiny_run, "--method", "lorareplay", "--stream", "support.toml"]
    result = clbench(*words)
    assert result.exit_code == 0, result.output
    assert "Stream support: tickets > summaries" in result.output
    (path,) = (tmp_path / "results").glob("*.json")
    record = read_record(path)
    assert [(task.name, task.metric, task.version) for task in record.tasks] == [
        ("tickets", "exact_match", 1),
        ("summaries", "rouge_l", 1),
    ]
    assert record.settings["data"] == "support.toml"
    assert record.audit == AuditVerdict(errors=0, warnings=0)
    answers = [json.loads(line) for line in path.with_suffix(".answers.jsonl").read_text().splitlines()]
    assert next(row["references"] for row in answers if row["task"] == "summaries") == ["Text 8", "It is 8"]
    assert all(row["id"].startswith("test:") for row in answers)
    assert clbench("leaderboard", "--stream", "support").exit_code == 0
    assert "already finished" in clbench(*words).output

    changed = (tmp_path / "support.toml").read_text().replace('metric = "rouge_l"', 'metric = "token_f1"')
    (tmp_path / "support.toml").write_text(changed)
    assert "already finished" not in clbench(*words).output


def test_every_format_gives_the_same_examples(tmp_path):
    rows = [{"text": 'a "b", ü\nc', "label": 1}, {"text": "d", "label": 0}]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    (tmp_path / "r.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    for name, delimiter in (("r.csv", ","), ("r.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["label", "text"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    found = set()
    for name in ("r.json", "r.jsonl", "r.csv", "r.tsv", "r.parquet"):
        (tmp_path / "s.toml").write_text(
            f'[tasks.t]\ntrain = "{name}"\ntest = "{name}"\nprompt = "Q: {{text}}\\nA:"\ntarget = "label"\n'
            'labels = ["no", "yes"]\nlabel_names = { 0 = "no", 1 = "yes" }\n'
        )
        (task,) = load_tasks("", read_stream(tmp_path / "s.toml"))
        found.add(task.train)
    (examples,) = found
    assert [(example.prompt, example.target) for example in examples] == [
        ('Q: a "b", ü\nc\nA:', "yes"),
        ("Q: d\nA:", "no"),
    ]


def test_the_order_and_the_files_folder_are_those_of_the_stream_file(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "r.json").write_text('[{"x": "q", "y": "a"}]')
    task = 'train = "r.json"\ntest = "r.json"\nprompt = "{x}"\ntarget = "y"\n'
    (tmp_path / "deep" / "s.toml").write_text(f'order = ["b", "a"]\n[tasks.a]\n{task}[tasks.b]\n{task}')
    stream = read_stream(tmp_path / "deep" / "s.toml")
    assert (stream.name, stream.tasks, stream.family) == ("s", ("b", "a"), "s")
    assert load_tasks("", stream)[0].train[0].prompt == "q"


def test_head_and_tail_of_a_template_are_kept_and_the_middle_is_filled():
    template = Template("{{Ask}}: {a}\nand {b b}; {a}. End")
    assert template.columns == ("a", "b b")
    assert (template.head, template.tail) == ("{Ask}: ", ". End")
    assert template.passage({"a": "1", "b b": "{2}"}) == "1\nand {2}; 1"
    assert template.fill({"a": "1", "b b": "2"}) == "{Ask}: 1\nand 2; 1. End"


@pytest.mark.parametrize("text", ["{a", "a}", "{}", "{a!r}", "{a:3}", "{ }"])
def test_a_template_that_is_none_is_refused(text):
    with pytest.raises(ClbenchError, match=r"braces|expected '}'"):
        _ = Template(text).columns


def test_a_plugin_s_metric_scores_a_task(clbench, tiny_run, tmp_path):
    write_tickets(tmp_path)
    clbench("streams", "new", "s.toml")
    text = (tmp_path / "s.toml").read_text().replace('metric = "rouge_l"', 'metric = "length"')
    (tmp_path / "s.toml").write_text(text)
    (tmp_path / "p.py").write_text(
        "from clbench import hookimpl\n@hookimpl\ndef metrics():\n    return {'length': lambda answer, target: 12.5}\n"
    )
    words = [*tiny_run, "--method", "seqlora", "--stream", "s.toml"]
    assert "no metric 'length'" in clbench(*words).output
    result = clbench(*words, "--plugin", "p.py")
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "results").glob("*.json")
    rows = [json.loads(line) for line in path.with_suffix(".answers.jsonl").read_text().splitlines()]
    answered = [bool(row["answer"].strip()) for row in rows if row["after"] == 1 and row["task"] == "summaries"]
    assert json.loads(path.read_text())["scores"][1][1] == 12.5 * sum(answered) / len(answered)
    assert load_records(tmp_path / "results").rows("answers")[-1]["score"] == 12.5 * answered[-1]
    assert clbench("streams", "check", "s.toml", "--backbone", "none", "--plugin", "p.py").exit_code == 0


def test_the_olora_sample_runs_as_a_stream_of_its_own(clbench, tiny_run, tmp_path):
    """The layout of O-LoRA needs no reader: its files are JSON lists of {sentence, label}."""
    (tmp_path / "CB").mkdir()
    rows = [{"label": ["yes", "no"][i % 2], "sentence": f"sentence {i}"} for i in range(8)]
    (tmp_path / "CB" / "train.json").write_text(json.dumps(rows))
    (tmp_path / "CB" / "test.json").write_text(json.dumps([{**row, "sentence": row["sentence"] + "!"} for row in rows]))
    (tmp_path / "s.toml").write_text(
        '[tasks.cb]\ntrain = "CB/train.json"\ntest = "CB/test.json"\ntarget = "label"\nlabels = ["yes", "no"]\n'
        'prompt = "Is it so? Option: yes, no.\\n{sentence}\\nAnswer:"\n'
    )
    result = clbench(*tiny_run, "--method", "seqlora", "--stream", "s.toml")
    assert result.exit_code == 0, result.output

"""Texts that a tokenizer cannot write are said; control tokens in data are plain text."""

import json
from pathlib import Path

import pytest

from clbench.data.tasks import Example
from clbench.encoding.encoder import Encoder
from clbench.encoding.round_trip import written
from clbench.model.backbone import load_tokenizer
from clbench.records.files import read_record

STREAM = """
name = "own"
[tasks.label]
train = "label.json"
test = "label.json"
prompt = "{text}"
target = "label"
labels = ["%s", "plain"]
[tasks.free]
train = "free.json"
test = "free.json"
prompt = "{text}"
target = "answer"
"""


@pytest.fixture
def own_stream(tmp_path):
    """A function that writes a stream of a label and free text and returns its file's name."""

    def write(label="nice", answer="well", name="own.toml"):
        rows = [{"text": f"text {i}", "label": (label, "plain")[i % 2]} for i in range(8)]
        (tmp_path / "label.json").write_text(json.dumps(rows), "utf-8")
        rows = [{"text": f"text {i}", "answer": ("good", answer)[i % 2]} for i in range(8)]
        (tmp_path / "free.json").write_text(json.dumps(rows), "utf-8")
        (tmp_path / name).write_text(STREAM % label, "utf-8")
        return name

    return write


@pytest.mark.parametrize("name", ["backbone", "llama"])
@pytest.mark.parametrize("token", ["</s>", "<s>", "<pad>", "<unk>"])
def test_special_tokens_in_data_are_plain_text(name, token, request):
    backbone = request.getfixturevalue(name)
    encoder = backbone.encoder(512, 64, "plain")
    (found,) = encoder.encode([Example("Topic?\n", f"before {token} after", f"a {token} b")])
    special = set(backbone.tokenizer.all_special_ids)
    inside = found.input_ids[1:] if backbone.is_decoder else found.input_ids[:-1]
    assert not special & set(inside)
    assert not special & set(found.labels[:-1])
    assert token.strip("</>") in backbone.tokenizer.decode(found.labels, skip_special_tokens=True).split()[1]
    assert found.labels[-1] == backbone.tokenizer.eos_token_id


def test_a_sentinel_of_t5_can_be_an_answer():
    tokenizer = load_tokenizer("mini")
    assert written(tokenizer, ["<extra_id_0>", "fine"]) == ["<extra_id_0>", "fine"]
    (found,) = Encoder(tokenizer, 64, 16).encode([Example("", "text", "<extra_id_0>")])
    assert tokenizer.decode(found.labels, skip_special_tokens=True) == "<extra_id_0>"


@pytest.mark.parametrize(("label", "back"), [("naïve", "nave"), ("новости", "и")])
def test_a_label_that_cannot_be_written_is_refused_before_training(label, back, own_stream, clbench, tmp_path):
    file = own_stream(label)
    result = clbench("run", "--method", "seqlora", "--stream", file, "--epochs", "1", "--max-answer", "4")
    assert result.exit_code == 2
    reason = f"cannot write 1 of 2 labels: '{label}', which comes back as '{back}'"
    assert reason in " ".join(result.output.split())
    assert not list(tmp_path.glob("results/*.checkpoint"))
    finding = f"error: label: 1 of 2 labels cannot be written: '{label}', which comes back as '{back}'"
    assert finding in clbench("streams", "check", file).output
    result = clbench("audit", "--stream", file)
    assert result.exit_code == 1
    assert finding in result.output
    assert "cannot be written" not in clbench("audit", "--stream", file, "--backbone", "none").output


def test_an_answer_that_cannot_be_written_is_said(own_stream, clbench, tmp_path):
    file = own_stream(answer="naïve")
    finding = "warning: free: 1 of 2 answers cannot be written: 'naïve', which comes back as 'nave'"
    assert finding in clbench("audit", "--stream", file).output
    result = clbench("run", "--method", "seqlora", "--stream", file, "--epochs", "1", "--max-answer", "4")
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("results/*[0-9a-f].json")
    record = read_record(path)
    assert "unwritable answers" in record.marks
    assert "task 'free': 4 of 8 test answers cannot be written: 'naïve', which comes back as 'nave'" in record.notes


def test_an_instruction_that_does_not_fit_is_said_before_the_first_task_is_learned(clbench, tiny_run):
    words = [word for word in tiny_run if word != "96"]  # the value of --max-input
    words.remove("--max-input")
    result = clbench(*words, "--method", "seqlora", "--stream", "sst-2,dbpedia", "--max-input", 40, "--limit-test", 2)
    assert result.exit_code == 2
    assert "error: task 'dbpedia': max_input 40 is too short: the instruction" in result.stderr
    assert "task 1/2" not in result.stderr
    assert not list(Path("results").glob("*.checkpoint"))

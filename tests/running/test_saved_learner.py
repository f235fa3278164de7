"""Saved runs, through the real command: as a PEFT adapter on a fresh base, and loaded as a learner of their method."""

import json

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoTokenizer, T5ForConditionalGeneration

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.encoding.batches import Batch
from clbench.errors import ClbenchError
from clbench.model.tiny import save_tiny_t5
from clbench.running.saved_learner import load_learner
from tests.conftest import EXAMPLE_PLUGINS

EXAMPLE_PLUGIN = EXAMPLE_PLUGINS / "l2.py"
METHODS = {  # and the options that let a tiny model learn something to answer
    "inclora": (),
    "olora": ("lambda1=0.01",),
    "moelora": ("top_k=1",),
    "sapt": ("memory_ratio=0.25",),
    "l2p": ("learning_rate=0.01", "pool=6", "top=2"),
    "lfpt5": ("prompt_length=20", "samples_per_class=1"),
}

STACKED = ("inclora", "olora")  # whose blocks are one PEFT adapter


@pytest.fixture
def saved_run(clbench, tiny_run, tmp_path):
    """A function that runs a method on two tasks; it returns the saved folder, the questions and the recorded answers."""

    def run(method, *options, flags=(), epochs=20):
        words = [word for option in options for word in ("--set", option)]
        stream = ["--stream", "sst-2,agnews", "--epochs", epochs, "--learning-rate", "0.03", "--save-adapter"]
        result = clbench(*tiny_run, *stream, "--method", method, *words, *flags)
        assert result.exit_code == 0, result.output
        (folder,) = (tmp_path / "results").glob("*.adapter")
        rows = [json.loads(line) for line in folder.with_suffix(".answers.jsonl").read_text().splitlines()]
        answers = [row["answer"] for row in rows if row["after"] == 1]
        assert len(set(answers)) > 1 or epochs == 1
        tasks = load_tasks("toy", find_stream("sst-2,agnews"), 16, 8, 1)
        return folder, [row for task in tasks for row in task.test], answers

    return run


def peft_answers(folder, base, questions):
    """Return the answers of a fresh base with the adapter, by plain PEFT."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), T5ForConditionalGeneration.from_pretrained(base)
    batch = tokenizer([row.prompt for row in questions], padding=True, return_tensors="pt")
    tokens = PeftModel.from_pretrained(model, folder).eval().generate(**batch, max_new_tokens=4, do_sample=False)
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_learner_answers_the_same_and_whatever_the_neighbours(saved_run, make_learner, tiny_folder, method):
    folder, questions, answers = saved_run(method, *METHODS[method])
    assert make_learner(max_answer=4).answer(questions) != answers  # the backbone knows nothing of it
    learner = load_learner(folder)
    assert learner.answer(questions) == answers
    assert learner.answer(questions[::-1])[::-1] == answers
    assert [learner.answer([row])[0] for row in questions] == answers
    batch = learner.feed.batch(questions)
    wide = [functional.pad(tensor, (0, 9)) for tensor in (batch.input_ids, batch.attention_mask)]
    assert torch.allclose(learner.passes.logits(Batch(*wide, batch.labels)), learner.passes.logits(batch), atol=1e-4)
    if method in STACKED:
        assert peft_answers(folder, tiny_folder, questions) == answers


def test_a_method_of_a_plugin_loads_with_its_file_and_elsewhere(saved_run, tmp_path):
    folder, questions, answers = saved_run("l2", flags=("--plugin", EXAMPLE_PLUGIN))
    with pytest.raises(ClbenchError, match="no method 'l2'"):
        load_learner(folder)
    moved = folder.rename(tmp_path / "moved")
    assert load_learner(moved, [EXAMPLE_PLUGIN], eval_batch_size=3).answer(questions) == answers


def test_what_cannot_be_loaded_is_said_in_one_line(saved_run, tmp_path):
    with pytest.raises(ClbenchError, match=r"holds no saved run: it has no learner\.json"):
        load_learner(tmp_path)
    folder, _, _ = saved_run("moelora", epochs=1)
    wide = save_tiny_t5(tmp_path / "wide", d_model=48)
    with pytest.raises(ClbenchError, match="does not fit method 'moelora'"):
        load_learner(folder, backbone=str(wide))
    file = folder / "learner.json"
    saved = json.loads(file.read_text())
    saved["spec"]["settings"]["colour"] = "red"
    file.write_text(json.dumps(saved))
    with pytest.raises(ClbenchError, match="setting 'colour' is unknown here"):
        load_learner(folder)
    file.write_text("{")
    with pytest.raises(ClbenchError, match=r"learner\.json: cannot be read as JSON"):
        load_learner(folder)

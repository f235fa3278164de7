"""Saved runs, through the real command: as a PEFT adapter on a fresh base, and loaded as a learner of their method."""

import json
import math
import os

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoTokenizer, T5ForConditionalGeneration

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.tasks import Task
from clbench.encoding.batches import Batch
from clbench.errors import ClbenchError
from clbench.model.backbone import load_backbone_of
from clbench.model.tiny import save_tiny_t5
from clbench.running.checkpoints import save_checkpoint
from clbench.running.saved_learner import load_learner, read_saved
from clbench.settings import Settings
from clbench.spec import RunSpec
from tests.conftest import EXAMPLE_PLUGINS
from tests.records.test_fuzz import VALUES, changed, places

EXAMPLE_PLUGIN = EXAMPLE_PLUGINS / "l2.py"
AVERAGE = EXAMPLE_PLUGINS / "average.py"  # its `evaluate` hook answers with an average of its weights
METHODS = {  # and the options that let a tiny model learn something to answer
    "inclora": (),
    "olora": ("lambda1=0.01",),
    "moelora": ("top_k=1",),
    "sapt": ("memory_ratio=0.25",),
    "gainlora": (),
    "sdlora": (),
    "l2p": ("learning_rate=0.01", "pool=6", "top=2"),
    "lfpt5": ("prompt_length=20", "samples_per_class=1"),
    "average": (),
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
def test_a_fresh_learner_answers_as_recorded_and_whatever_the_neighbours(saved_run, make_learner, tiny_folder, method):
    folder, questions, answers = saved_run(method, *METHODS[method], flags=("--plugin", AVERAGE))
    assert make_learner(max_answer=4).answer(questions) != answers  # the backbone knows nothing of it
    loaded = load_learner(folder, [AVERAGE])
    assert loaded.answer(questions) == answers
    assert loaded.evaluate(Task("sst-2", (), tuple(questions))) == answers
    assert loaded.answer(questions[::-1])[::-1] == answers
    assert [loaded.answer([row])[0] for row in questions] == answers
    learner = loaded.learner
    batch = learner.feed.batch(questions)
    wide = [functional.pad(tensor, (0, 9)) for tensor in (batch.input_ids, batch.attention_mask)]
    assert torch.allclose(learner.passes.logits(Batch(*wide, batch.labels)), learner.passes.logits(batch), atol=1e-4)
    if method in STACKED:
        assert peft_answers(folder, tiny_folder, questions) == answers


def test_the_average_is_what_answers(saved_run):
    folder, questions, answers = saved_run("average", flags=("--plugin", AVERAGE))
    assert load_learner(folder, [AVERAGE]).learner.answer(questions) != answers  # without the method's own hook


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
    with pytest.raises(ClbenchError, match="no setting 'colour'"):
        load_learner(folder, colour="red")
    wide = save_tiny_t5(tmp_path / "wide", d_model=48)
    with pytest.raises(
        ClbenchError, match=r"does not fit method 'moelora' on backbone '.*wide': .* of another shape: base_m"
    ):
        load_learner(folder, backbone=str(wide))
    file = folder / "learner.json"
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({**saved, "identity": "1a"}))
    with pytest.raises(ClbenchError, match="a checkpoint of another run"):
        load_learner(folder)
    file.write_text(json.dumps({**saved, "spec": {**saved["spec"], "method": ["moelora"]}}))
    with pytest.raises(ClbenchError, match=r"learner\.json: not the spec of a run: its method must be a text"):
        load_learner(folder)
    saved["spec"]["settings"]["colour"] = "red"
    file.write_text(json.dumps(saved))
    with pytest.raises(ClbenchError, match="setting 'colour' is unknown here"):
        load_learner(folder)
    for content in ("[]", "{}", '{"spec": 1}', '{"spec": {"method": [], "options": {}, "settings": {}}}'):
        file.write_text(content)
        with pytest.raises(ClbenchError, match=r"learner\.json: "):
            load_learner(folder)
    file.write_text("{")
    with pytest.raises(ClbenchError, match=r"learner\.json: cannot be read as JSON"):
        load_learner(folder)


def test_frozen_blocks_of_another_backbone_are_refused(saved_run, tmp_path):
    folder, _, _ = saved_run("olora", epochs=1)
    wide = save_tiny_t5(tmp_path / "wide", d_model=48)
    with pytest.raises(ClbenchError, match=r"does not fit method 'olora' on backbone '.*wide': "):
        load_learner(folder, backbone=str(wide))


def damage(file, name, change):
    """Rewrite a file of tensors: `change` is given the tensors and the name of the first one that ends like this."""
    tensors = load_file(file)
    change(tensors, next(one for one in tensors if one.endswith(name)))
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("file", "name", "change", "said"),
    [
        ("adapter_model", "lora_B.weight", lambda found, one: found.pop(one), r"missing: base_model\S+lora_B\.weight$"),
        ("adapter_model", "lora_B.weight", lambda found, one: found.update(other=found[one].clone()), "unknown: other$"),
        ("adapter_model", "lora_B.weight", lambda found, one: found[one].view(-1)[0:1].fill_(math.nan), r"not finite: base_m"),
        ("adapter_model", "lora_A.weight", lambda found, one: found.update({one: found[one][:2]}), r"\(2, 32\), not \(4, 32\)$"),
        ("parts", "key", lambda found, one: found.update(renamed=found.pop(one)), "missing: attention.key; unknown: renamed$"),
        ("parts", "past_keys", lambda found, one: found[one].fill_(math.inf), "not finite: attention.past_keys$"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_the_methods_are_named(saved_run, file, name, change, said):
    folder, _, _ = saved_run("sapt", epochs=1)
    damage(folder / f"{file}.safetensors", name, change)
    with pytest.raises(ClbenchError, match=rf"does not fit method 'sapt' .*: tensors of {file}\.safetensors.*{said}"):
        load_learner(folder)


def test_a_plain_adapter_without_a_tensor_and_a_state_without_a_field_are_refused(saved_run):
    folder, _, _ = saved_run("average", flags=("--plugin", AVERAGE), epochs=1)
    damage(folder / "adapter_model.safetensors", "lora_A.weight", lambda tensors, one: tensors.pop(one))
    with pytest.raises(ClbenchError, match=r"adapter_model\.safetensors missing: base_model\S+lora_A\.weight$"):
        load_learner(folder, [AVERAGE])
    identity = json.loads((folder / "learner.json").read_text())["identity"]
    save_checkpoint(folder / "method.safetensors", {"average": 1}, identity)
    with pytest.raises(ClbenchError, match=r"the saved state has the fields \['average'\], the method's \['mean'\]"):
        load_learner(folder, [AVERAGE])
    (folder / "method.safetensors").write_bytes(b"\x80\x04.")  # a pickle is no state
    with pytest.raises(ClbenchError, match="damaged checkpoint"):
        load_learner(folder, [AVERAGE])


def test_code_of_a_backbone_runs_only_when_the_caller_says_so(saved_run, monkeypatch):
    folder, questions, answers = saved_run("average", flags=("--plugin", AVERAGE), epochs=1)
    file = folder / "learner.json"
    saved = json.loads(file.read_text())
    saved["spec"]["settings"]["trust_remote_code"] = True
    file.write_text(json.dumps(saved))
    asked = []
    monkeypatch.setattr(
        "clbench.running.saved_learner.load_backbone_of", lambda s: asked.append(s) or load_backbone_of(s)
    )
    assert load_learner(folder, [AVERAGE]).answer(questions) == answers
    load_learner(folder, [AVERAGE], trust_remote_code=True)
    assert [settings.trust_remote_code for settings in asked] == [False, True]


SAVED = {
    "spec": RunSpec("ewc", {"strength": 1.0}, Settings()).as_dict(),
    "identity": "1a",
    "prompts": [{"task": "agnews", "template": "Which topic? {text}", "labels": ["World"], "max_answer": 4}],
    "question": {"head": "Which topic? ", "passage": "Rain.", "tail": ""},
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"spec": 1, "spec": 2}', "names the key 'spec' twice"),
        (b"\xff\xfe", "codec"),
        (b'{"spec": 1e999}', "too large"),
    ],
)
def test_learner_json_is_read_as_records_are(tmp_path, content, said):
    (tmp_path / "learner.json").write_bytes(content)
    with pytest.raises(ClbenchError, match=rf"learner\.json: cannot be read as JSON: .*{said}"):
        load_learner(tmp_path)


def test_a_pipe_or_a_folder_in_the_place_of_learner_json_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "learner.json")
    with pytest.raises(ClbenchError, match=r"learner\.json: .*not a regular file"):
        load_learner(tmp_path)
    (tmp_path / "learner.json").unlink()
    (tmp_path / "learner.json").mkdir()
    with pytest.raises(ClbenchError, match=r"learner\.json: "):
        load_learner(tmp_path)


def test_anything_in_learner_json_is_read_or_refused_in_a_line(tmp_path):
    (tmp_path / "learner.json").write_text(json.dumps(SAVED))
    assert read_saved(tmp_path).spec.as_dict() == SAVED["spec"]
    errors = []
    for place in places(SAVED):
        for value in VALUES:
            (tmp_path / "learner.json").write_text(json.dumps(changed(SAVED, place, value)))
            try:
                saved = read_saved(tmp_path)
                assert type(saved.identity) is type(saved.prompts[0].template) is str
                assert (saved.prompts[0].max_answer or 1) in range(1, 1_000_001)
            except ClbenchError as error:
                errors.append(str(error))
    assert len(errors) > 500
    assert "\n" not in "".join(errors)


@pytest.mark.parametrize("name", ["method.safetensors", "adapter_model.safetensors"])
def test_a_pipe_in_the_place_of_tensors_is_not_waited_for(saved_run, name):
    folder, _, _ = saved_run("average", flags=("--plugin", AVERAGE), epochs=1)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ClbenchError, match="not a regular file"):
        load_learner(folder, [AVERAGE])

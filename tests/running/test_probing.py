"""Probes: their numbers are those of the model, and a run with them is the run without them."""

import json
import math
import random
from dataclasses import replace

import msgspec
import pytest
import torch
from torch.nn import functional

from clbench.data.probes import ProbeText
from clbench.data.streams import find_stream
from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.learning.learner import Learner
from clbench.records.metrics import transfer_to_unlearned
from clbench.running.opening import RunOpener
from clbench.running.probing import asked, measured, perplexity, undisturbed
from clbench.running.protocol import Run
from clbench.running.run import execute_run
from clbench.settings import Settings
from clbench.spec import RunSpec
from tests.conftest import TINY, TINY_LLAMA
from tests.running.test_bookmarks import Killed, outcome

PLUGINS = find_plugins()
STREAM = find_stream("sst-2,agnews")
TEXT = "The ferry leaves at six in the morning, when the harbour is still grey. " * 12
ODD = """
from clbench import About, hookimpl

class Own:
    about = About(needs_task_id={needs})

    @hookimpl
    def learn_task(self, learner, task):
        self.learned = True
        return {{}}

    @hookimpl
    def evaluate(self, learner, task):
        return ["yes" for _ in task.test if self.learned]

@hookimpl
def methods():
    return {{"own": Own}}
"""


@pytest.fixture
def texts(tmp_path):
    """The settings of a probe with one text and two questions."""
    (tmp_path / "tale.txt").write_text(TEXT, "utf-8")
    rows = [{"prompt": "Say yes.", "answers": ["yes"]}, {"prompt": "Is it grey?\nSay it.", "answers": ["no", "yes"]}]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return {"probe": str(tmp_path / "tale.txt"), "probe_questions": str(tmp_path / "asked.jsonl"), "probe_tokens": 150}


@pytest.fixture
def make(backbone, toy_tasks, tmp_path):
    """A function that makes a run of two tasks and returns its record, all that it leaves but times, and its files."""

    def run(folder, name="seqlora", given=None, plugins=PLUGINS, **settings):
        chosen = Settings(**{**TINY, "backbone": backbone.name, "stream": STREAM.name, "epochs": 1, **settings})
        method = plugins.method(name)
        spec = RunSpec(name, method.resolve_options(given or {}), chosen)
        opened = replace(RunOpener(plugins, tmp_path / folder).open(spec), tasks=toy_tasks)
        record = execute_run(opened, backbone, save_adapter=True)
        return record, outcome(record, opened.files)

    return run


def without_probes(found):
    """What a run leaves, without what it says of probes and its name."""
    content, answers, saved = found
    for name in ("probes", "untrained", "settings", "digests", "identity", "name"):
        del content[name]
    for cost in content["costs"]:
        del cost["probe_seconds"]
    return content, answers, {key: value.tolist() for key, value in saved.items()}


@pytest.mark.parametrize(
    ("method", "given"),
    [("lorareplay", {"memory_ratio": "0.2"}), ("sapt", {"memory_ratio": "0.2"}), ("l2p", {}), ("mtl", {})],
)
def test_a_run_with_probes_is_the_run_without_them(make, texts, method, given):
    plain, left = make("plain", method, given, lora_dropout=0.1)
    record, found = make("probed", method, given, lora_dropout=0.1, **texts)
    assert without_probes(found) == without_probes(left)
    assert (plain.probes, plain.digests.probes) == ((), None)
    tale, questions = record.probes
    assert [tale.name, tale.objective, questions.name, questions.objective] == [
        "tale",
        "second halves",
        "asked",
        "answers",
    ]
    learned = [None] if method == "mtl" else []
    for values in (tale.values, questions.values):
        assert len(values) == 3
        assert [value is None for value in values] == [False, *[True for _ in learned], *[False] * (2 - len(learned))]
    assert tale.values[0] != tale.values[-1]
    assert all(cost.probe_seconds > 0 for cost in record.costs)


def test_a_killed_run_with_probes_ends_as_a_whole_one(make, texts, monkeypatch):
    _, whole = make("whole", "lorareplay", {"memory_ratio": "0.2"}, **texts)
    finish = Run.finish_task

    def die(self, index):
        finish(self, index)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish_task", die)
        with pytest.raises(Killed):
            make("killed", "lorareplay", {"memory_ratio": "0.2"}, **texts)
    _, resumed = make("killed", "lorareplay", {"memory_ratio": "0.2"}, **texts)
    for content, *_ in (whole, resumed):
        for cost in content["costs"]:
            del cost["probe_seconds"]
    assert resumed[:2] == whole[:2]


def test_the_perplexity_of_a_decoder_is_that_of_next_tokens(llama):
    learner = Learner(llama, Settings(**TINY_LLAMA))
    text = measured(ProbeText("tale", TEXT), learner, 200)
    ids = llama.tokenizer(TEXT, add_special_tokens=False)["input_ids"][:200]
    half, total = len(text.rows[0].labels), 0.0
    with torch.no_grad():
        for begin in range(0, 200 - half, half):
            window = torch.tensor([[llama.tokenizer.bos_token_id, *ids[begin : begin + 2 * half]]])
            scores = llama.model(input_ids=window).logits[0, half:-1]
            total += float(functional.cross_entropy(scores, window[0, half + 1 :], reduction="sum"))
    assert text.objective == "next tokens"
    assert text.tokens == 200 - half
    assert perplexity(learner, text.rows) == pytest.approx(math.exp(total / text.tokens), rel=1e-4)


def test_the_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary(backbone, monkeypatch):
    learner = Learner(backbone, Settings(**TINY))
    text = measured(ProbeText("tale", TEXT), learner, 100)
    head = backbone.model.get_output_embeddings()
    with monkeypatch.context() as patch:
        patch.setattr(head, "forward", lambda states: states.new_zeros(*states.shape[:-1], head.out_features))
        assert perplexity(learner, text.rows) == pytest.approx(head.out_features, rel=1e-5)


def test_another_probe_is_another_run_and_none_is_the_run_of_before(texts, tmp_path, backbone):
    def opened(**settings):
        chosen = Settings(**TINY, backbone=backbone.name, stream=STREAM.name, **settings)
        return RunOpener(PLUGINS, tmp_path / "r").open(RunSpec("seqlora", {}, chosen))

    plain, probed = opened(), opened(**texts)
    assert plain.identity == opened(probe_tokens=99).identity != probed.identity
    (tmp_path / "tale.txt").write_text(TEXT + "More.", "utf-8")
    assert opened(**texts).identity != probed.identity


@pytest.mark.parametrize("needs", [False, True])
def test_what_a_method_cannot_be_asked_is_said(make, texts, tmp_path, needs):
    (tmp_path / "own.py").write_text(ODD.format(needs=needs), "utf-8")
    record, _ = make("own", "own", plugins=find_plugins([tmp_path / "own.py"]), matrix="full", **texts)
    why = "must be told of which task" if needs else "answers by an `evaluate` hook of its own"
    assert why in record.notes[0]
    assert "nothing was asked before the first task: method 'own' failed to answer" in record.notes[1]
    assert (record.untrained, record.metrics.fwt) == ((), None)
    assert [one.values for one in record.probes] == ([] if needs else [(None, 100.0, 100.0)])


def test_questions_are_asked_as_far_as_the_tokens_go(make_learner, texts, tmp_path):
    task = RunOpener(PLUGINS, tmp_path)._probes(None, texts["probe_questions"]).questions[0]
    learner = make_learner(max_input=40)
    counts = [len(learner.tokenizer(one.prompt)["input_ids"]) for one in task.test]
    assert len(asked(task, learner, sum(counts)).test) == 1
    both = asked(task, learner, sum(counts) + 100).test
    assert len(both) == 2
    assert {one.max_answer for one in both} == {8 + max(len(learner.tokenizer(t)["input_ids"]) for t in ("yes", "no"))}
    long = replace(task.test[0], passage="Say yes. " * 40)
    with pytest.raises(ClbenchError, match="probe 'asked': max_input 40 is too short"):
        asked(replace(task, test=(long,)), learner, 1000)
    unwritable = replace(task.test[0], target="是")
    with pytest.raises(ClbenchError, match="cannot write the answers to 1 of 1 questions"):
        asked(replace(task, test=(unwritable,)), learner, 1000)


def test_measuring_leaves_random_numbers_mode_and_counters(make_learner):
    learner = make_learner()
    learner.model.train()
    learner.cost.forward_batches = 3
    before = torch.get_rng_state(), random.getstate()
    with undisturbed(learner):
        torch.rand(1), random.random(), learner.model.eval()
        learner.cost.forward_batches += 1
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), learner.model.training, learner.cost.forward_batches) == (before[1], True, 3)


def test_a_text_must_be_long_enough(make_learner):
    with pytest.raises(ClbenchError, match="probe 'tale': 2 tokens are too few to measure; it takes 8"):
        measured(ProbeText("tale", "a b"), make_learner(), 100)


def test_fwt_compares_tasks_not_yet_learned_with_the_untrained_model(make):
    assert transfer_to_unlearned([[9, 40, 10], [9, 9, 50], [9, 9, 9]], [80, 30, 20]) == pytest.approx((10 + 30) / 2)
    assert transfer_to_unlearned([[9, None, 10], [9, 9, 50], [9, 9, 9]], [80, 30, 20]) is None
    assert transfer_to_unlearned([[9, 40], [9, 9]], []) is None
    plain, left = make("bwt", matrix="lower")
    record, found = make("full", matrix="full")
    assert plain.metrics.fwt is None
    assert record.metrics.fwt == record.scores[0][1] - record.untrained[1]
    assert [row[: i + 1] for i, row in enumerate(record.scores)] == [row[: i + 1] for i, row in enumerate(plain.scores)]
    assert found[2].keys() == left[2].keys()
    assert all(torch.equal(value, left[2][key]) for key, value in found[2].items())


def test_a_record_has_a_value_of_each_probe_at_each_time(make, texts):
    record, _ = make("probed", **texts)
    with pytest.raises(ValueError, match="the values of a probe must be 3"):
        msgspec.structs.replace(record, probes=(msgspec.structs.replace(record.probes[0], values=(1.0,)),))

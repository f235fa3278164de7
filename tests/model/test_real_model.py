"""SmolLM2 as its users have it: it answers, and it learns. Slow, and left out unless asked for: `pytest -m real_model`."""

import os

import pytest
import torch

from clbench.data.answer_scores import exact_match
from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone
from clbench.settings import resolve_settings

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """SmolLM2 from the file that CLBENCH_GGUF names."""
    file = os.environ.get("CLBENCH_GGUF")
    if file is None:
        pytest.fail("CLBENCH_GGUF names no GGUF file of SmolLM2-135M-Instruct; docs/real-models.md says how to get it")
    return load_backbone(file, "cpu", "auto", threads=torch.get_num_threads())


def test_it_is_read_as_it_was_trained(smollm2):
    tokenizer, question = smollm2.tokenizer, "The capital of France is"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    ids = tokenizer(question, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == question  # no token is added
    answer = smollm2.model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])


def test_it_learns_a_task_from_64_rows(smollm2):
    (task,) = load_tasks("toy", find_stream("agnews"), 64, 32)
    settings = resolve_settings({"epochs": 1, "batch_size": 4, "data": "toy", "max_answer": 8}, "smollm2")
    learner = Learner(smollm2, settings, stream_length=1)
    learner.attached.add_lora()
    learner.begin_task(0, task)
    training = learner.training(task.train)
    for batch in training:
        training.step(learner.loss(batch))
    answers = learner.answer(task.test)
    right = sum(exact_match(answer, row.target) for answer, row in zip(answers, task.test, strict=True))
    assert right / len(answers) > 45  # of 100; four labels, so chance is 25

"""LoRA on modules whose weights are another module's as well: what answers is what was trained, or it is refused."""

import pytest
import torch
import transformers

from clbench.errors import ClbenchError
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone, merged, tied_weights
from clbench.settings import Settings
from tests.conftest import TINY, TINY_LLAMA


def learned(backbone, tasks, **settings):
    """A learner whose adapter is far from nothing."""
    learner = Learner(backbone, Settings(**{**TINY_LLAMA, "epochs": 1, **settings}))
    learner.attached.add_lora()
    learner.begin_task(0)
    for batch in (training := learner.training(tasks[0].train)):
        training.step(learner.loss(batch))
    generator = torch.Generator().manual_seed(0)
    learner.weights.data.copy_(torch.randn(len(learner.weights), generator=generator) * 0.3)
    return learner


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory, llama_folder):
    folder = tmp_path_factory.mktemp("gpt2")
    transformers.AutoTokenizer.from_pretrained(llama_folder).save_pretrained(folder)
    sizes = {"n_positions": 512, "n_embd": 32, "n_layer": 1, "n_head": 4}
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=600, **sizes, bos_token_id=1, eos_token_id=2, initializer_range=0.3)
    ).save_pretrained(folder)
    return load_backbone(str(folder), "cpu")


@pytest.mark.parametrize(("name", "targets"), [("backbone", "lm_head"), ("gpt2", "lm_head"), ("gpt2", "wte,c_attn")])
def test_answering_computes_what_training_does(name, targets, toy_tasks, request):
    learner = learned(request.getfixturevalue(name), toy_tasks, lora_targets=targets)
    try:
        assert tied_weights(learner.model)
        learner.model.eval()
        batch = learner.feed.batch(toy_tasks[0].test)
        with torch.no_grad():
            trained = learner.passes.logits(batch)
            with merged(learner.model):
                answering = learner.passes.logits(batch)
            after = learner.passes.logits(batch)
    finally:
        learner.attached.detach()
    torch.testing.assert_close(answering, trained, rtol=1e-3, atol=1e-4)
    assert torch.equal(after, trained)


def test_a_module_that_only_lends_its_weights_is_refused(backbone, toy_tasks):
    learner = Learner(backbone, Settings(**{**TINY, "lora_targets": "shared"}))
    with pytest.raises(ClbenchError, match=r"lora_targets 'shared': .*computes nothing with 'shared' itself"):
        learner.attached.add_lora()
    assert not any("lora" in name for name, _ in backbone.model.named_modules())
    learned(backbone, toy_tasks, **TINY).attached.detach()

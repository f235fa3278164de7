"""Gradient checkpointing: the same gradients, activations computed again, and nothing left on the backbone."""

import pytest
import torch

from clbench.discovery import find_plugins
from clbench.errors import ClbenchError

METHODS = find_plugins([])


@pytest.fixture(params=["make_learner", "make_decoder"])
def make(request):
    return request.getfixturevalue(request.param)


def count_layers(learner):
    """Return a list that grows by one whenever the first adapted layer computes."""
    seen, layer = [], next(part for name, part in learner.model.named_modules() if name.endswith("lora_A.default"))
    learner.attached.hooks.append(layer.register_forward_hook(lambda *_: seen.append(1)))
    return seen


def gradients(make, tasks, checkpointing, **settings):
    learner = make(gradient_checkpointing=checkpointing, lora_dropout=0.3, **settings)
    learner.weights.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    passes, batch = count_layers(learner), learner.feed.batch(tasks[0].train[:4])
    learner.passes.train_mode()
    torch.manual_seed(0)
    learner.passes.backward(learner.loss(batch))
    other = (learner.weights.data * 2).requires_grad_()
    torch.manual_seed(0)
    with_other = learner.passes.gradient(learner.loss(batch, other), other)
    return learner.weights.grad.clone(), with_other, len(passes)


def test_the_gradients_are_the_same(make, toy_tasks):
    plain, plain_other, once = gradients(make, toy_tasks, False)
    again, again_other, twice = gradients(make, toy_tasks, True)
    assert (once, twice) == (2, 3)  # the loss at other weights is not checkpointed: it would see the current ones
    assert plain.abs().max() > 0
    assert torch.allclose(plain, again, atol=1e-5)
    assert torch.allclose(plain_other, again_other, atol=1e-5)
    assert not torch.allclose(plain, plain_other, atol=1e-3)


def test_detach_switches_it_off_and_leaves_no_hooks(make, toy_tasks):
    learner = make()
    model, before = learner.model, hooks(learner.model)
    learner.attached.detach()
    learner = make(gradient_checkpointing=True)
    learner.loss(learner.feed.batch(toy_tasks[0].train[:2]), learner.weights.data)
    switches = [part for part in model.modules() if getattr(part, "gradient_checkpointing", False)]
    assert switches
    learner.attached.detach()
    assert not any(part.gradient_checkpointing for part in switches)
    assert hooks(model) == before


def hooks(model):
    return [
        (name, len(part._forward_hooks), len(part._forward_pre_hooks))
        for name, part in model.named_modules()
        if part._forward_hooks or part._forward_pre_hooks
    ]


@pytest.mark.parametrize("name", ["migu", "moelora", "sapt", "l2p", "vrmcl", "gainlora"])
def test_methods_with_hooks_learn_the_same(name, make_decoder, toy_tasks):
    ends = []
    for checkpointing in (False, True):
        method = METHODS.method(name).build({"skip_first_task": False} if name == "migu" else {})
        attach = {"attach": method.attach} if name in ("moelora", "sapt", "l2p", "gainlora") else {}
        learner = make_decoder(gradient_checkpointing=checkpointing, stream_length=2, **attach)
        method.learn_task(learner, toy_tasks[0])
        ends.append(learner.weights.copy())
    assert torch.allclose(*ends, atol=1e-5)


def test_a_loss_within_the_layers_is_refused(make_decoder):
    method = METHODS.method("moelora").build({"load_balance": 0.01})
    with pytest.raises(ClbenchError, match="load_balance does not go with --gradient-checkpointing"):
        make_decoder(method.attach, gradient_checkpointing=True)

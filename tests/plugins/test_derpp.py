"""DER++: what is kept of an answer, the distance from it by hand, and the three losses."""

from dataclasses import replace

import pytest
import torch

from clbench.encoding.batches import IGNORED, Batch
from clbench.learning.passes import Passes
from clbench.plugins.derpp import DERPP
from clbench.plugins.seqlora import SeqLoRA


def batch_of(labels, rows):
    labels = torch.tensor(labels)
    return Batch(torch.zeros(len(labels), 1), torch.ones(len(labels), 1), labels, rows=tuple(rows))


@pytest.mark.parametrize("scores", [None, 2])
def test_the_distance_by_hand(scores):
    """Two of three kept rows, of one answer token each; with all three scores of a token, or the two highest."""
    method = DERPP(scores=scores)
    method.counts = [1, 1, 1]
    whole = torch.tensor([[5.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 3.0]])
    if scores is None:
        method.kept = whole
        now = torch.tensor([[[0.0, 4.0, 3.0], [9.0, 9.0, 9.0]], [[6.0, 1.0, 2.0], [9.0, 9.0, 9.0]]])
    else:
        method.kept, places = whole.topk(2)
        method.places = places.int()  # of the first row tokens 0 and 1, of the third 2 and 1
        now = torch.tensor([[[9.0, 2.0, 0.0], [9.0, 9.0, 9.0]], [[5.0, 1.0, 9.0], [9.0, 9.0, 9.0]]])
    batch = batch_of([[7, IGNORED], [7, IGNORED]], [2, 0])
    whole_square, square_of_two = (0 + 4 + 0 + 1 + 0 + 4) / 6, (9 + 0 + 0 + 0) / 4  # token 2: 0 - 3, all else the same
    expected = whole_square if scores is None else square_of_two
    assert float(method.distance(now, batch)) == pytest.approx(expected)


def learned(learner, tasks, method):
    reports = []
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        reports.append(method.learn_task(learner, task))
    return reports


@pytest.mark.parametrize("scores", [None, 5])
def test_what_is_kept_is_what_the_model_says_of_the_answers(make_learner, toy_tasks, scores):
    learner, method = make_learner(), DERPP(memory_ratio=0.25, scores=scores)
    learned(learner, toy_tasks, method)
    assert len(method.counts) == len(method.memory) == 12
    assert method.kept.shape == (sum(method.counts), scores or learner.model.config.vocab_size)
    assert (method.places is None) == (scores is None)
    rows = method.memory.examples
    new = replace(learner.feed.batch(rows[6:]), rows=tuple(range(6, 12)))  # of the last task: at the weights of now
    learner.model.eval()
    with torch.no_grad():
        logits = learner.passes.logits(new)
        assert float(method.distance(logits, new)) == pytest.approx(0, abs=1e-8)
        old = replace(learner.feed.batch(rows[:6]), rows=tuple(range(6)))
        assert float(method.distance(learner.passes.logits(old), old)) > 1e-6


def test_the_gradient_is_that_of_the_sum_of_the_terms(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    method = DERPP(memory_ratio=0.25)
    learned(learner, toy_tasks[:1], method)
    learner.weights.data.mul_(1.5)
    (batch,) = next(learner.feed.draws(method.memory.examples, learner.generator("a")))
    losses = (learner.loss, lambda batch: method.score_loss(learner, batch))
    parts = [learner.passes.step_gradient([([batch], loss)]) for loss in losses]
    gradient, total = learner.passes.step_gradient([([batch], loss) for loss in losses])
    assert torch.allclose(gradient, parts[0][0] + parts[1][0], atol=1e-5)
    assert float(total) == pytest.approx(float(parts[0][1] + parts[1][1]), rel=1e-5)
    assert all(part[0].any() for part in parts)


def test_alpha_weighs_the_scores_and_beta_the_labels(make_learner, toy_tasks, monkeypatch):
    learner = make_learner(lora_dropout=0.0)
    method, seen = DERPP(memory_ratio=0.25, alpha=0.3, beta=0.7), []
    learned(learner, toy_tasks[:1], method)

    step_gradient = Passes.step_gradient

    def watched(passes, terms):
        if len(terms) == 2:  # those of the memory
            values = [float(loss_of(group[0]).detach()) for group, loss_of in terms]
            plain = [method.score_loss(learner, terms[0][0][0]), learner.loss(terms[1][0][0])]
            seen.append([(value, float(loss.detach())) for value, loss in zip(values, plain, strict=True)])
        found = step_gradient(passes, terms)
        if len(terms) == 1:
            losses.append(float(found[1]))
        return found

    losses = []
    monkeypatch.setattr(Passes, "step_gradient", watched)
    learner.begin_task(1, toy_tasks[1])
    method.learn_task(learner, toy_tasks[1])
    assert len(seen) == 3
    for scores, labels in seen:
        assert scores[0] == pytest.approx(0.3 * scores[1], rel=1e-4)
        assert labels[0] == pytest.approx(0.7 * labels[1], rel=1e-5)
    assert learner.losses[0].tolist() == pytest.approx(losses)  # what is recorded is the new task's cross-entropy


def test_without_weights_for_the_memory_it_is_plain_training(make_learner, toy_tasks):
    ends = []
    for method in (DERPP(memory_ratio=0.25, alpha=0.0, beta=0.0), SeqLoRA()):
        learner = make_learner(lora_dropout=0.0)
        learned(learner, toy_tasks, method)
        ends.append(learner.weights.copy())
    assert torch.allclose(*ends, atol=1e-6)
    assert learner.cost.replayed_rows == 0


def test_each_step_takes_three_batches(make_learner, toy_tasks):
    learner = make_learner(micro_batch=3)
    _, report = learned(learner, toy_tasks, DERPP(memory_ratio=0.25))
    assert report["steps"] == 3
    assert learner.cost.backward_batches == 3 * (3 + 2 + 2)  # 8 new rows and twice 6 old ones, in threes
    assert learner.cost.replayed_rows == 3 * 2 * 6

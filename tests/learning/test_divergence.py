"""Training that goes wrong is said: in the error where numbers are not finite, else in record and leaderboard."""

import math
import re

import pytest
import torch

from clbench.learning.divergence import NotFiniteError, blew_up, describe, growth, worsened
from clbench.records.files import read_record
from clbench.reports.leaderboard import make_rows, pivot
from clbench.running.remarks import on_answers, on_losses
from tests.records.examples import record

POISON = """
import math
from clbench import hookimpl
from clbench.plugins.seqlora import SeqLoRA

class Poison(SeqLoRA):
    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        for number, batch in enumerate(training, 1):
            training.backward(learner.loss(batch))
            if number == 2 and learner.task_index == 1:
                name, part = list(learner.weights.views(learner.weights.grad).items())[3]
                part.fill_(math.nan)
            training.apply()
        return {}

@hookimpl
def methods():
    return {"poison": Poison}
"""


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([4, 3, 2, 1], None),
        ([4, 4, 4, 4.9], None),  # noise
        ([4, 9, 9, 9], (4, 9)),
        ([2, 30, 20, 10, 10, 10, 10, 10], (2, 10)),  # blown up within the start
        ([4, math.inf, math.nan, 9], (4, 9)),
        ([4], None),
        ([], None),
        ([math.nan] * 3, None),
    ],
)
def test_a_loss_that_ends_above_its_start(losses, found):
    assert growth(torch.tensor(losses, dtype=torch.float32)) == found


def test_a_gradient_that_is_not_finite_is_named_with_its_step(make_learner, toy_tasks):
    learner = make_learner()
    training = learner.training(toy_tasks[0].train)
    names = list(learner.weights.views(learner.weights.data))
    steps = iter(training)
    training.step(learner.loss(next(steps)))
    training.backward(learner.loss(next(steps)))
    learner.weights.views(learner.weights.grad)[names[2]].fill_(math.inf)
    before = learner.weights.copy()
    reason = f"the gradient of '{names[2]}' is not finite, first seen in step 2; .* rather the arithmetic than"
    with pytest.raises(NotFiniteError, match=reason):
        training.apply()
    assert torch.equal(learner.weights.data, before)


def test_the_message_names_task_step_and_tensor(clbench, tiny_run, tmp_path):
    (tmp_path / "poison.py").write_text(POISON)
    result = clbench(*tiny_run, "--method", "poison", "--plugin", "poison.py", "--stream", "sst-2,agnews")
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert "method 'poison' failed on task 'agnews': the gradient of 'encoder.block.0." in output
    assert "is not finite, first seen in step 2; before that neither loss nor weights had grown" in output


def test_the_learning_rate_is_blamed_where_it_is_to_blame(make_learner):
    learner = make_learner()
    learner.weights.grad[5] = math.nan
    assert "step 3; before that neither loss nor weights" in describe(learner.weights, torch.tensor([3.0, 2.0]), True)
    grown = describe(learner.weights, torch.tensor([3.0, 9.0]), True)
    assert grown.endswith("before that the loss had grown from 3 to 9: try a lower learning rate")
    learner.weights.data[0] = 1e30
    huge = describe(learner.weights, torch.tensor([3.0, 2.0]), True)
    assert huge.endswith("before that a weight had grown to 1e+30: try a lower learning rate")
    learner.weights.data[0] = math.nan
    late = describe(learner.weights, torch.tensor([3.0, math.nan, math.nan]), False)  # on a GPU, when the task is over
    assert late.startswith(f"the weights of '{next(iter(learner.weights.views(learner.weights.data)))}' are not finite")
    assert "first seen in step 2" in late


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [(4, 4.4, False), (4, 4.6, True), (4, 0.1, False), (0.1, 0.5, False), (4, math.nan, True), (4, math.inf, True)],
)
def test_the_same_rows_are_compared(before, after, worse, toy_tasks):
    assert worsened(before, after) == worse
    assert [remark.mark for remark in on_losses(toy_tasks[0], [], before, after, 600)] == ["diverged"] * worse


BLIND = math.log(12_000)  # of the embedded model
WRECKED = [4.33, 4.38, 6.61, 15.3, 6.33, 5.84, 8.69, 2.99, 1.13, 0.58, 0.46]  # at rate 1 it learned to say one thing


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        (WRECKED, (4.33, 15.3)),
        ([3.65, 8.27, 5.24, 3.2, 1.0], None),  # batches differ
        ([4, 10.3, 1], None),
        ([8, 15.9, 1], None),  # its rows were hard from the beginning
        ([math.nan, 4, math.inf, 12], (4, 12)),
        ([], None),
    ],
)
def test_a_model_that_is_wrecked_on_the_way(losses, found, toy_tasks):
    rise = blew_up(torch.tensor(losses), BLIND)
    assert rise == (None if found is None else pytest.approx(found))
    remarks = on_losses(toy_tasks[0], [torch.tensor([4.0, 3.0]), torch.tensor(losses)], 4.3, 0.5, 12_000)
    assert [remark.mark for remark in remarks] == ([] if found is None else ["diverged"])
    if found is not None:
        assert remarks[0].note.endswith(f"from {found[0]:.3g} to {found[1]:.3g} on the way, and ended at 0.5")


def test_the_loss_of_rows_is_that_of_the_learner_and_costs_nothing(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.5, batch_size=5)
    rows, state = toy_tasks[0].train[:12], torch.get_rng_state()
    learner.model.train()
    found = learner.passes.mean_loss(rows)
    assert learner.model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert learner.cost.rows == learner.cost.forward_rows == 0
    learner.model.eval()
    with torch.no_grad():
        assert found == pytest.approx(float(learner.loss(learner.feed.batch(rows))), rel=1e-4)


@pytest.mark.parametrize("rate", [0.3, 1, 10])
def test_a_run_that_diverged_says_so_everywhere(clbench, tiny_run, tmp_path, rate):
    """Two steps a task: their losses do not know yet what the last update does."""
    words = [*tiny_run, "--method", "seqlora", "--stream", "sst-2,agnews", "--backbone", "mini"]
    result = clbench(*words, "--learning-rate", rate)
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("results/*[0-9a-f].json")
    found = read_record(path)
    assert "diverged" in found.marks
    rise = re.fullmatch(r"diverged on task 'sst-2': the loss rose from (\S+) to (\S+)", found.notes[0])
    assert float(rise[1]) == pytest.approx(4.3, abs=0.5)  # of the model as it was
    assert float(rise[2]) > float(rise[1]) + 1
    output = " ".join(result.output.split())
    assert ", diverged" in output
    assert "warning: diverged on task 'sst-2'" in output
    assert "diverged" in clbench("leaderboard", "--format", "md").output
    assert clbench(*words).exit_code == 0
    assert clbench("leaderboard", "--format", "md").output.count("diverged") == 1


def test_only_a_task_without_any_answer_is_remarked(toy_tasks):
    (remark,) = on_answers(toy_tasks, {"0": ["", " \n"], "1": ["", "x"]})
    assert (remark.mark, remark.note) == ("empty answers", "after the last task every answer is empty to: sst-2")
    assert not on_answers(toy_tasks, {"1": ["", "x"]})


def test_the_leaderboard_says_in_how_many_runs():
    bad = record(seed=2, fields={"marks": ["diverged"]})
    (row,) = make_rows([record(), bad])
    assert row.marks == "diverged (1 of 2 runs)"
    assert pivot([row]).lines[0][-1] == f"{row.recipe}; diverged (1 of 2 runs)"
    (row,) = make_rows([bad])
    assert row.marks == "diverged"

"""VR-MCL: the numeric properties of its specification, with the real method."""

from types import SimpleNamespace

import pytest
import torch

from clbench.data.tasks import Task
from clbench.model.devices import ALONE
from clbench.plugins.seqlora import SeqLoRA
from clbench.plugins.vrmcl import VRMCL


class Data:
    """Stands for a batch: one row, and a loss of its own."""

    def __init__(self, loss):
        self.of = loss
        self.labels, self.share = [0], 1.0

    def split(self, size):
        return [self]


class Model:
    """Stands for a learner whose loss is the batch's own function of the weights."""

    def __init__(self, values):
        self.weights = SimpleNamespace(data=values, copy=lambda: self.weights.data.clone())
        self.device = torch.device("cpu")
        self.settings = SimpleNamespace(batch_size=1)
        self.passes = self.feed = self
        self.devices = ALONE

    def loss(self, batch, weights):
        return batch.of(weights)

    def gradient(self, loss, weights, create_graph=False, retain_graph=False):
        return torch.autograd.grad(loss, weights, create_graph=create_graph, retain_graph=retain_graph or create_graph)[
            0
        ]

    def generator(self, purpose):
        return None

    def draws(self, examples, generator):
        while True:
            yield []


def quadratic(curvature, optimum):
    return Data(lambda x: (0.5 * curvature * (x - optimum) ** 2).sum())


@pytest.mark.parametrize(("order", "expected"), [("first", 4.8), ("second", 3.84)])
def test_one_inner_step_on_a_quadratic_by_hand(order, expected):
    method = VRMCL(inner_rate=0.1, order=order)
    theta = torch.tensor([0.5])
    loss, gradient = method.hypergradient(Model(theta), theta, [quadratic(2, 1)], [(quadratic(3, -1), 1.0)])
    assert gradient.item() == pytest.approx(expected)
    assert loss.item() == pytest.approx(0.5 * 3 * 1.6**2)
    assert theta.item() == 0.5


@pytest.mark.parametrize(("order", "factors"), [("first", (1, 1)), ("second", (0.8, 0.64))])
def test_the_mean_over_inner_states_by_hand(order, factors):
    method = VRMCL(inner_rate=0.1, order=order, outer_at="mean")
    theta = torch.tensor([0.5])
    slices, outer = [quadratic(2, 1)] * 2, [(quadratic(3, -1), 0.5), (quadratic(3, -1), 0.25)]
    _, gradient = method.hypergradient(Model(theta), theta, slices, outer)
    x1, x2 = 0.6, 0.68
    expected = 0.75 * (factors[0] * 3 * (x1 + 1) + factors[1] * 3 * (x2 + 1)) / 2
    assert gradient.item() == pytest.approx(expected)


class Steps:
    """Stands for a phase: yields given batches, keeps what is supplied, moves the weights by plain descent or not."""

    def __init__(self, model, batches, rate):
        self.model, self.batches, self.rate, self.supplied = model, batches, rate, []

    def groups(self):
        yield from ([batch] for batch in self.batches)

    def keep(self, *held):
        """What a bookmark would hold: no run is stopped here."""

    def supply(self, gradient, loss):
        self.supplied.append(gradient.clone())

    def apply(self):
        self.model.weights.data = self.model.weights.data - self.rate * self.supplied[-1]


# of one inner step of rate 0.1: 1.6 (x - 1), 0.9 (x + 1), 2.4 x
HYPERGRADIENTS = [(2, 1), (1, -1), (4, 0)]


@pytest.mark.parametrize(
    ("momentum", "expected"),
    [
        (0.0, [-0.8, 1.71, 0.108]),  # plain meta-learning, at 0.5, 0.9, 0.045
        (0.25, [-0.8, 1.71 + 0.25 * (-0.8 - 1.35), 0.753 + 0.25 * (1.1725 - 2.16)]),  # at 0.5, 0.9, 0.31375
    ],
)
def test_variance_reduction_by_hand(momentum, expected):
    """Each new batch is measured at the new and at the previous weights (eq. 4); descent of rate 0.5 from 0.5."""
    model = Model(torch.tensor([0.5]))
    phase = Steps(model, [quadratic(*shape) for shape in HYPERGRADIENTS], 0.5)
    VRMCL(momentum=momentum, inner_rate=0.1).learn_meta(model, phase)
    assert [float(gradient) for gradient in phase.supplied] == pytest.approx(expected)


def test_a_carried_hypergradient_enters_the_next_task():
    model, method = Model(torch.tensor([0.5])), VRMCL(inner_rate=0.1, carry=True)
    method.learn_meta(model, Steps(model, [quadratic(2, 1)], 0.0))
    assert method.carried.item() == pytest.approx(-0.8)
    for carry, expected in ((True, 1.35 + 0.25 * (-0.8 - 1.35)), (False, 1.35)):
        again = VRMCL(inner_rate=0.1, carry=carry)
        again.carried = method.carried if carry else None
        phase = Steps(model, [quadratic(1, -1)], 0.0)
        again.learn_meta(model, phase)
        assert phase.supplied[0].item() == pytest.approx(expected)
        assert (again.carried is not None) == carry


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.9])
def test_the_same_data_in_each_step_leaves_the_hypergradient(momentum):
    model = Model(torch.tensor([0.5, 3.0]))
    plain = Steps(Model(torch.tensor([0.5, 3.0])), [quadratic(2, 1)] * 10, 0.05)
    reduced = Steps(model, [quadratic(2, 1)] * 10, 0.05)
    VRMCL(momentum=momentum).learn_meta(model, reduced)
    VRMCL(momentum=0).learn_meta(plain.model, plain)
    assert torch.allclose(torch.stack(reduced.supplied), torch.stack(plain.supplied), atol=1e-6)


@pytest.mark.parametrize(("momentum", "ratio"), [(0.25, 0.6), (0.15, 0.739)])
def test_the_variance_at_frozen_weights_falls_as_predicted(momentum, ratio):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(80, 2000, generator=generator)
    batches = [Data(lambda x, n=n: ((1 + n) * x).sum()) for n in noise]
    model = Model(torch.zeros(2000))
    phase = Steps(model, batches, 0.0)
    VRMCL(momentum=momentum, inner_rate=0.0).learn_meta(model, phase)
    variance = torch.stack(phase.supplied[20:]).var()
    assert (variance / noise.var()).item() == pytest.approx(ratio, rel=0.03)


def meta_phase(learner, task, method):
    """A phase of the real learner, a memory in the method, and a new random stream."""
    learner.begin_task(1, task)
    method.memory.of_task["old"] = task.train[:6]
    return learner.training(task.train)


def test_without_inner_steps_and_momentum_it_is_the_gradient_of_the_outer_loss(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    method = VRMCL(inner_rate=0.0)
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)) / 5)
    start = learner.weights.copy()
    meta_phase(learner, toy_tasks[0], method)
    (new,), (old,) = (
        next(learner.feed.draws(toy_tasks[0].train, learner.generator("a"))),
        next(learner.feed.draws(toy_tasks[1].train, learner.generator("b"))),
    )
    outer = method.weigh([new], [old])
    assert [weight for _, weight in outer] == [8 / 16, 0.5 * 8 / 16]
    loss, gradient = method.hypergradient(learner, start, new.split(2), outer)
    learner.weights.zero_grad()
    total = learner.loss(new) * 0.5 + learner.loss(old) * 0.25
    total.backward()
    assert torch.allclose(gradient, learner.weights.grad, atol=1e-6)
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    assert torch.equal(learner.weights.data, start)


def test_second_order_on_the_model_agrees_with_finite_differences(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    theta = torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)) / 50
    direction = torch.randn(len(theta), generator=torch.Generator().manual_seed(1))
    direction /= direction.norm()
    (new,) = next(learner.feed.draws(toy_tasks[0].train, learner.generator("a")))
    learner.passes.train_mode()
    slopes = {}
    for order in ("first", "second"):
        method = VRMCL(order=order, inner_rate=0.1)
        slopes[order] = float(method.hypergradient(learner, theta, new.split(2), [(new, 1.0)])[1] @ direction)
    low, high = (
        float(method.hypergradient(learner, theta + sign * 0.005 * direction, new.split(2), [(new, 1.0)])[0])
        for sign in (-1, 1)
    )
    assert slopes["second"] == pytest.approx((high - low) / 0.01, rel=0.01)
    assert abs(slopes["first"] - slopes["second"]) > abs(slopes["second"]) * 0.02


class Recorder(VRMCL):
    """The method, with every hypergradient's starting point and result."""

    def hypergradient(self, learner, theta, slices, outer):
        before = learner.weights.copy()
        result = super().hypergradient(learner, theta, slices, outer)
        assert torch.equal(learner.weights.data, before)
        self.seen.append((theta.clone(), before, [id(part) for part in slices], result[1]))
        return result


def recorded(learner, tasks, **options):
    method = Recorder(memory_ratio=0.25, **options)
    method.seen = []
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        report = method.learn_task(learner, task)
    return method, report


def test_the_second_branch_takes_the_previous_weights_and_the_same_batches(make_learner, toy_tasks):
    method, report = recorded(make_learner(epochs=2), toy_tasks)
    steps = report["steps"]
    assert steps == 6
    assert len(method.seen) == 2 * steps - 1  # the first meta-iteration has no past
    fronts = [method.seen[0], *method.seen[1::2]]
    backs = method.seen[2::2]
    for number, back in enumerate(backs, start=1):
        assert torch.equal(back[0], fronts[number - 1][0])
        assert torch.equal(fronts[number][0], fronts[number][1])
        assert back[2] == fronts[number][2]
    method, _ = recorded(make_learner(epochs=2), toy_tasks, momentum=0.0)
    assert len(method.seen) == steps


def test_both_branches_share_the_dropout(make_learner, toy_tasks):
    learner = make_learner(epochs=1, lora_dropout=0.5, learning_rate=0.0)  # the weights stay: both branches agree
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)) / 5)
    method, _ = recorded(learner, toy_tasks)
    for front, back in zip(method.seen[1::2], method.seen[2::2], strict=True):
        assert torch.equal(front[3], back[3])
    assert not torch.equal(method.seen[0][3], method.seen[1][3])


def test_the_first_task_is_plain_training(make_learner, toy_tasks):
    ends = []
    for method in (VRMCL(), SeqLoRA()):
        learner = make_learner()
        learner.begin_task(0, toy_tasks[0])
        method.learn_task(learner, toy_tasks[0])
        ends.append(learner.weights.copy())
    assert torch.equal(*ends)


@pytest.mark.parametrize("options", [{"outer_optimizer": "sgd"}, {"order": "second", "outer_at": "mean"}])
def test_forms_learn(make_learner, toy_tasks, options):
    learner = make_learner(micro_batch=3)
    _, report = recorded(learner, toy_tasks, **options)
    assert report["remembered"] == 12
    assert torch.isfinite(learner.weights.data).all()


def test_a_step_of_one_row_has_one_slice(make_learner, toy_tasks):
    short = Task("short", toy_tasks[1].train[:1], ())
    _, report = recorded(make_learner(), [toy_tasks[0], short])
    assert report["steps"] == 1

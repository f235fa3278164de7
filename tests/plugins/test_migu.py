"""MIGU: the numeric properties of its specification, with the real method."""

from collections import defaultdict

import pytest
import torch

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.plugins.lorareplay import LoRAReplay
from clbench.plugins.migu import MIGU, Magnitudes
from clbench.plugins.olora import OLoRA
from clbench.plugins.seqlora import SeqLoRA


def learn(learner, tasks, method):
    for index, task in enumerate(tasks):
        learner.begin_task(index, task)
        report = method.learn_task(learner, task)
    return learner.weights.copy(), report


def randomise(learner):
    learner.weights.assign(torch.randn(len(learner.weights), generator=torch.Generator().manual_seed(0)) / 5)


def magnitudes_of(learner, rows):
    """The magnitudes of one training step on the rows, by parameter name."""
    training = learner.training(rows)
    with Magnitudes.watching(learner) as magnitudes:
        for batch in training.take(1):
            training.backward(learner.loss(batch))
    return magnitudes


BASES = {"seqlora": SeqLoRA, "olora": OLoRA, "lorareplay": lambda: LoRAReplay(memory_ratio=0.25)}


@pytest.mark.parametrize("name", BASES)
def test_nothing_frozen_is_the_base_bitwise(make_learner, toy_tasks, name):
    def end(method):
        learner = make_learner(method.attach) if name == "olora" else make_learner()
        return learn(learner, toy_tasks, method)[0]

    plain = end(BASES[name]())
    ends = [end(MIGU(base=name, frozen=frozen, memory_ratio=0.25)) for frozen in (0.0, 0.7)]
    assert torch.equal(ends[0], plain)
    assert not torch.equal(ends[1], plain)


@pytest.mark.parametrize(
    ("frozen", "rows", "kept"), [(0.7, 10, 3), (0.7, 8, 3), (0.7, 16, 5), (0.4, 8, 5), (0.95, 8, 1)]
)
def test_how_many_rows_are_kept(frozen, rows, kept):
    sums = torch.stack(
        [torch.randperm(rows, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    ).float()
    mask = MIGU(frozen=frozen).keep(sums)
    assert mask.sum(1).tolist() == [kept] * 4
    assert torch.equal(mask, sums >= rows - kept)


def test_the_quantile_rule_differs_by_one_on_some_sizes():
    sums = torch.arange(1024.0)[None]
    assert MIGU().keep(sums).sum() == 1024 - 716 == 308
    assert MIGU(rule="quantile").keep(sums).sum() == 307
    constant = torch.ones(1, 10)
    assert MIGU(rule="quantile").keep(constant).sum() == 10
    assert MIGU().keep(constant).sum() == 3


def test_the_threshold_is_the_papers_for_each_base():
    assert (MIGU().part, MIGU(base="lorareplay").part, MIGU(base="lorareplay", frozen=0.1).part) == (0.7, 0.4, 0.1)


def test_scaling_leaves_the_mask():
    sums = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    for rule in ("count", "quantile"):
        method = MIGU(rule=rule)
        assert torch.equal(method.keep(sums), method.keep(7 * sums))
        assert torch.equal(method.keep(sums), method.keep(sums / sums.sum(1, keepdim=True)))


def test_random_rows_keep_the_number():
    torch.manual_seed(0)
    masks = [MIGU(rows="random").keep(torch.arange(10.0)[None]) for _ in range(5)]
    assert [int(mask.sum()) for mask in masks] == [3] * 5
    assert len({str(mask) for mask in masks}) > 1


def test_magnitudes_are_the_summed_absolute_outputs(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    randomise(learner)
    magnitudes = magnitudes_of(learner, toy_tasks[0].train[:8])
    seen, handles = {}, []
    for name, layer in learner.model.named_modules():
        if name.endswith(("lora_A.default", ".q", ".v")):
            handles.append(layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out})))
    learner.model.eval()  # the method's hooks are gone; its sums stay
    (batch,) = next(learner.feed.draws(toy_tasks[0].train[:8], learner.generator("any")))
    learner.loss(batch)
    for handle in handles:
        handle.remove()
    assert len(magnitudes.of_matrix) == 12
    for name, sums in magnitudes.of_matrix.items():
        module = name.removesuffix(".weight") if "lora_A" in name else name.split(".lora_B")[0]
        expected = seen[module].abs().sum((0, 1))
        assert torch.allclose(sums, expected, rtol=1e-4), name


def test_with_b_zero_the_mask_of_b_is_that_of_the_frozen_layer(make_learner, toy_tasks):
    learner = make_learner(lora_dropout=0.0)
    for random in (False, True):
        if random:
            randomise(learner)  # B, which starts at zero, takes part now
        alone, handles = {}, []
        for name, layer in learner.model.named_modules():
            if name.endswith("base_layer"):
                key = name.replace("base_layer", "lora_B.default.weight")
                keep = lambda _, __, out, key=key, alone=alone: alone.update({key: out.detach().abs().sum((0, 1))})  # noqa: E731
                handles.append(layer.register_forward_hook(keep))
        combined = magnitudes_of(learner, toy_tasks[0].train[:8]).of_matrix
        for handle in handles:
            handle.remove()
        assert len(alone) == 6
        same = [torch.allclose(combined[name], sums, rtol=1e-5) for name, sums in alone.items()]
        assert not any(same) if random else all(same)


def test_micro_batches_give_the_same_mask(make_learner):
    """On rows of one length, which no batch pads: padding counts, as in the released code."""
    (task,) = load_tasks("toy", find_stream("sst-2"), 200, 1)
    masks, of_length = [], defaultdict(list)
    for row, encoded in zip(task.train, make_learner().feed.encoder.encode(task.train), strict=True):
        of_length[len(encoded.input_ids), len(encoded.labels)].append(row)
    rows = max(of_length.values(), key=len)[:8]
    assert len(set(rows)) == 8
    for micro_batch in (None, 2):
        learner = make_learner(lora_dropout=0.0, micro_batch=micro_batch)
        randomise(learner)
        training = learner.training(rows)
        with Magnitudes.watching(learner) as magnitudes:
            for batch in training:
                training.backward(learner.loss(batch))
        masks.append(magnitudes.mask(MIGU().keep))
        assert not magnitudes.sums.any()  # the next step starts anew
    assert masks[0].any()
    assert not masks[0].all()
    assert torch.equal(*masks)


def test_frozen_rows_keep_their_values_and_kept_rows_move_as_unmasked(make_learner, toy_tasks):
    ends = []
    for frozen in (0.0, 0.5):
        learner = make_learner(lora_dropout=0.0, clip_norm=0.0, learning_rate=0.1)
        randomise(learner)
        start = learner.weights.copy()
        learner.task_index = 1
        training = learner.training(toy_tasks[0].train[:8], "sgd")
        method = Recorder(frozen=frozen)
        with Magnitudes.watching(learner) as magnitudes:
            method.learn_masked(learner, training, magnitudes)
        ends.append(learner.weights.copy())
    mask = method.masks[0]
    assert 0.4 < mask.float().mean() < 0.6
    assert torch.equal(ends[1][~mask], start[~mask])
    assert torch.equal(ends[1][mask], ends[0][mask])
    assert (ends[0][~mask] != start[~mask]).any()


class Recorder(MIGU):
    """The method, with the mask and the weights of every step."""

    def learn_masked(self, learner, training, magnitudes):
        self.masks, self.states = [], []
        mask = magnitudes.mask

        def noting(keep):
            self.masks.append(mask(keep))
            self.states.append(learner.weights.copy())  # before the step, whichever is masked
            return self.masks[-1]

        magnitudes.mask = noting
        super().learn_masked(learner, training, magnitudes)


@pytest.mark.parametrize("masked", ["gradient", "update"])
def test_with_adamw_a_newly_frozen_row_moves_on_unless_the_update_is_masked(make_learner, toy_tasks, masked):
    learner = make_learner(epochs=4)
    randomise(learner)
    learner.task_index = 1
    method = Recorder(frozen=0.5, masked=masked)
    method.learn_task(learner, toy_tasks[0])
    states, moved = [*method.states, learner.weights.copy()], 0
    assert len(method.masks) == 12
    for step in range(2, len(method.masks)):
        late = method.masks[step - 1] & ~method.masks[step]
        moved += int((states[step + 1][late] != states[step][late]).sum())
    assert (moved > 0) == (masked == "gradient")


def test_the_first_task_is_plain_unless_asked_and_replay_remembers(make_learner, toy_tasks):
    plain, _ = learn(make_learner(), toy_tasks[:1], SeqLoRA())
    assert torch.equal(learn(make_learner(), toy_tasks[:1], MIGU())[0], plain)
    assert not torch.equal(learn(make_learner(), toy_tasks[:1], MIGU(skip_first_task=False))[0], plain)
    assert learn(make_learner(), toy_tasks, MIGU())[1]["remembered"] == 0
    assert learn(make_learner(), toy_tasks, MIGU(base="lorareplay", memory_ratio=0.25))[1]["remembered"] == 12


def test_on_olora_only_the_new_block_has_masks_and_the_first_task_is_olora(make_learner, toy_tasks):
    def end(method, tasks):
        learner = make_learner(method.attach)
        learn(learner, tasks, method)
        return learner.weights.copy(), method.past

    assert MIGU(base="olora").part == 0.05
    plain, _ = end(OLoRA(), toy_tasks[:1])
    assert torch.equal(end(MIGU(base="olora", frozen=0.7), toy_tasks[:1])[0], plain)
    masked, past = end(MIGU(base="olora", frozen=0.7), toy_tasks[:2])
    assert len(masked) == len(plain)  # the weights are the new block's
    assert all(torch.equal(past[key], tensor) for key, tensor in end(OLoRA(), toy_tasks[:2])[1].items())
    free, _ = end(MIGU(base="olora", frozen=0.7, lambda1=0.0), toy_tasks[:2])
    assert not torch.equal(free, masked)  # the penalty is part of the gradient

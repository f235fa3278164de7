"""The replay buffer's sampling rule and the masks of important weights: what holds for any rows and scores."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clbench.data.tasks import Example, Task
from clbench.learning.importance import Importance, min_max, quantile, top_mask
from clbench.learning.replay_memory import Memory

LABELS = ("a", "b", "c", "d")
TARGETS = st.lists(st.sampled_from(LABELS), min_size=1, max_size=60)
RATIOS = st.sampled_from([0.0, 0.02, 0.1, 0.25, 0.5, 0.9, 1.0])
SEEDS = st.integers(0, 2**31)
SCORES = arrays(np.float64, st.integers(1, 40), elements=st.floats(-100, 100, allow_subnormal=False))
PARTS = st.floats(0, 1)


def task_of(targets, labels=LABELS):
    rows = tuple(Example("q", str(number), target) for number, target in enumerate(targets))
    return Task("t", rows, rows[:1], labels=labels)


def remembered(task, ratio, seed):
    memory = Memory()
    memory.remember(task, ratio, seed)
    return memory


@given(TARGETS, RATIOS, SEEDS)
def test_a_memory_is_a_balanced_part_of_the_training_rows(targets, ratio, seed):
    task = task_of(targets)
    memory = remembered(task, ratio, seed)
    kept = memory.examples
    places = [int(row.passage) for row in kept]
    assert places == sorted(set(places))  # each at most once, in the task's order
    assert all(task.train[place] == row for place, row in zip(places, kept, strict=True))
    assert len(kept) == len(memory)
    budget, there = int(ratio * len(targets) + 1e-9), Counter(targets)
    if not budget:
        assert memory.of_task == {}
        return
    assert len(kept) == budget or (budget < len(there) and budget < len(kept) <= len(there))
    quota, counts = max(1, budget // len(there)), Counter(row.target for row in kept)
    assert all(min(quota, there[label]) <= counts[label] <= there[label] for label in there)


@given(st.integers(1, 60), RATIOS, SEEDS)
def test_free_text_fills_the_budget(count, ratio, seed):
    task = task_of([f"text {number}" for number in range(count)], ())
    memory = remembered(task, ratio, seed)
    assert len(memory) == int(ratio * count + 1e-9)
    assert set(memory.examples) <= set(task.train)
    assert memory == remembered(task, ratio, seed)


def test_every_row_is_drawn_equally_often():
    task, counts = task_of(["a", "b"] * 10), Counter()
    for seed in range(600):
        counts.update(row.passage for row in remembered(task, 0.25, seed).examples)
    assert counts.total() == 600 * 5
    assert len(counts) == 20
    assert all(110 < count < 195 for count in counts.values())  # 150 expected, deviation 11


@given(SCORES, PARTS)
def test_the_quantile_is_numpys(scores, part):
    assert quantile(torch.from_numpy(scores), part).item() == pytest.approx(np.quantile(scores, part), abs=1e-9)


@given(arrays(np.float64, (3, 7), elements=st.floats(-100, 100, allow_subnormal=False)), PARTS)
def test_the_quantile_is_taken_along_the_last_axis(scores, part):
    found = quantile(torch.from_numpy(scores), part)
    assert found.shape == (3, 1)
    assert found.squeeze(1).numpy() == pytest.approx(np.quantile(scores, part, axis=1), abs=1e-9)


@given(SCORES, PARTS)
def test_a_mask_is_what_lies_above_numpys_quantile(scores, top):
    threshold = np.quantile(scores, 1 - top)
    clear = np.abs(scores - threshold) > 1e-9  # else a matter of rounding
    given_scores = torch.from_numpy(scores)
    loose, strict = top_mask(given_scores, top).numpy(), top_mask(given_scores, top, strict=True).numpy()
    assert np.array_equal(loose[clear], scores[clear] > threshold)
    assert np.array_equal(strict[clear], loose[clear])
    assert not (strict & ~loose).any()


@given(st.permutations(range(23)), st.integers(0, 22))
def test_of_different_scores_the_top_part_is_marked(scores, above):
    """A part that ends on a score: `above` scores lie over it, and itself on the threshold."""
    values, part = torch.tensor(scores, dtype=torch.float64), above / 22
    assert sorted(values[top_mask(values, part, strict=True)].tolist()) in (
        [float(value) for value in range(23 - above, 23)],
        [float(value) for value in range(22 - above, 23)],  # the threshold came out lower by its last bit
    )
    assert abs(int(top_mask(values, part).sum()) - (above + 1)) <= 1


@given(
    arrays(np.float64, 12, elements=st.floats(-9, 9, allow_subnormal=False)), PARTS, st.randoms(use_true_random=False)
)
def test_each_part_has_a_threshold_of_its_own(scores, top, random):
    places = list(range(12))
    random.shuffle(places)
    groups = [torch.tensor(places[:8]).view(2, 4), torch.tensor([places[8:]])]
    values = torch.from_numpy(scores)
    mask = top_mask(values, top, groups=groups)
    for part in (places[:4], places[4:8], places[8:]):
        assert torch.equal(mask[part], top_mask(values[part], top))


@given(
    st.lists(arrays(np.float64, 3, elements=st.floats(0, 9)), min_size=1, max_size=8), st.floats(0, 1), st.booleans()
)
def test_importance_is_the_moving_average_from_zero(raw, smoothing, spread):
    importance, mean, deviation = Importance(smoothing, spread), np.zeros(3), np.zeros(3)
    for values in raw:
        importance.update(torch.from_numpy(values))
        mean = smoothing * mean + (1 - smoothing) * values
        deviation = smoothing * deviation + (1 - smoothing) * np.abs(values - mean)
    expected = mean * deviation if spread else mean
    assert importance.score.numpy() == pytest.approx(expected, abs=1e-9)


@given(SCORES)
def test_scaling_to_one_keeps_the_order(scores):
    found = min_max(torch.from_numpy(scores)).numpy()
    assert found.min() == 0
    assert found.max() == (0 if scores.min() == scores.max() else pytest.approx(1))
    assert (np.diff(found[np.argsort(scores)]) >= 0).all()

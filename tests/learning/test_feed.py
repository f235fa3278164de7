"""Feed: every row once with its share of the tokens, draws without end, and what is counted as replayed."""

import pytest
import torch

from clbench.encoding.batches import IGNORED, target_tokens


@pytest.mark.parametrize(("micro_batch", "sizes"), [(None, [4, 3]), (3, [3, 3, 1])])
def test_all_rows_come_once_each_batch_with_its_part_of_the_tokens(make_learner, toy_tasks, micro_batch, sizes):
    learner, examples = make_learner(batch_size=4, micro_batch=micro_batch), toy_tasks[0].train[:7]
    learner.model.train()
    batches = list(learner.feed.once(examples))
    assert not learner.model.training
    assert [len(batch.labels) for batch in batches] == sizes
    tokens = [int(target_tokens(batch)) for batch in batches]
    assert [batch.share for batch in batches] == pytest.approx([count / sum(tokens) for count in tokens])
    found = sorted(tuple(row[row != IGNORED].tolist()) for batch in batches for row in batch.labels)
    assert found == sorted(tuple(row.labels) for row in learner.feed.encoder.encode(examples))


def test_an_epoch_has_every_row_and_a_draw_no_row_twice(make_learner, toy_tasks):
    learner, examples = make_learner(batch_size=4, micro_batch=3, epochs=2), toy_tasks[0].train[:7]
    steps = list(learner.feed.epochs(examples, torch.Generator().manual_seed(0)))
    rows = [[row for batch in group for row in batch.rows] for group in steps]
    assert sorted(map(len, rows)) == [3, 3, 4, 4]
    assert sorted(rows[0] + rows[1]) == sorted(rows[2] + rows[3]) == list(range(7))
    draws = learner.feed.draws(examples, torch.Generator().manual_seed(0))
    drawn = [[row for batch in next(draws) for row in batch.rows] for _ in range(20)]
    assert all(len(set(one)) == 4 for one in drawn)
    assert {row for one in drawn for row in one} == set(range(7))
    few = learner.feed.draws(examples[:2], torch.Generator().manual_seed(0))
    assert sum(len(batch.rows) for batch in next(few)) == 2


def test_rows_of_other_tasks_are_counted_as_replayed(make_learner, toy_tasks):
    first, second = toy_tasks[0], toy_tasks[1]
    mixed = (*first.train[:3], *second.train[:2])
    for own, replayed in ((second, 3), (first, 2), (None, 0)):
        learner = make_learner(batch_size=5, epochs=1)
        learner.begin_task(0, own)
        list(learner.feed.epochs(mixed, torch.Generator().manual_seed(0)))
        assert (learner.cost.rows, learner.cost.replayed_rows) == (5, replayed)
        learner.feed.batch(mixed)
        list(learner.feed.once(first.train[:4]))
        assert learner.cost.replayed_rows == replayed
        assert learner.cost.other_rows == replayed + (4 if own is second else 0)

"""Batching and shortening: what holds for any rows."""

import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from clbench.data.tasks import Example
from clbench.encoding.batches import BUCKET, IGNORED, accumulation_group, collate, pad, shuffled_batches, sorted_batches
from clbench.encoding.encoder import Encoded, shorten, shorten_target
from clbench.errors import ClbenchError
from clbench.model.batch_limits import BatchLimits
from clbench.settings import Settings

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 200), max_size=300)
IDS = st.lists(st.integers(2, 99), min_size=1, max_size=9)
ROWS = st.lists(st.builds(Encoded, IDS, IDS), min_size=1, max_size=9)
SIZES = st.integers(1, 9)


@given(LENGTHS, SIZES, st.integers(0, 2**31))
def test_an_epoch_holds_every_index_once_and_few_batches_are_not_full(lengths, size, seed):
    batches = shuffled_batches(lengths, size, torch.Generator().manual_seed(seed))
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size)
    assert sum(len(batch) < size for batch in batches) <= 1
    windows = -(-len(lengths) // (size * BUCKET))
    spans = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in batches)
    overlaps = sum(left[1] > right[0] for left, right in itertools.pairwise(spans))
    assert windows > 1 or overlaps == 0  # one window: its batches are runs of the sorted lengths


@given(LENGTHS, SIZES)
def test_sorted_batches_hold_every_index_once_from_long_to_short(lengths, size):
    batches = list(sorted_batches(lengths, size))
    order = list(itertools.chain(*batches))
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in batches[:-1])
    assert len(batches) == -(-len(lengths) // size)


@given(st.lists(IDS, min_size=1, max_size=6), st.booleans(), st.sampled_from([1, 4, 8, 32]))
def test_padding_is_on_one_side_and_up_to_a_multiple(rows, left, multiple):
    padded = pad(rows, 0, left, multiple)
    longest = max(map(len, rows))
    assert padded.dtype == torch.int64
    assert padded.shape[0] == len(rows)
    assert padded.shape[1] % multiple == 0
    assert longest <= padded.shape[1] < longest + multiple
    for row, found in zip(rows, padded.tolist(), strict=True):
        fillers = [0] * (padded.shape[1] - len(row))
        assert found == ([*fillers, *row] if left else [*row, *fillers])


@given(ROWS, st.booleans(), st.sampled_from([1, 4, 8, 32]))
def test_a_batch_marks_what_is_text_and_what_the_loss_counts(rows, left, multiple):
    batch = collate(rows, 0, CPU, left=left, multiple=multiple)
    assert torch.equal(batch.attention_mask, (batch.input_ids != 0).long())
    assert batch.attention_mask.sum(1).tolist() == [len(row.input_ids) for row in rows]
    assert batch.labels.shape[1] % min(multiple, 8) == 0
    for row, labels in zip(rows, batch.labels.tolist(), strict=True):
        assert labels == [*row.labels, *[IGNORED] * (batch.labels.shape[1] - len(row.labels))]
    assert batch.labels.flatten()[batch.labelled].tolist() == [label for row in rows for label in row.labels]


@given(ROWS, st.one_of(st.none(), SIZES), st.booleans())
def test_the_shares_of_a_step_add_up_and_follow_the_target_tokens(rows, size, left):
    places = [7 * number for number in range(len(rows))]
    group = accumulation_group(rows, size, 0, CPU, left, positions=places)
    assert sum(batch.share for batch in group) == pytest.approx(1)
    assert [place for batch in group for place in batch.rows] == places
    assert all(len(batch.input_ids) <= (size or len(rows)) for batch in group)
    assert len(group) == -(-len(rows) // (size or len(rows)))
    tokens = sum(len(row.labels) for row in rows)
    assert [batch.share * tokens for batch in group] == pytest.approx([len(batch.labelled) for batch in group])
    one = torch.cat([batch.input_ids[batch.attention_mask.bool()] for batch in group])
    assert one.tolist() == [token for row in rows for token in row.input_ids]


@given(ROWS, SIZES)
def test_a_batch_splits_into_its_rows_in_order(rows, size):
    batch = collate(rows, 0, CPU)
    parts = batch.split(size)
    assert [len(part.labels) for part in parts[:-1]] == [size] * (len(parts) - 1)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def characters(example: Example) -> tuple[list[int], list[tuple[int, int]]]:
    """A tokenizer with a token for each character, numbered by its place, and an end token (0, 0)."""
    places = range(len(example.prompt))
    return [*places, -1], [*((place, place + 1) for place in places), (0, 0)]


@given(st.text("h", max_size=6), st.text("p", max_size=12), st.text("t", max_size=6), st.integers(1, 26))
def test_only_the_middle_of_the_passage_is_cut(head, passage, tail, most):
    example = Example(head, passage, "x", tail)
    ids, offsets = characters(example)
    fixed = len(head) + len(tail) + 1
    if most < min(fixed, len(ids)):
        with pytest.raises(ClbenchError, match=f"max_input {most} is too short: .* takes {fixed} tokens"):
            shorten(ids, offsets, example, most)
        return
    kept = shorten(ids, offsets, example, most)
    assert len(kept) == min(most, len(ids))
    lost = sorted(set(ids) - set(kept))
    assert kept == [token for token in ids if token not in lost]
    if lost:
        assert lost == list(range(lost[0], lost[-1] + 1))  # one piece
        before, after = lost[0] - len(head), len(head) + len(passage) - lost[-1] - 1
        assert before >= 0
        assert after >= 0
        assert abs(before - after) <= 1  # as much of the beginning as of the end
    else:
        assert kept == ids


@given(IDS, st.integers(1, 12))
def test_a_target_keeps_its_beginning_and_its_end_token(ids, most):
    found = shorten_target(ids, most)
    assert len(found) == min(most, len(ids))
    assert found[-1] == ids[-1]
    assert found[:-1] == ids[: len(found) - 1]


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=20).map(lambda lengths: sorted(lengths, reverse=True)),
    st.integers(1, 12),
    st.integers(1, 300),
    st.one_of(st.just(float("inf")), st.integers(0, 100)),
)
def test_a_batch_of_questions_is_the_largest_within_all_limits(lengths, rows, tokens, padding):
    def fits(count: int) -> bool:
        waste = sum(lengths[0] - length for length in lengths[:count])
        return count <= rows and count * lengths[0] <= tokens and waste <= padding

    found = BatchLimits().rows(lengths, Settings(eval_batch_size=rows, eval_tokens=tokens), padding)
    assert 1 <= found <= len(lengths)
    assert found == 1 or fits(found)
    assert found == len(lengths) or not fits(found + 1)


@given(st.integers(1, 50), st.integers(1, 50))
def test_after_running_out_of_memory_half_as_much_is_the_most(rows, tokens):
    limits = BatchLimits()
    assume(rows > 1)
    limits.shrink(rows, tokens)
    assert limits.rows([tokens] * rows, Settings(eval_batch_size=100)) == max(1, rows // 2)
    with pytest.raises(ClbenchError, match=f"a single question of {tokens} tokens"):
        limits.shrink(1, tokens)


@given(ROWS, st.integers(1, 5), st.floats(0.1, 1.0))
def test_parts_of_a_batch_are_its_rows_and_their_shares_are_its_share(rows, count, share):
    batch = collate(rows, 0, CPU, share, positions=range(len(rows)))
    parts = [batch.part(number, count) for number in range(count)]
    assert sum(part.share for part in parts) == pytest.approx(share)
    counted = [part for part in parts if part.share]
    assert sorted(itertools.chain(*(part.rows for part in counted))) == list(range(len(rows)))
    for part in parts:
        assert len(part.labels) >= 1
        assert part.input_ids.shape[1] == batch.input_ids.shape[1]  # as wide as the whole, whoever looks at padding
        assert part.share == pytest.approx(share * sum(part.tokens) / sum(batch.tokens)) or not part.share
        for tensor, of in (
            (part.input_ids, batch.input_ids),
            (part.attention_mask, batch.attention_mask),
            (part.labels, batch.labels),
        ):
            assert torch.equal(tensor, of[list(part.rows)])
        assert torch.equal(part.labelled, (part.labels.flatten() != IGNORED).nonzero().squeeze(1))
        assert part.tokens == tuple((part.labels != IGNORED).sum(1).tolist())


@given(ROWS, SIZES)
def test_a_split_batch_knows_its_target_tokens(rows, size):
    for part in collate(rows, 0, CPU).split(size):
        assert part.tokens == tuple((part.labels != IGNORED).sum(1).tolist())
        assert part.labelled is None

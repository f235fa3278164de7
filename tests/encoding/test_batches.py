"""Text to tensors: truncation, buckets, collation."""

import pytest
import torch

from clbench.data.tasks import Example
from clbench.encoding.batches import accumulation_group, count_batches, shuffled_batches, sorted_batches
from clbench.encoding.encoder import Encoded, Encoder
from clbench.errors import ClbenchError

LONG = Example("What is the topic? Option: World, Sports.\n", " ".join(f"word{i}" for i in range(300)), "Sports")
CPU = torch.device("cpu")


def test_the_middle_of_the_passage_is_cut(backbone):
    whole = backbone.tokenizer(LONG.prompt)["input_ids"]
    short = Encoder(backbone.tokenizer, 64, 8).encode([LONG])[0].input_ids
    assert len(whole) > 64 == len(short)
    text = backbone.tokenizer.decode(short, skip_special_tokens=True)
    assert text.startswith(LONG.head + "word0")
    assert text.endswith("299\nAnswer:")
    assert short[-1] == backbone.tokenizer.eos_token_id
    kept = next(n for n in range(64) if short[: n + 1] != whole[: n + 1])
    assert short == whole[:kept] + whole[len(whole) - (64 - kept) :]


def test_another_tail_is_kept_as_well(backbone):
    example = Example("Input: ", "word " * 300, "x", "\nOutput: ")
    text = backbone.tokenizer.decode(Encoder(backbone.tokenizer, 40, 8).encode([example])[0].input_ids)
    assert text.startswith("Input: word word")
    assert text.endswith("word \nOutput: </s>")


def test_a_target_without_a_setting_is_as_long_as_its_task_says(backbone):
    example = Example("Topic?\n", "x", "word " * 200, max_answer=5)
    other = Example("Topic?\n", "x", "word " * 200)
    assert [len(row.labels) for row in Encoder(backbone.tokenizer, 64, None).encode([example, other])] == [5, 128]


def test_a_prompt_that_fits_is_left_alone(backbone):
    example = Example("Topic?\n", "short", "Sports")
    assert (
        Encoder(backbone.tokenizer, 64, 8).encode([example])[0].input_ids
        == backbone.tokenizer(example.prompt)["input_ids"]
    )


def test_an_instruction_that_does_not_fit_is_an_error(backbone):
    with pytest.raises(ClbenchError, match="max_input 16 is too short"):
        Encoder(backbone.tokenizer, 16, 8).encode([Example("a long instruction " * 20, "x", "y")])


def test_targets_keep_their_end_token(backbone):
    labels = (
        Encoder(backbone.tokenizer, 64, 4)
        .encode([Example("Topic?\n", "x", "a very long answer indeed, longer than four")])[0]
        .labels
    )
    assert len(labels) == 4
    assert labels[-1] == backbone.tokenizer.eos_token_id


def test_each_example_is_tokenised_once(backbone):
    texts = []

    def counting(prompts, **settings):
        texts.extend(prompts)
        return backbone.tokenizer(prompts, **settings)

    encoder = Encoder(counting, 64, 8)
    examples = [Example("Topic?\n", f"text {i}", "Sports") for i in range(3)]
    assert encoder.encode(examples) == encoder.encode(list(reversed(examples)))[::-1]
    assert sorted(texts) == sorted([e.prompt for e in examples] + [e.target for e in examples])


def test_an_epoch_holds_every_row_once_in_batches_of_similar_length():
    lengths = torch.randint(5, 100, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = shuffled_batches(lengths, 8, torch.Generator().manual_seed(1))
    assert sorted(index for batch in batches for index in batch) == list(range(1000))
    assert {len(batch) for batch in batches} == {8}
    padded = sum(8 * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)
    assert batches == shuffled_batches(lengths, 8, torch.Generator().manual_seed(1))
    assert batches != shuffled_batches(lengths, 8, torch.Generator().manual_seed(2))


def test_rows_in_random_order_are_in_batches_whatever_their_lengths():
    lengths = torch.randint(5, 100, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = shuffled_batches(lengths, 8, torch.Generator().manual_seed(1), bucketed=False)
    assert [index for batch in batches for index in batch] == torch.randperm(
        1000, generator=torch.Generator().manual_seed(1)
    ).tolist()
    assert sum(8 * max(lengths[i] for i in batch) for batch in batches) > 1.5 * sum(lengths)


@pytest.mark.parametrize(
    ("rows", "size", "least", "steps"),
    [
        (1000, 64, 49, 15),  # LLaMA's release: 150 steps in 10 epochs
        (250, 64, 49, 4),  # of CB 40
        (1000, 64, 1, 16),
        (1000, 8, 7, 125),
        (250, 8, 7, 31),
        (5, 8, 7, 1),  # the only one
        (16, 8, 8, 2),
    ],
)
@pytest.mark.parametrize("bucketed", [True, False])
def test_a_last_batch_of_too_few_rows_is_left_out(rows, size, least, steps, bucketed):
    batches = shuffled_batches([3] * rows, size, torch.Generator().manual_seed(0), bucketed, least)
    assert len(batches) == count_batches(rows, size, least) == steps
    assert all(len(batch) >= min(least, rows) for batch in batches)


def test_evaluation_batches_go_from_long_to_short():
    lengths = [3, 9, 1, 7, 5]
    assert list(sorted_batches(lengths, 2)) == [[1, 3], [4, 0], [2]]


def test_shares_of_micro_batches_follow_their_target_tokens():
    rows = [Encoded([1] * n, [2] * m) for n, m in ((3, 1), (5, 2), (4, 5))]
    group = accumulation_group(rows, 2, 0, CPU)
    assert [batch.share for batch in group] == [3 / 8, 5 / 8]
    assert group[0].input_ids.tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert group[0].attention_mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert group[0].labels.tolist() == [[2, -100], [2, 2]]
    assert [batch.share for batch in accumulation_group(rows, None, 0, CPU)] == [1.0]

"""Texts as rows for a perplexity: what is scored, how often, and what the model sees of it."""

from itertools import pairwise

import pytest

from clbench.data.probes import read_probes
from clbench.encoding.windows import HALF, halves, spans, text_ids
from clbench.model.backbone import load_tokenizer

TEXT = read_probes("embedded", None).texts[0].text


@pytest.fixture(scope="module")
def mini():
    return load_tokenizer("mini")


def test_a_decoder_is_scored_on_every_token_but_the_first_half_window_once(llama):
    ids = text_ids(llama.tokenizer, TEXT, 1000)
    rows = halves(llama.tokenizer, ids, True, 512)
    assert [token for row in rows for token in row.labels] == ids[HALF:]
    assert all(row.input_ids[0] == llama.tokenizer.bos_token_id for row in rows)
    assert [token for row in rows for token in row.input_ids[1:]] == ids[: HALF * len(rows)]


def test_windows_fit_what_the_model_may_read_and_a_short_text_is_one_of_them(backbone):
    ids = text_ids(backbone.tokenizer, TEXT, 300)
    rows = halves(backbone.tokenizer, ids, False, 41)
    assert {len(row.input_ids) for row in rows} == {21}  # 20 and the end
    assert all(row.input_ids[-1] == backbone.tokenizer.eos_token_id not in row.labels for row in rows)
    assert [len(row.labels) for row in halves(backbone.tokenizer, ids[:9], False, 41)] == [4, 1]


def test_spans_and_what_is_left_are_the_text(mini):
    ids = text_ids(mini, TEXT, 1024)
    rows = spans(mini, ids, 512)
    marks = [mini.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(6)]
    assert len(rows) == 8
    found = []
    for row in rows:
        assert row.input_ids[-1] == row.labels[-1] == mini.eos_token_id
        cut = dict(zip(marks, parts_after(row.labels[:-1], marks), strict=True))
        found += [token for one in row.input_ids[:-1] for token in cut.get(one, [one])]
        assert [len(row.labels), [one for one in row.input_ids if one in marks]] == [19 + 6 + 1, marks]
        assert all(cut.values())
    assert found == ids
    assert spans(mini, ids, 512) == rows


def test_without_sentinels_there_are_no_spans(backbone):
    assert spans(backbone.tokenizer, text_ids(backbone.tokenizer, TEXT, 300), 512) is None


def test_what_looks_like_a_special_token_is_text(mini):
    ids = text_ids(mini, "an end </s> and a <extra_id_0> of text", 100)
    assert mini.eos_token_id not in ids
    assert mini.convert_tokens_to_ids("<extra_id_0>") not in ids


def parts_after(ids, marks):
    """The tokens after each mark, up to the next one."""
    places = [*(ids.index(mark) for mark in marks), len(ids)]
    return [ids[begin + 1 : end] for begin, end in pairwise(places)]

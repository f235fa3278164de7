"""TRACE from its files to its record: every metric, every letter, several scores a task, prompts far too long."""

import json

import pytest

from clbench.data.answer_scores import score_answers
from clbench.data.streams import find_stream
from clbench.encoding.encoder import Encoder
from clbench.encoding.round_trip import AT_ONCE, in_parts, unread
from clbench.model.backbone import load_tokenizer
from clbench.records.answers import read_answers
from clbench.records.collection import cell_rows
from clbench.records.files import read_record
from clbench.reports.rescore import score_matrix
from clbench.reports.site import others_sheet

GERMAN = "Größe und Maß, „schön“"


@pytest.fixture
def trace_folder(tmp_path):
    """A small release of TRACE: four rows a split, one prompt of 163,000 characters."""
    answers = {
        "20Minuten": f"{GERMAN} einfach.\n",
        "ScienceQA": "B\nfor a reason",
        "MeetingBank": "a short summary of all",
    }
    for spec in find_stream("trace:1").specs:
        for split in ("train", "eval", "test"):
            words = "wort " * 32_600 if spec.name == "MeetingBank" and split == "test" else "wort "
            rows = [
                {
                    "prompt": f"{spec.head}{GERMAN} 判断 {split} {i} {words}ende{spec.tail}",
                    "answer": spec.labels[i % 3] if spec.labels else answers.get(spec.name, f"{i}.5"),
                }
                for i in range(4)
            ]
            path = tmp_path / "trace" / spec.name / f"{split}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return tmp_path / "trace"


def test_trace_runs_and_keeps_every_score(trace_folder, clbench, tiny_run, tmp_path):
    result = clbench(*tiny_run, "--method", "seqlora", "--order", "9", "--data", trace_folder)
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("results/trace*[0-9a-f].json")
    record = read_record(path)
    assert record.stream.order == 9
    names = [task.name for task in record.tasks]
    meeting = record.tasks[names.index("MeetingBank")]
    assert (meeting.metric, meeting.shortened) == ("rouge_l_spaces", 4)
    last = len(names) - 1
    for name, matrix in record.further_scores.items():
        for j, task in enumerate(record.tasks):
            assert (matrix[last][j] is None) == (name not in task.further_metrics)
    cells = read_answers(record, path.with_suffix(".answers.jsonl"))
    given = cells[last, names.index("MeetingBank")]
    expected = score_answers("bleu_1", [one.text for one in given], [one.accepted for one in given])
    assert record.further_scores["bleu_1"][last][names.index("MeetingBank")] == pytest.approx(expected)
    assert cells[last, names.index("20Minuten")][0].accepted == (f"{GERMAN} einfach.",)
    again = score_matrix(record, cells)  # SARI from the stored scores: the answers' file has no questions
    assert again[last] == pytest.approx(record.scores[last])
    sheet = others_sheet(record)
    assert sheet.lines[0][:2] == ["MeetingBank", "bleu_1"]
    assert len(sheet.lines) == sum(len(task.further_metrics) for task in record.tasks) == 10
    row = cell_rows(record)[-1]
    assert row["task"] == "20Minuten"
    assert row["score.bleu_4"] == record.further_scores["bleu_4"][last][last]


def test_chinese_prompts_are_said_to_be_unread_before_training_and_by_the_audit(tmp_path, clbench):
    spec = find_stream("C-STANCE").specs[0]
    for split in ("train", "eval", "test"):
        rows = [
            {"prompt": f"{spec.head}{split}行{i}判断文本对象的态度{spec.tail}", "answer": "ABC"[i]} for i in range(3)
        ]
        (tmp_path / "C-STANCE").mkdir(exist_ok=True)
        (tmp_path / "C-STANCE" / f"{split}.json").write_text(json.dumps(rows), "utf-8")
    asked = ("--stream", "C-STANCE", "--data", tmp_path, "--max-input", 96)
    result = clbench("audit", *asked)
    assert result.exit_code == 1
    assert "error: C-STANCE: 6 of 6 questions cannot be read" in result.output
    result = clbench("run", "--method", "seqlora", *asked, "--epochs", 1, "--max-answer", 2)
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "warning: task 'C-STANCE': 6 of 6 questions cannot be read" in output
    assert output.count("cannot be read") == 1
    (path,) = tmp_path.glob("results/*[0-9a-f].json")
    assert "unreadable prompts" in read_record(path).marks


def test_a_few_unknown_letters_do_not_make_a_text_unread():
    assert unread(load_tokenizer("mini"), ["判断文本", f"{GERMAN} and much more of it", "plain"]) == ["判断文本"]


def test_texts_are_tokenised_in_parts_and_none_is_lost():
    texts = ["a" * (AT_ONCE // 2), "b" * (AT_ONCE // 2), "c", "d" * (3 * AT_ONCE), "e", ""]
    parts = [texts[part] for part in in_parts(texts)]
    assert parts == [texts[:2], texts[2:3], texts[3:4], texts[4:]]
    assert list(in_parts([])) == []


def test_a_cut_is_remembered_by_the_token_cache(tmp_path):
    from clbench.encoding.token_cache import TokenCache

    tokenizer = load_tokenizer("mini")
    rows = [find_stream("FOMC").specs[0].example("word " * count, "A") for count in (1, 200)]
    for _ in range(2):
        found = Encoder(tokenizer, 64, 8, TokenCache(tmp_path, tokenizer)).encode(rows)
        assert [row.cut for row in found] == [False, True]
        assert [len(row.input_ids) for row in found][1] == 64

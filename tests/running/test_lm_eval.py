"""lm-evaluation-harness on an exported folder: the score is the record's. Needs the extra lm-eval: pytest -n 0 -m lm_eval."""

import json

import pytest

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.encoding.alpaca import chat_messages
from clbench.records.files import read_record
from tests.conftest import TINY_LLAMA
from tests.docs.test_pages import DOCS, blocks_of

pytestmark = [pytest.mark.lm_eval, pytest.mark.filterwarnings("ignore")]  # what it and its libraries warn of is theirs
SMALL = ["--limit-train", "16", "--limit-test", "40", "--epochs", "10", "--stream", "sst-2", "--device", "cpu"]


@pytest.mark.parametrize("folder", ["tiny_folder", "llama_folder"])
def test_lm_eval_scores_as_the_record_does(clbench, tmp_path, request, folder, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    flags = [word for name, value in TINY_LLAMA.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    base = request.getfixturevalue(folder)
    run = [
        "run",
        "--method",
        "seqlora",
        "--backbone",
        base,
        *flags,
        *SMALL,
        "--lora-targets",
        "all-linear",
        "--save-adapter",
    ]
    assert clbench(*run, "--lora-rank", "8").exit_code == 0
    (adapter,) = (tmp_path / "results").glob("*.adapter")
    assert clbench("export", adapter, "--merged", "merged").exit_code == 0
    (task,) = load_tasks("toy", find_stream("sst-2"), 16, 40, 1)
    lines = [json.dumps({"text": row.passage, "label": row.target}) for row in task.test]
    (tmp_path / "reviews_test.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (block,) = [one for one in blocks_of(DOCS / "use.md") if one.title == "sentiment.yaml"]
    text, more = block.text, {}
    if folder == "llama_folder":
        (system, user) = chat_messages(task.test[0])
        assert user["content"] == f"{task.test[0].passage}\nAnswer:"
        more = {"apply_chat_template": True, "system_instruction": system["content"]}
        asked = next(line for line in text.splitlines() if line.startswith("doc_to_text"))
        text = text.replace(asked, 'doc_to_text: "{{text}}\\nAnswer:"')
    (tmp_path / "sentiment.yaml").write_text(text, "utf-8")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    arguments = {"pretrained": str(tmp_path / "merged"), "device": "cpu"}
    found = simple_evaluate("hf", model_args=arguments, tasks=["sentiment"], task_manager=tasks, **more)
    score = read_record(adapter.with_suffix(".json")).scores[0][0]
    assert 0 < score < 100
    assert 100 * found["results"]["sentiment"]["exact_match,none"] == pytest.approx(score)

"""Layouts: the same row through each release's layout, what a folder is recognised as, SuperNI's own form."""

import json
from pathlib import Path

import pytest

from clbench.data.catalogue import task_specs
from clbench.data.layouts import LAYOUTS, find_layout
from clbench.data.rows import Row
from clbench.data.sources import Selection, Source, fingerprint, load_tasks, make_tasks, open_source
from clbench.data.streams import find_stream
from clbench.errors import ClbenchError
from tests.realdata import REAL, needs_data

PASSAGES = {
    "agnews": ("Title: Shares rise\nText: Shares rose on Friday.", "Business"),
    "copa": ('Which sentence is the effect of "It rained."? Choose one between A and B.\nA: x\nB: y', "B"),
    "qqp": ("first sentence: How?\nsecond sentence: How so?", "True"),
    "sst-2": ("Text: a fine film", "Good"),
    "boolqa": ("question: is it\npassage: It is.", "False"),
}
GROUPS = {"agnews": "TC/agnews", "copa": "COPA/COPA", "qqp": "QQP/QQP", "sst-2": "SC/SST-2", "boolqa": "BoolQA/BoolQA"}
SAPT = {"qqp": ("qqp", {"True": "yes"}), "sst-2": ("sst2", {}), "boolqa": ("boolq", {})}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_layout(folder: Path, layout: str) -> Path:
    """Write `PASSAGES` as the release of that name has them."""
    for task, (passage, label) in PASSAGES.items():
        for split in ("train", "test"):
            if layout == "rkif":
                row = {"id": "1", "instruction": "i", "input": f"{passage}\n\nAnswer:", "output": label}
                write(folder / split / f"{task}.json", [row])
            elif layout == "olora":
                write(folder / GROUPS[task] / f"{split}.json", [{"label": label, "sentence": f"{passage}\n"}])
                write(folder / GROUPS[task] / "labels.json", [label])
            elif layout == "trace":
                spec = task_specs()[task]
                for name in (split, "eval"):
                    row = {"prompt": f"{spec.head}{passage}\n{spec.tail} ", "answer": f"{label} "}
                    write(folder / task / f"{name}.json", [row])
            else:
                name, renamed = SAPT.get(task, (task, {}))
                row = {"input": passage, "output": renamed.get(label, label)}
                write(folder / name / f"{split}.json", {"Definition": [], "Instances": [row]})
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_row_gives_the_same_prompt_and_target(tmp_path, layout):
    stream = find_stream(",".join(PASSAGES))
    folder = write_layout(tmp_path / layout, layout)
    assert find_layout(folder).name == layout
    for name in ("auto", layout):
        for task in make_tasks(open_source(str(folder), name), stream, Selection()):
            passage, label = PASSAGES[task.name]
            expected = task_specs()[task.name].example(passage, label)
            assert task.train == task.test == (expected,)


def test_a_named_layout_is_not_guessed(tmp_path):
    folder = write_layout(tmp_path, "olora")
    with pytest.raises(ClbenchError, match="no folder 'agnews'"):
        make_tasks(open_source(str(folder), "sapt"), find_stream("agnews"), Selection())


def test_superni_takes_every_reference_for_scoring_and_one_for_training(tmp_path):
    name = "task002_quoref_answer_generation"
    rows = [{"id": str(i), "input": f" Who {i}? ", "output": [f"a{i}", f"b{i}", f"c{i}"]} for i in range(40)]
    for split in ("train", "test"):
        write(tmp_path / name / f"{split}.json", {"Definition": ["other"], "Instances": rows})
    (task,) = load_tasks(str(tmp_path), find_stream(name))
    first = task.test[0]
    assert first.prompt.startswith("Definition: In this task, you're expected to write answers")
    assert first.prompt.endswith("\n\nNow complete the following example -\nInput: Who 0?\nOutput: ")
    assert (first.target, first.accepted, first.max_answer) == ("a0", ("a0", "b0", "c0"), 32)
    targets = {example.target[0] for example in task.train}
    assert targets == {"a", "b", "c"}
    assert all(example.accepted == (example.target,) for example in task.train)
    assert load_tasks(str(tmp_path), find_stream(name))[0] == task
    assert load_tasks(str(tmp_path), find_stream(name), seed=5)[0].train != task.train


def test_superni_is_scored_as_the_protocol_says():
    stream = find_stream("superni:2")
    for choice, accuracy in (("rouge", set()), ("mixed", {"363", "875"})):
        source = Source(lambda spec, split: [Row("question", (spec.labels[0] if spec.labels else "answer",))])
        tasks = make_tasks(source, stream, Selection(), choice)
        assert {task.name[4:].split("_")[0] for task in tasks if task.metric == "exact_match"} == accuracy
        assert {task.metric for task in tasks} <= {"exact_match", "rouge_l_ascii"}


def test_orders_7_and_8_are_the_numbers_of_the_protocol():
    second = [name[4:].split("_")[0] for name in find_stream("8").tasks]
    assert " ".join(second) == "748 073 1590 639 1572 1687 591 363 1510 1729 181 511 002 1290 875"
    assert sorted(find_stream("7").tasks) == sorted(find_stream("8").tasks)


def test_the_released_end_of_a_prompt_is_kept_to_the_letter(tmp_path):
    ends = ["\n\nAnswer:", " \nAnswer:", "\nAnswer:"]
    rows = [
        {"id": "1", "instruction": "i", "input": f"Text: film {n}{end}", "output": "Good"} for n, end in enumerate(ends)
    ]
    write(tmp_path / "rkif" / "train" / "sst-2.json", rows)
    write(tmp_path / "rkif" / "test" / "sst-2.json", rows)
    source, stream = open_source(str(tmp_path / "rkif")), find_stream("sst-2")
    [plain], [released] = (make_tasks(source, stream, Selection(template=one)) for one in ("auto", "release"))
    head = task_specs()["sst-2"].head
    assert [row.prompt for row in released.train] == [head + row["input"] for row in rows]
    assert [row.prompt for row in released.test] == [head + row["input"] for row in rows]
    assert {row.tail for row in plain.train} == {"\nAnswer:"}
    assert fingerprint([plain]) != fingerprint([released])
    with pytest.raises(ClbenchError, match=r"toy sst-2 test: row \d+: .*--template release reads the rkif layout"):
        make_tasks(open_source("toy"), stream, Selection(template="release"))


def test_trace_s_prompts_begin_and_end_as_its_tasks_say_and_keep_every_letter(tmp_path):
    spec = task_specs()["C-STANCE"]
    rows = [{"prompt": f"{spec.head}文本。\n对象{spec.tail}", "answer": letter} for letter in "ABC"]
    for split in ("train", "eval", "test"):
        write(tmp_path / "C-STANCE" / f"{split}.json", rows)
    source, stream = open_source(str(tmp_path)), find_stream("C-STANCE")
    (task,) = make_tasks(source, stream, Selection())
    assert [row.prompt for row in task.train] == [row["prompt"] for row in rows]
    assert task.labels == ("A", "B", "C")
    assert len(source.read(spec, "dev")) == 3
    write(tmp_path / "C-STANCE" / "test.json", [{"prompt": "判断", "answer": "A"}])
    with pytest.raises(ClbenchError, match=r"test.json: row 0: the prompt does not begin with '判断以下"):
        make_tasks(open_source(str(tmp_path)), stream, Selection())


@needs_data
def test_the_prompts_of_trace_are_those_of_the_released_files():
    source, stream = open_source(str(REAL / "trace")), find_stream("9")
    for task in make_tasks(source, stream, Selection(template="release")):
        for split, examples in (("train", task.train), ("test", task.test)):
            rows = json.loads((REAL / "trace" / task.name / f"{split}.json").read_text("utf-8"))
            assert [row["prompt"] for row in rows] == [example.prompt for example in examples]
            assert [row["answer"].strip() for row in rows] == [example.target for example in examples]


@needs_data
def test_the_released_prompts_are_those_of_the_released_files():
    differing = {}
    for plain, released in zip(
        *(
            make_tasks(open_source(str(REAL / "long_sequence")), find_stream("4"), Selection(template=one))
            for one in ("auto", "release")
        ),
        strict=True,
    ):
        rows = json.loads((REAL / "long_sequence" / "train" / f"{plain.name}.json").read_text("utf-8"))
        assert {row["instruction"] + row["input"] for row in rows} >= {example.prompt for example in released.train}
        differing[plain.name] = any(a.prompt != b.prompt for a, b in zip(plain.train, released.train, strict=True))
    assert {name for name, differs in differing.items() if differs} == {
        "agnews", "amazon", "dbpedia", "mnli", "sst-2", "yahoo", "yelp",
    }  # fmt: skip


@needs_data
@pytest.mark.parametrize("name", find_stream("7").tasks)
def test_real_superni_reads_whole(name):
    (task,) = load_tasks(str(REAL / "superni"), find_stream(name))
    for split, examples in (("train", task.train), ("test", task.test)):
        content = json.loads((REAL / "superni" / name / f"{split}.json").read_text("utf-8"))
        rows = [row for row in content["Instances"] if row["output"] != [""]]
        assert len(examples) == len(rows)
        for row, example in zip(rows, examples, strict=True):
            outputs = [row["output"]] if isinstance(row["output"], str) else row["output"]
            definition = " ".join(content["Definition"][0].split())
            expected = f"Definition: {definition} Now complete the following example - Input: {row['input']} Output:"
            assert example.prompt.split() == expected.split()
            assert example.target in [output.strip() for output in outputs]
            if split == "test":
                assert example.accepted == tuple(output.strip() for output in outputs)


@needs_data
def test_the_olora_sample_has_the_prompts_of_the_release_where_both_have_the_row():
    stream = find_stream("agnews,cb,copa")
    sample = load_tasks(str(REAL / "olora_layout_sample"), stream)
    release = load_tasks(str(REAL / "long_sequence"), stream)
    shared = 0
    for ours, theirs in zip(sample, release, strict=True):
        known = {" ".join(e.passage.split()): e for e in (*theirs.train, *theirs.test)}
        for example in (*ours.train, *ours.test):
            twin = known.get(" ".join(example.passage.split()))
            if twin is not None:
                shared += 1
                assert (example.prompt, example.target) == (twin.prompt, twin.target)
    assert shared > 300

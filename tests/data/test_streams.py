"""Streams and tasks: orders, aliases, prompts."""

import json
from collections import Counter

import pytest

from clbench.cli.run import choose_streams, shuffle
from clbench.data.catalogue import known_streams, task_specs
from clbench.data.sources import Selection, complete, load_tasks, make_tasks, open_source
from clbench.data.streams import find_stream
from clbench.errors import ClbenchError


def test_orders_are_permutations():
    streams = {stream.order: stream.tasks for stream in known_streams().values()}
    assert sorted(streams) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    for order in (1, 2, 3):
        assert sorted(streams[order]) == ["agnews", "amazon", "dbpedia", "yahoo"]
    for order in (4, 5, 6):
        assert sorted(streams[order]) == sorted(name for name, spec in task_specs().items() if spec.hub)
    for order in (7, 8):
        assert sorted(streams[order]) == sorted(name for name in task_specs() if name.startswith("task"))
    assert len({tuple(tasks) for tasks in streams.values()}) == 9


def test_order_6_is_the_long_script_of_olora():
    script = "yelp amazon mnli cb copa qqp rte imdb sst-2 dbpedia agnews yahoo multirc boolqa wic"
    assert list(find_stream("6").tasks) == script.split()


def test_order_4_and_long_1_mean_the_same():
    assert choose_streams("4", None) == choose_streams(None, "long:1") == choose_streams("4", "long:1")
    assert choose_streams("1,2", None) == [find_stream("standard:1"), find_stream("standard:2")]


def test_a_list_of_tasks_is_a_stream():
    assert find_stream("agnews, yahoo").tasks == ("agnews", "yahoo")
    assert find_stream("agnews").order is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("10", r"no order '10'; did you mean '1'\? \(known: 1, 2"),
        ("long:4", "no stream or task 'long:4'; did you mean 'long'"),
        ("agnews,yaho", "no task 'yaho'; did you mean 'yahoo'"),
    ],
)
def test_unknown_streams(name, message):
    with pytest.raises(ClbenchError, match=message):
        find_stream(name)


def test_prompt_form():
    example = task_specs()["rte"].example("sentence 1: a\nsentence 2: b\n", "entailment")
    assert example.prompt == (
        'What is the logical relationship between the "sentence 1" and the "sentence 2"? Choose one from the option. '
        "Option: contradiction, entailment.\nsentence 1: a\nsentence 2: b\nAnswer:"
    )


def test_a_task_that_is_named_again_is_learned_again_on_the_same_rows():
    stream = find_stream("agnews,yahoo,AGNews")
    assert stream.tasks == ("agnews", "yahoo", "agnews@2")
    assert stream == find_stream(stream.name)
    first, _, again = load_tasks("toy", stream, 8, 4)
    assert (again.name, again.train, again.test) == ("agnews@2", first.train, first.test)


def test_an_order_is_drawn_by_its_seed_and_named_by_it():
    stream = find_stream("long:1~7")
    assert stream == find_stream("long:1").shuffled(7)
    assert (stream.name, stream.family, stream.order) == ("long:1~7", "long", None)
    assert sorted(stream.tasks) == sorted(find_stream("long:1").tasks)
    assert len({find_stream(f"long:1~{seed}").tasks for seed in range(5)}) == 5
    assert find_stream("agnews,agnews,yahoo~1").tasks.count("agnews@2") == 1
    assert shuffle([stream], "2,4-5") == [stream.shuffled(2), stream.shuffled(4), stream.shuffled(5)]
    with pytest.raises(ClbenchError, match="after '~' stands the seed of its order"):
        find_stream("long:1~x")
    with pytest.raises(ClbenchError, match="--shuffle-order takes seeds"):
        shuffle([stream], "often")


def test_a_drawn_order_of_passes_names_them_as_they_come():
    tasks = next(one for seed in range(20) if (one := find_stream(f"agnews,agnews,yahoo~{seed}").tasks)[1] == "yahoo")
    assert tasks == ("agnews", "yahoo", "agnews@2")


def test_superni_by_numbers(tmp_path):
    stream = find_stream("superni:363,1234")
    assert stream.tasks == ("task363_sst2_polarity_classification", "task1234")
    assert stream.family == "superni"
    mixed = {one: find_stream(f"superni:{one}").specs[0].metric_mixed for one in ("363", "875", "195", "1687", "1234")}
    assert mixed == {"363": "exact_match", "875": "exact_match", "195": "exact_match", "1687": None, "1234": None}
    instances = [{"id": str(i), "input": f"in {i}", "output": ["out"]} for i in range(4)]
    folder = tmp_path / "task1234_of_another_kind"
    folder.mkdir()
    for split in ("train", "test"):
        content = {"Definition": ["Say out."], "Instances": instances}
        (folder / f"{split}.json").write_text(json.dumps(content), "utf-8")
    stream = find_stream("superni:1234")
    (task,) = load_tasks(str(tmp_path), stream)
    assert task.test[0].prompt == (
        "Definition: Say out.\n\nNow complete the following example -\nInput: in 0\nOutput: "
    )
    assert task.metric == "rouge_l_ascii"
    assert complete(stream, [task]).specs[0].head == task.test[0].head
    (folder / "train.json").write_text(json.dumps({"Definition": [], "Instances": instances}), "utf-8")
    with pytest.raises(ClbenchError, match="no text 'Definition'"):
        load_tasks(str(tmp_path), stream)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_blurred_boundaries_exchange_rows_with_neighbours_and_lose_none(share):
    stream, source = find_stream("agnews,yahoo,sst-2"), open_source("toy")
    plain = make_tasks(source, stream, Selection(limit_train=20, limit_test=4))
    found = make_tasks(source, stream, Selection(limit_train=20, limit_test=4, overlap=share))
    rows = [Counter(task.train) for task in found]
    assert sum(rows, Counter()) == sum((Counter(task.train) for task in plain), Counter())
    assert [task.test for task in found] == [task.test for task in plain]
    given = round(20 * share / 2)
    own = [sum(rows[i][example] for example in plain[i].train) for i in range(3)]
    assert own == [20 - given, 20 - 2 * given, 20 - given]
    assert sum(rows[0][example] for example in plain[1].train) == given
    assert sum(rows[0][example] for example in plain[2].train) == 0  # no neighbour

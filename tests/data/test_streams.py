"""Streams and tasks: orders, aliases, prompts."""

import pytest

from clbench.cli.run import choose_streams
from clbench.data.catalogue import known_streams, task_specs
from clbench.data.streams import find_stream
from clbench.errors import ClbenchError


def test_orders_are_permutations():
    streams = {stream.order: stream.tasks for stream in known_streams().values()}
    assert sorted(streams) == [1, 2, 3, 4, 5, 6, 7, 8]
    for order in (1, 2, 3):
        assert sorted(streams[order]) == ["agnews", "amazon", "dbpedia", "yahoo"]
    for order in (4, 5, 6):
        assert sorted(streams[order]) == sorted(name for name in task_specs() if not name.startswith("task"))
    for order in (7, 8):
        assert sorted(streams[order]) == sorted(name for name in task_specs() if name.startswith("task"))
    assert len({tuple(tasks) for tasks in streams.values()}) == 8


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
        ("9", r"no order '9' \(known: 1, 2"),
        ("long:4", "no stream or task 'long:4'; did you mean 'long'"),
        ("agnews,yaho", "no task 'yaho'; did you mean 'yahoo'"),
        ("agnews,agnews", "a task stands twice"),
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

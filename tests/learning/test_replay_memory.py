"""The replay buffer: sizes, balance, seeds."""

from collections import Counter

from clbench.data.catalogue import task_specs
from clbench.data.streams import find_stream
from clbench.data.tasks import Example, Task
from clbench.learning.replay_memory import Memory

ROWS = {"cb": 250, "copa": 400}


def task_of(name: str, rows: int, labels: tuple[str, ...]) -> Task:
    targets = labels or tuple(f"free text {i}" for i in range(rows))
    examples = tuple(Example("question", f"{name} {i}", targets[i % len(targets)]) for i in range(rows))
    return Task(name, examples, examples[:1], labels=labels)


def test_sizes_over_the_long_stream():
    memory = Memory()
    sizes = []
    for name in find_stream("long:1").tasks[:14]:
        before = len(memory)
        memory.remember(task_of(name, ROWS.get(name, 1000), task_specs()[name].labels), 0.02, seed=1)
        sizes.append(len(memory) - before)
    assert sizes[:5] == [20, 5, 20, 8, 20]
    assert len(memory) == len(memory.examples) == 12 * 20 + 5 + 8 == 253


def test_classes_differ_by_the_top_up_at_most():
    memory = Memory()
    memory.remember(task_of("dbpedia", 1000, task_specs()["dbpedia"].labels), 0.02, seed=1)
    counts = Counter(example.target for example in memory.examples)
    assert len(counts) == 14
    assert min(counts.values()) >= 1
    assert sum(counts.values()) == 20
    memory.remember(task_of("agnews", 1000, task_specs()["agnews"].labels), 0.02, seed=1)
    counts = Counter(example.target for example in memory.of_task["agnews"])
    assert set(counts.values()) == {5}


def test_more_classes_than_room_exceed_the_room():
    memory = Memory()
    memory.remember(task_of("dbpedia", 1000, task_specs()["dbpedia"].labels), 0.01, seed=1)
    assert len(memory) == 14


def test_free_text_is_drawn_uniformly():
    memory = Memory()
    memory.remember(task_of("summaries", 200, ()), 0.02, seed=1)
    assert len(memory) == 4


def test_same_seed_same_examples():
    task = task_of("agnews", 200, task_specs()["agnews"].labels)
    drawn = []
    for seed in (1, 1, 2):
        memory = Memory()
        memory.remember(task, 0.1, seed)
        drawn.append(memory.examples)
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 20


def test_ratio_zero_keeps_nothing():
    memory = Memory()
    memory.remember(task_of("cb", 250, task_specs()["cb"].labels), 0.0, seed=1)
    assert not memory

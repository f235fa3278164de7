"""A grid expands to the runs that its axes span, each once, without those that it leaves out."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench.data.streams import find_stream
from clbench.discovery import Plugins, find_plugins
from clbench.errors import ClbenchError
from clbench.grid import NEW_GRID, Grid, MethodAxes, read_grid


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return find_plugins()


def write(folder: Path, text: str) -> Path:
    path = folder / "grid.toml"
    path.write_text(text, "utf-8")
    return path


def test_axes_span_the_runs(tmp_path: Path, plugins: Plugins) -> None:
    grid = read_grid(
        write(
            tmp_path,
            """
            methods = ["seqlora", {name = "ewc", options = {strength = [1, 10]}, settings = {learning_rate = 0.5}}]
            orders = [1, 3]
            seeds = [2, 5]
            settings = {epochs = [1, 2], batch_size = 4}
            """,
        )
    )
    runs = grid.expand(plugins)
    found = [
        (s.method, s.options.get("strength"), s.settings.learning_rate, s.stream, s.seed, s.settings.epochs)
        for s in runs
    ]
    axes = [("seqlora", None, 1e-3), ("ewc", 1.0, 0.5), ("ewc", 10.0, 0.5)]
    wanted = {
        (*axis, find_stream(order).name, seed, epochs)
        for axis, order, seed, epochs in product(axes, "13", (2, 5), (1, 2))
    }
    assert set(found) == wanted
    assert len(found) == len(wanted) == 24
    assert all(run.settings.batch_size == 4 for run in runs)
    together = [(run.stream, run.seed) for run in runs]
    assert len(list(dict.fromkeys(together))) == 4
    assert together == sorted(together, key=list(dict.fromkeys(together)).index)


def test_a_run_that_two_entries_span_is_made_once(plugins: Plugins) -> None:
    runs = Grid([MethodAxes("ewc", {"strength": [1, 10]}), MethodAxes("ewc", {"strength": 10.0})]).expand(plugins)
    assert [run.options["strength"] for run in runs] == [1.0, 10.0]


def test_exclusions_leave_out_what_fits_all_their_lines(plugins: Plugins) -> None:
    axes = [MethodAxes("seqlora"), MethodAxes("ewc", {"strength": [1, 10]})]
    exclude = [{"method": "ewc", "strength": 10, "order": 5}, {"seed": [2, 3], "method": "seqlora"}]
    runs = Grid(axes, ["4", "5"], (1, 2, 3), exclude=exclude).expand(plugins)
    left = {(run.method, run.options.get("strength"), run.stream, run.seed) for run in runs}
    assert len(runs) == 18 - 3 - 4
    assert ("ewc", 10.0, "long:1", 1) in left
    assert not any(strength == 10.0 and stream == "long:2" for _, strength, stream, _ in left)
    assert {seed for method, _, _, seed in left if method == "seqlora"} == {1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["methods"]),
        ("methods = []", ["methods", "empty"]),
        ("methods = ['ewc']\nsteams = ['long:1']", ["steams", "streams"]),
        ("methods = [{name = 'ewc', option = {}}]", ["option", "methods"]),
        ("methods = [{options = {}}]", ["name"]),
        ("methods = ['ewc']\norders = [1]\nstreams = ['long:1']", ["orders", "streams", "not both"]),
        ("methods = ['ewc']\nseeds = 0", ["seeds", "0"]),
        ("methods = ['ewc']\nseeds = [1, 1]", ["seeds", "[1, 1]"]),
        ("methods = 3", ["methods"]),
        ("methods = [", ["grid.toml"]),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ClbenchError) as error:
        read_grid(write(tmp_path, text))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (Grid([MethodAxes("ewx")]), ["ewx", "ewc"]),
        (Grid([MethodAxes("ewc", {"strenght": 1})]), ["strenght", "strength"]),
        (Grid([MethodAxes("ewc", {"strength": []})]), ["strength", "empty list"]),
        (Grid([MethodAxes("ewc")], settings={"epoch": 1}), ["epoch", "epochs"]),
        (Grid([MethodAxes("ewc")], ["10"]), ["10"]),
        (Grid([MethodAxes("ewc")], exclude=[{"sed": 1}]), ["[[exclude]] 1", "sed", "seed"]),
        (Grid([MethodAxes("ewc")], exclude=[{"seed": 1, "epochs": 3}]), ["[[exclude]] 1", "no run"]),
    ],
)
def test_a_grid_that_cannot_be_expanded_says_why(plugins: Plugins, grid: Grid, words: list[str]) -> None:
    with pytest.raises(ClbenchError) as error:
        grid.expand(plugins)
    assert all(word in str(error.value) for word in words)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ClbenchError, match="clbench sweep new"):
        read_grid(tmp_path / "none.toml")


def test_the_new_grid_is_one(tmp_path: Path, plugins: Plugins) -> None:
    runs = read_grid(write(tmp_path, NEW_GRID)).expand(plugins)
    assert {run.method for run in runs} == {"lorareplay", "rkif"}
    assert len(runs) == 6
    uncommented = NEW_GRID.replace("# methods = [", "methods = [", 1).replace(
        'methods = ["lorareplay", "rkif"]\n', "", 1
    )
    assert len(read_grid(write(tmp_path, uncommented)).expand(plugins)) == 9


@given(
    epochs=st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    ranks=st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    seeds=st.sets(st.integers(0, 99), min_size=1, max_size=3),
)
def test_an_exclusion_and_its_runs_make_the_whole(
    plugins: Plugins, epochs: list[int], ranks: list[int], seeds: set[int]
) -> None:
    whole = Grid([MethodAxes("seqlora")], seeds=sorted(seeds), settings={"epochs": epochs, "lora_rank": ranks})
    runs = whole.expand(plugins)
    assert len(runs) == len(set(runs)) == len(epochs) * len(ranks) * len(seeds)
    less = Grid(whole.methods, whole.streams, whole.seeds, whole.settings, exclude=[{"epochs": epochs[0]}])
    left = less.expand(plugins)
    assert set(left) == {run for run in runs if run.settings.epochs != epochs[0]}

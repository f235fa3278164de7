"""Pictures: the numbers of the records are those in the axes, no label overlaps another, and the file is what its suffix says."""

import sys

import numpy as np
import pytest

from tests.conftest import REFERENCE

pytest.importorskip("matplotlib")
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.text import Text
from msgspec.structs import replace

from clbench.errors import ClbenchError, ClbenchWarning
from clbench.records.answers import read_answers
from clbench.records.files import read_record
from clbench.records.maps import Maps, Point, write_maps
from clbench.reports.forgetting import explain
from clbench.reports.leaderboard import make_rows
from clbench.reports.plots.kinds import KINDS, draw, page_svg, picture, save
from clbench.reports.plots.series import Series, board_titles, series_of, short_labels
from clbench.reports.plots.style import COLOURS, ON_DARK, REST, luminance, spread_out
from clbench.reports.suites import DRAWS_MAPS, read_suite, suite_names
from tests.records.examples import record

SCORE_KINDS = [kind for kind in KINDS if kind not in (*DRAWS_MAPS, "forgetting")]
MODULES = ("SelfAttention.q", "SelfAttention.v", "EncDecAttention.q")


def made_record(tasks, scores, seed=1, method="rkif", stream="s", fusions=8, seconds=60.0):
    """A record as far as a picture reads it."""
    last = [value or 0 for value in scores[-1]]
    fields = {
        "name": f"{method}-{seed}",
        "finished": str(seed),
        "scores": scores,
        "tasks": [{"name": name, "version": 1} for name in tasks],
        "learned": [{} if fusions is None else {"fusions": fusions} for _ in tasks],
        "timings": {"learn_seconds": [seconds for _ in tasks]},
        "probes": [
            {
                "name": name,
                "objective": name,
                "rows": 9,
                "digest": "d",
                "values": [20.0, *(20.0 + value for value in last)],
            }
            for name in ("spans", "answers")
        ],
    }
    return record(
        method, stream, seed, sum(last) / len(last), -10.0 * seed, fields=fields, epochs=2, learning_rate=1e-3
    )


def many(methods, tasks):
    """Series of so many methods on so many tasks, of two runs each."""
    names = [f"task{number}" for number in range(tasks)]
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 100, (methods, 2, tasks, tasks))
    known = np.tril(np.ones((tasks, tasks), bool))
    runs_of = np.where(known, scores, None).tolist()
    return [
        Series(f"method{k} (option=0.{k})", [made_record(names, m, seed, fusions=2**k) for seed, m in enumerate(runs)], "group")
        for k, runs in enumerate(runs_of)
    ]  # fmt: skip


def overlaps(figure: Figure) -> list:
    """Pairs of texts whose boxes cover one another, and texts that reach out of the picture."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    left_out = idle_labels(figure) | {id(text) for legend in figure.legends for text in legend.findobj(Text)}
    boxes = [(text, box_of(text)) for text in texts if id(text) not in left_out]
    boxes += [(legend, legend.get_window_extent().padded(-1)) for legend in figure.legends]
    corners = np.array([box.extents for _, box in boxes])  # left, lower, right, upper
    width, height = figure.bbox.size
    found = [
        str(boxes[i][0])
        for i in np.nonzero((corners < -3).any(1) | (corners[:, 2:] > (width + 3, height + 3)).any(1))[0]
    ]
    low, high = corners[:, None, :2], corners[:, None, 2:]
    cover = ((low < corners[None, :, 2:]) & (corners[None, :, :2] < high)).all(2)
    for i, j in zip(*np.nonzero(np.triu(cover, 1)), strict=True):
        one, other = boxes[i][0], boxes[j][0]
        if not (is_slanted(one) and is_slanted(other)):  # whose boxes are larger than their letters
            found.append((str(one), str(other)))
    return found


def box_of(text: Text):
    """The box of a text, without the line that leads from it to what it names."""
    return Text.get_window_extent(text).padded(-1)


def is_slanted(artist) -> bool:
    return isinstance(artist, Text) and artist.get_rotation() % 90 != 0


def idle_labels(figure: Figure) -> set[int]:
    """The labels of ticks that are not shown: matplotlib keeps those beyond an axis too."""
    axises = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    shown = {id(tick) for axis in axises for tick in axis._update_ticks()}
    ticks = [tick for axis in axises for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())]
    return {id(label) for tick in ticks if id(tick) not in shown for label in (tick.label1, tick.label2)}


@pytest.fixture(scope="module")
def maps_file(tmp_path_factory):
    """A maps file of two tasks, an encoder and a decoder of two layers; importance counts up."""
    names = [f"{stack}.block.{n}.layer.0.{module}.lora_{ab}.default.weight"
             for stack in ("encoder", "decoder") for n in range(2) for module in MODULES for ab in "AB"
             if stack == "decoder" or module != "EncDecAttention.q"]  # fmt: skip
    points = [Point(task, step, 4) for task in range(2) for step in range(5)]
    importance = np.arange(10 * 2 * len(names), dtype=np.float32).reshape(10, 2, len(names))
    importance[:5, 1] = np.nan
    importance[9, 0, :2] = importance[5, 0, :2] * 3  # encoder 0, SelfAttention.q
    vector = np.arange(10 * len(names), dtype=np.float32).reshape(10, len(names))
    file = tmp_path_factory.mktemp("maps") / "run.maps.safetensors"
    sizes = {name: 3 if "lora_A" in name else 1 for name in names}
    write_maps(file, Maps("run", 32, ["dbpedia", "amazon"], sizes, points, importance, vector))
    return file


@pytest.mark.parametrize("tasks", [4, 15])
@pytest.mark.parametrize("methods", [1, 13])
@pytest.mark.parametrize("kind", SCORE_KINDS)
def test_no_label_overlaps(kind, methods, tasks):
    if kind == "fusions" and methods == 1:
        pytest.skip("one point is no picture")
    assert overlaps(draw(kind, many(methods, tasks), "Figure 0: a title of the picture that is not short")) == []


@pytest.mark.parametrize("kind", DRAWS_MAPS)
def test_no_label_of_maps_overlaps(kind, maps_file):
    assert overlaps(draw(kind, [Series("rkif", [], "", [maps_file])], "Figure 0: a title")) == []


def test_an_overlap_is_found():
    figure = draw("bars", many(2, 4))
    figure.axes[0].text(0, 0, "in the way of a value", va="center")
    assert any("in the way" in str(pair) for pair in overlaps(figure))


def lengths(axes):
    """The bars of a panel from the top, by their names where it has them."""
    return [bar.get_width() for bar in axes.patches]


def names_of(axes):
    return [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]


def test_bars_show_the_last_row_by_name_and_its_mean():
    one = Series(
        "a", [made_record(["x", "y"], [[90, None], [40, 60]]), made_record(["y", "x"], [[1, None], [80, 50]], 2)]
    )
    two = Series("b", [made_record(["x", "y"], [[0, None], [10, 30]], method="mtl")])
    panels = draw("bars", [one, two]).axes
    assert [axes.get_title("left") for axes in panels] == ["x", "y", "mean (OP)"]
    assert [lengths(axes) for axes in panels] == [[45, 10], [70, 30], [57.5, 20]]
    assert names_of(panels[0]) == ["a", "b"]
    assert [text.get_text() for text in panels[0].texts] == ["45.0", "10.0"]  # each bar says its value
    assert same_color(panels[0].patches[1].get_facecolor(), REST)  # the upper bound
    with pytest.raises(ClbenchError, match="other tasks"):
        draw("bars", [one, Series("c", [made_record(["x", "z"], [[1, None], [1, 2]])])])
    (axes,) = draw("bars", [two]).axes  # of one series: one panel
    assert lengths(axes) == [10, 30, 20]
    assert names_of(axes) == ["x", "y", "mean (OP)"]


def test_probes_are_drawn_from_before_the_first_task_on():
    scores = [[40, None], [0, 20]]
    runs = [made_record(["x", "y"], scores), made_record(["x", "y"], [[40, None], [10, 20]], 2)]
    untold = record("ewc", "s", fields={"tasks": [{"name": name, "version": 1} for name in "xy"], "scores": scores})
    with pytest.warns(ClbenchWarning, match="left out, since they measured no probe: b"):
        panels = draw("probe", [Series("a", runs), Series("b", [untold])]).axes
    assert [(axes.get_title(), axes.get_ylabel()) for axes in panels] == [
        ("spans", "perplexity"),
        ("answers", "score (%)"),
    ]
    (line,) = panels[0].lines
    assert line.get_xydata().tolist() == [[0, 20], [1, 25], [2, 40]]
    with pytest.raises(ClbenchError, match="no run measured a probe; a run does with --probe"):
        draw("probe", [Series("b", [untold])])


def test_many_tasks_make_several_rows_of_panels():
    figure = draw("bars", many(2, 15))
    assert [axes.get_title("left") for axes in figure.axes] == [*(f"task{n}" for n in range(15)), "mean (OP)"]
    assert len({round(axes.get_subplotspec().rowspan.start) for axes in figure.axes}) > 1


def test_a_matrix_shows_the_cells():
    record = made_record(["x", "y", "z"], [[90, None, None], [70, 80, None], [50, None, 30]])
    axes = draw("matrix", [Series("a", [record])]).axes[0]
    shown = axes.images[0].get_array()
    assert shown[1, 0] == 70
    assert shown.mask.tolist() == [[False, True, True], [False, False, True], [False, True, False]]
    assert sorted(text.get_text() for text in axes.texts) == ["30", "50", "70", "80", "90"]
    two = draw("matrix", [Series("a", [record]), Series("b", [record])])
    assert [axes.get_title() for axes in two.axes[:2]] == ["a", "b"]


def test_matrices_of_diagonal_and_last_row_are_two_tables_of_all_methods():
    runs = [made_record(["x", "y"], [[90, None], [70 + k, 80]]) for k in range(3)]
    learned, last = draw("matrix", [Series(f"m{k}", [run]) for k, run in enumerate(runs)]).axes[:2]
    assert learned.images[0].get_array().tolist() == [[90, 80]] * 3
    assert last.images[0].get_array().tolist() == [[70, 80], [71, 80], [72, 80]]
    assert names_of(learned) == ["m0", "m1", "m2"]


def test_curves_show_the_cells_and_are_named_at_their_ends():
    record = made_record(["x", "y", "z"], [[90, None, None], [70, 80, None], [50, None, 30]])
    panels = draw("curves", [Series("a", [record])]).axes
    assert [panel.get_title() for panel in panels] == ["1. x", "2. y", "3. z"]
    assert panels[0].lines[0].get_xydata().tolist() == [[1, 90], [2, 70], [3, 50]]
    assert panels[1].lines[0].get_xydata().tolist() == [[2, 80]]
    assert [(text.get_text(), text.xy) for text in panels[0].texts] == [("a", (3, 50))]
    assert not panels[0].collections  # no band of a single run
    other = made_record(["y", "x", "z"], [[1, None, None], [1, 1, None], [1, 1, 1]], stream="t")
    with pytest.raises(ClbenchError, match=r"--stream s \| t"):
        draw("curves", [Series("a", [record, other])])


def test_at_most_eight_lines_have_a_colour_and_a_name():
    figure = draw("curves", many(13, 4))
    lines = figure.axes[0].lines
    assert len(lines) == 13
    assert len({line.get_color() for line in lines}) == 9
    assert [line.get_color() for line in lines[8:]] == [REST] * 5
    assert len(figure.axes[0].texts) == len(COLOURS) == 8
    assert "standard deviation" in figure.get_supxlabel()
    assert "grey: method8, method9, method10" in figure.get_supxlabel()
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    of_runs = [[row[0] for row in record.scores] for record in many(13, 4)[0].records]
    assert np.isclose(band[:, 1].max(), max(np.mean(of_runs, 0) + np.std(of_runs, 0, ddof=1)))


def test_labels_are_moved_apart_as_little_as_they_must_be():
    assert spread_out([10, 50, 90], 5, 0, 100) == [10, 50, 90]
    assert spread_out([50, 50, 50], 4, 0, 100) == [46, 50, 54]
    assert spread_out([0, 1], 10, 0, 100) == [0, 10]
    assert spread_out([99, 100, 100], 10, 0, 100) == [80, 90, 100]


def test_labels_are_as_short_as_tells_series_apart():
    labels = [
        "rkif",
        "migu (base=a, frozen=0.2)",
        "migu (base=b, frozen=0.2)",
        "ewc (strength=1)",
        "l (a=1)",
        "l (a=12)",
        "x",
        "x (a=1)",
        "x (a=1, b=1)",
        "x (a=1, b=2, c=1)",
    ]
    assert short_labels([Series(label, []) for label in labels]) == [
        "rkif", "migu (base=a)", "migu (base=b)", "ewc", "l (a=1)", "l (a=12)",
        "x", "x (a=1)", "x (b=1)", "x (b=2)",
    ]  # fmt: skip


def test_overall_and_time_have_no_bars_for_what_a_group_has_not():
    runs = [
        made_record(["x", "y"], [[9, None], [40, 60]], seed, seconds=seconds) for seed, seconds in ((1, 60), (2, 180))
    ]
    series = [Series("a", runs, "g"), Series("b", runs[:1], "g"), Series("c", runs[:1], "h")]
    op, bwt, op_h, bwt_h = draw("overall", series).axes
    assert [op.get_title("left"), op_h.get_title("left")] == ["g", "h"]
    assert [lengths(axes) for axes in (op, bwt, op_h, bwt_h)] == [[50, 50], [-15, -10], [50], [-10]]
    assert [names_of(op), names_of(op_h)] == [["a", "b"], ["c"]]
    first, second = draw("time", series).axes
    assert [lengths(first), lengths(second)] == [[60, 30], [30]]  # seconds of one of two epochs
    assert "seconds" in second.get_xlabel()
    assert [text.get_text() for text in first.texts] == ["60.0", "30.0"]


def test_fusions_need_runs_that_fuse_differently_often():
    runs = [made_record(["x", "y"], [[9, None], [40, 60]], seed, fusions=f) for seed, f in ((1, 3), (2, 5))]
    (axes,) = draw("fusions", [Series("a", runs), Series("b", runs[:1])]).axes
    assert [tuple(c[0].get_xydata()[0]) for c in axes.containers] == [(8, 50), (6, 50)]
    assert sorted(text.get_text() for text in axes.texts) == ["a", "b"]
    with pytest.raises(ClbenchError, match=r"equally often \(6 times\).*window"):
        draw("fusions", [Series("b", runs[:1])])
    silent = made_record(["x", "y"], [[9, None], [40, 60]], fusions=None)
    with pytest.raises(ClbenchError, match="no run reports fusions"):
        draw("fusions", [Series("a", [silent])])


def test_what_is_learned_stands_against_what_is_forgotten():
    """A task once learned: the diagonal, here 60 and 40; BWT: -10 times the seed, as `made_record` has it."""
    runs = [made_record(["x", "y"], [[60, None], [20, 40]], seed) for seed in (1, 3)]
    at_once = replace(runs[0], metrics=replace(runs[0].metrics, bwt=None))
    series = [Series("mtl", [at_once]), Series("a", runs[:1], "g, lr 10, 2 ep"), Series("b", runs, "g, lr 10, 2 ep")]
    panels = draw("tradeoff", [*series, Series("a", runs, "g, lr 2, 2 ep")]).axes
    assert [axes.get_title() for axes in panels] == ["lr 2", "lr 10"]
    points = [[(tuple(c[0].get_xydata()[0]), c[0].get_color()) for c in axes.containers] for axes in panels]
    assert points == [[((-20, 50), COLOURS[0])], [((-10, 50), COLOURS[0]), ((-20, 50), COLOURS[1])]]
    assert [[text.get_text() for text in axes.texts] for axes in panels] == [["a"], ["a", "b"]]
    series = [Series(label, runs) for label in ("a", "a (b=1, c=2)", f"a (d=3, {'e=4, ' * 20}f=5)")]
    (axes,) = draw("tradeoff", series).axes
    assert {text.get_text() for text in axes.texts} == {"a", "a (b=1, c=2)", "a (d=3, ...)"}
    (axes,) = draw("tradeoff", [Series("a " + "long " * 40, runs)]).axes  # no warning that nothing is left of the panel
    assert "\n" in axes.texts[0].get_text()
    assert axes.get_title() == ""
    with pytest.raises(ClbenchError, match="no run has a BWT"):
        draw("tradeoff", [Series("mtl", [at_once])])


def test_a_title_names_stream_backbone_and_seeds():
    found = {path: read_record(path) for path in REFERENCE.glob("*_seqlora_*.json")}
    title, _, subject = draw("bars", series_of(found, "bars")).get_suptitle().partition("\n")
    assert title == "Score on each task after the last one"
    wanted = "Standard CL (order 1), mini, long-sequence, 500/500 rows, 5 ep, lr 0.001, seeds 1 to 3"
    assert subject.replace("\n", " ") == wanted
    assert draw("bars", series_of(found, "bars"), "Mine").get_suptitle().startswith("Mine\nStandard CL")


def test_a_method_with_a_rate_of_its_own_is_in_the_group_of_the_others():
    found = {path: read_record(path) for name in ("seqlora", "l2p") for path in REFERENCE.glob(f"*_{name}_*.json")}
    assert {one.group for one in series_of(found, "overall")} == {"Standard CL"}
    rows = make_rows([record(epochs=epochs, backbone=name) for epochs in (1, 2) for name in ("m/a", "n/a")])
    assert len(set(board_titles(rows).values())) == 4  # two backbones of one name are two groups


def test_an_svg_for_a_page_follows_its_colours():
    text = page_svg(draw("bars", many(2, 4)))
    assert "prefers-color-scheme:dark" in text
    assert text.count("fill: var(--c0)") > 10
    assert not [shade for shade in ON_DARK if shade in text.partition("</style>")[2]]
    assert "#ffffff" not in text  # no background


def test_forgetting_shows_what_explain_counts():
    paths = sorted(REFERENCE.glob("standard-1_*lora_*.json"))  # two methods and more, three seeds each
    series = series_of({path: read_record(path) for path in paths}, "forgetting")
    (once,) = REFERENCE.glob("standard-1_mtl_*_s1_*.json")  # learned all at once: nothing is right right after learning
    at_once = series_of({once: read_record(once)}, "forgetting")
    with pytest.warns(ClbenchWarning, match="left out: the answers of 'standard-1_mtl"):
        figure = draw("forgetting", [*at_once, *series], "Figure 0: a title")
    with pytest.warns(ClbenchWarning), pytest.raises(ClbenchError, match="it takes --matrix bwt, lower or full"):
        draw("forgetting", at_once)
    assert overlaps(figure) == []
    assert [axes.get_title() for axes in figure.axes] == [one.label for one in series]
    number = next(k for k, one in enumerate(series) if one.label == "seqlora")
    found = [
        explain(record, read_answers(record, path))
        for record, path in zip(series[number].records, series[number].answers, strict=True)
    ]
    dbpedia = [run.tasks[0] for run in found]
    expected = [
        *(np.mean([100 * (task.right - len(task.lost)) / task.asked for task in dbpedia]),),
        *(
            np.mean([100 * task.count(kind) / task.asked for task in dbpedia])
            for kind in ("other task", "own label", "free text")
        ),
    ]
    parts = [bars.patches[0] for bars in figure.axes[number].containers]
    assert [part.get_width() for part in parts] == pytest.approx(expected)
    assert [part.get_x() for part in parts] == pytest.approx(np.cumsum([0, *expected[:-1]]))


def test_maps_are_means_over_a_modules_weights(maps_file):
    figure = draw("maps", [Series("rkif", [], "", [maps_file])])
    vector, _, before, after = figure.axes[:4]
    assert [label.get_text() for label in vector.get_yticklabels()] == [
        "encoder 0",
        "encoder 1",
        "decoder 0",
        "decoder 1",
    ]
    assert [label.get_text() for label in vector.get_xticklabels()] == ["self q", "self v", "cross q"]
    shown = vector.images[0].get_array()
    assert shown[0, 0] == pytest.approx((3 * 180 + 181) / 4)  # the 10th point's first two of 20 tensors
    assert shown.mask[0, 2]
    assert not shown.mask[2, 2]
    assert after.images[0].get_array()[0, 0] == pytest.approx(3 * before.images[0].get_array()[0, 0])
    assert after.texts[0].get_text() == "+"
    assert not before.texts
    assert [axes.get_title() for axes in draw("stages", [Series("r", [], "", [maps_file])]).axes[:5]] == [
        f"dbpedia,\n{part}% of amazon" for part in (0, 25, 50, 75, 100)
    ]
    twice = draw("shift", [Series("r", [], "", [maps_file]), Series("r", [], "", [maps_file])])
    assert len(twice.axes) - 1 == 2  # what is the same is drawn once


def test_colours_are_read_on_white_and_on_black():
    assert all(0.1 < luminance(shade) < 0.75 for shade in COLOURS)
    assert len(set(COLOURS)) == len(COLOURS)


def test_a_picture_is_what_its_suffix_says_and_always_the_same(tmp_path):
    for suffix, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        save(draw("bars", many(2, 4)), tmp_path / f"p.{suffix}")
        content = (tmp_path / f"p.{suffix}").read_bytes()
        assert content.startswith(magic)
        assert content == picture(draw("bars", many(2, 4)), suffix)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.pdf", "p.png", "p.svg"]
    with pytest.raises(ClbenchError, match="no picture format 'jpg'"):
        save(draw("bars", many(1, 4)), tmp_path / "p.jpg")


def test_the_command_draws_the_reference_records(clbench, tmp_path):
    result = clbench("plot", "curves", "--results", REFERENCE, "-o", "out.svg")
    assert result.exit_code == 0, result.output
    assert result.output.strip() == "out.svg"
    assert (tmp_path / "out.svg").read_bytes().startswith(b"<?xml")
    record = next(REFERENCE.glob("*_rkif_*_s1_*.json"))
    assert clbench("plot", "matrix", record).exit_code == 0
    assert (tmp_path / "matrix.png").exists()
    one = clbench("plot", "matrix", "--results", REFERENCE, "--method", "rkif", "-o", "one.png")
    assert one.exit_code == 0
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "matrix.png").read_bytes()  # the mean of three seeds
    listed = clbench("plot").output
    assert all(kind in listed for kind in KINDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plot", "pie"], "no kind of plot 'pie'"),
        (["plot", "bars", "-o", "x.jpg"], "no picture format 'jpg'"),
        (["plot", "bars"], "no results folder 'results'"),
        (["plot", "maps", "--results", REFERENCE], "no run has maps; a run makes them with --log-maps"),
        (["plot", "bars", "--results", REFERENCE, "--stream", "long"], "no records of stream 'long'"),
        (["plot", "bars", "nobody", "--results", REFERENCE], "no record 'nobody' (standard-1_ewc"),
        (["plot", "bars", "--results", REFERENCE, "--method", "rki"], "no recorded method 'rki'; did you mean 'rkif'?"),
    ],
)
def test_bad_input_is_one_line(clbench, words, message):
    result = clbench(*words)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_runs_are_grouped_as_on_the_leaderboard():
    found = {path: read_record(path) for path in REFERENCE.glob("*_migu_*.json")}
    labels = [one.label for one in series_of(found, "bars")]
    assert labels == ["migu (base=lorareplay, frozen=0.2)", "migu (frozen=0.5)"]


def test_every_suite_that_draws_names_a_kind():
    assert {name for name in suite_names() if read_suite(name).draw} == {f"figure{n}" for n in range(3, 10)}
    assert {read_suite(name).draw for name in suite_names()} - {""} <= set(KINDS)


def test_without_matplotlib_one_line_says_what_to_install(clbench, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = clbench("plot", "bars", "--results", REFERENCE)
    assert result.exit_code == 2
    assert result.output == "error: plots need matplotlib: pip install matplotlib\n"
    assert clbench("report", "--results", REFERENCE).exit_code == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "No pictures: matplotlib is not installed" in page
    assert "<img" not in page

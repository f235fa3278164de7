"""What a notebook shows: tables, figures, and progress with widgets or without."""

import pytest
from matplotlib.figure import Figure

import clbench
from clbench.errors import ClbenchError
from clbench.records.collection import Records
from clbench.terminal import Terminal
from tests.conftest import REFERENCE
from tests.records.examples import record


def test_a_record_shows_its_scores():
    made = record("<m>", op=81.25)
    shown = made._repr_html_()
    assert "&lt;m&gt;" in shown
    assert "<m>" not in shown
    assert "OP 81.2" in shown
    assert shown.count("<tr") == len(made.tasks) + 1


def test_a_leaderboard_shows_its_note():
    shown = clbench.leaderboard([record("a"), record("b", epochs=9)])
    assert "Rows of several recipes" in shown._repr_html_()
    assert "Rows of several recipes" in str(shown)
    assert "│" not in str(shown)


def test_plots_are_figures():
    records = clbench.load_records(REFERENCE).filter(method="rkif")
    figure = clbench.plot(records, "matrix", title="Three orders")
    assert isinstance(figure, Figure)
    assert isinstance(clbench.plot(list(records), "bars"), Figure)
    with pytest.raises(ClbenchError, match="did you mean 'matrix'"):
        clbench.plot(records, "matrx")
    with pytest.raises(ClbenchError, match="there are no records"):
        clbench.plot(Records([]), "bars")


@pytest.mark.parametrize("widgets", [True, False])
def test_progress_in_a_notebook_needs_widgets(monkeypatch, widgets):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("clbench.terminal.find_spec", lambda name: object() if widgets else None)
    console = Terminal(stderr=True)
    assert (console.is_jupyter, console.is_piped) == (widgets, not widgets)

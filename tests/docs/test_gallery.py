"""The notebooks of docs/gallery run, cell by cell, as scripts."""

import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "gallery").glob("*.py"))


@pytest.mark.gallery
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    exec(compile(notebook.read_text("utf-8"), str(notebook), "exec"), {"__name__": "__main__"})
    assert not list(tmp_path.iterdir())  # a notebook leaves nothing where it was started


def test_every_notebook_is_in_the_navigation():
    pages = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert len(NOTEBOOKS) >= 5
    assert all(f"gallery/{notebook.stem}.md" in pages for notebook in NOTEBOOKS)

"""The report: well-formed, complete, loads nothing from elsewhere, and what a record says is text and never markup."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest

from clbench.errors import ClbenchWarning
from clbench.records.files import read_record, read_records
from clbench.records.maps import Maps, Point, write_maps
from clbench.reports.page import make_page, read_report
from clbench.reports.published import read_ledger
from tests.conftest import REFERENCE, ROOT

TEMPLATES = ROOT / "clbench" / "reports" / "templates"
VOID = ("meta", "img", "link", "br", "hr", "input")
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, its texts, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts, self.cells = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += text

    @property
    def images(self):
        return [attributes for tag, attributes in self.elements if tag == "img"]


@pytest.fixture(scope="module")
def text():
    """The report of the reference records of two methods."""
    with TemporaryDirectory() as place:
        yield report_of(copy_records(Path(place)))


@pytest.fixture
def folder(tmp_path):
    """A results folder with the reference records of two methods."""
    return copy_records(tmp_path)


def report_of(folder):
    return make_page(read_report(folder), read_ledger())


def copy_records(folder):
    for path in REFERENCE.iterdir():
        if "_seqlora_" in path.name or "_rkif_" in path.name:
            shutil.copy(path, folder)
    return folder


def test_the_page_has_tables_recipes_audit_and_environment(text, folder):
    page = Page(text)
    text = " ".join(page.texts)
    for record in read_records(folder):
        assert record.name in text
        assert record.environment.git_commit in text
        assert record.environment.versions["torch"] in text
    for wanted in ("48.4 ± 1.2", "78.4", "(-30.0)", "learning_rate", "dev equals test", "not significantly worse"):
        assert wanted in text
    assert any("[46." in cell for cell in page.cells)  # an interval
    sections = {attributes["id"] for tag, attributes in page.elements if tag == "h2"}
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert links == {f"#{name}" for name in sections}


def test_pictures_are_svg_within_the_page(text):
    pytest.importorskip("matplotlib")
    page = Page(text)
    assert len(page.images) == 5  # overall, bars, time, curves, matrix
    for image in page.images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(content)).tag == "{http://www.w3.org/2000/svg}svg"
        assert image["alt"]


def test_nothing_is_loaded_from_elsewhere(text):
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 1  # ours
    assert not set(tags) & {"link", "iframe", "object", "embed", "base", "form", "audio", "video", "source", "svg"}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "poster", "action", "data", "background"):
                assert value.startswith(("data:image/", "#")), (tag, name)
    style, script = within(text, "style"), within(text, "script")
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML|http", script)
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    allowed = f"img-src data:; style-src {digest(style)}; script-src {digest(script)}"
    assert policy == f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def within(text, tag):
    (found,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
    return found


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_what_differs_folds(text):
    folds = re.findall(r'<details class="fold"><summary>(.*?)</summary>', text)
    differing = [fold for fold in folds if fold.startswith("mini, not t5-large")]
    assert len(differing) == 2  # of rkif and seqlora
    assert all(re.search(r"and \d+ more</span>", fold) for fold in differing)


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # the names are wider than the picture
def test_malicious_names_are_text(folder):
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        record["method"] |= {"name": f"m{EVIL}", "options": {EVIL: EVIL}, "changed_options": {EVIL: EVIL}}
        record["settings"]["data"] = f'data"{EVIL}'
        record["stream"] = {"name": f"s'{EVIL}", "family": f"f{EVIL}", "order": None}
        record["environment"] |= {"device": EVIL, "git_commit": EVIL, "versions": {EVIL: EVIL}}
        record["audit"]["findings"] = [f"warning: {EVIL}"]
        path.write_text(json.dumps(record))
    text = report_of(folder)
    page = Page(text)
    assert text.count("<script") == 1
    assert within(text, "script") == TEMPLATES.joinpath("script.js").read_text("utf-8")
    assert all(image["src"].startswith("data:") and set(image) == {"alt", "src"} for image in page.images)
    assert sum(EVIL in one for one in page.texts) > 10  # shown as what it is


def test_logged_maps_are_drawn(folder):
    pytest.importorskip("matplotlib")
    import numpy as np

    name = read_record(next(folder.glob("*_rkif_*_s1_*.json"))).name
    points = [Point(task, step, 2) for task in range(2) for step in range(3)]
    importance, vector = np.ones((6, 2, 1), np.float32), np.ones((6, 1), np.float32)
    tensors = {"encoder.block.0.layer.0.SelfAttention.q.lora_A.w": 1}
    maps = Maps(name, 32, ["dbpedia", "amazon"], tensors, points, importance, vector)
    write_maps(folder / f"{name}.maps.safetensors", maps)
    captions = [image["alt"] for image in Page(report_of(folder)).images]
    assert sum(caption.startswith("rkif: ") and "Standard CL (order 1)" in caption for caption in captions) == 3


def test_missing_answers_leave_the_leaderboard_without_significance(folder):
    for path in folder.glob("*.answers.jsonl*"):
        path.unlink()
    with pytest.warns(ClbenchWarning, match="no answers"):
        text = " ".join(Page(report_of(folder)).texts)
    assert "Without significance, since answers are missing: " in text
    assert "48.4 ± 1.2" in text


def test_the_command_writes_one_file(clbench, folder, tmp_path):
    result = clbench("report", "--results", folder, "-o", "out/page.html")
    assert result.exit_code == 0, result.output
    assert result.output.strip() == "out/page.html"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["page.html"]
    Page((tmp_path / "out" / "page.html").read_text("utf-8"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--results", "nowhere"], "no results folder 'nowhere'"),
        (["--results", "."], "no records in '.'; make a first one"),
        (["--results", REFERENCE, "--stream", "long"], "there are no records of stream 'long'"),
        (["--results", REFERENCE, "--source", "rkf"], "no source of published numbers 'rkf'"),
    ],
)
def test_bad_input_is_one_line(clbench, words, message):
    result = clbench("report", *words)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1

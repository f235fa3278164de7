"""The site: a page a run with its matrix and what was forgotten, a page a task with the wrong answers; tables sort and filter."""

import json
import re
import shutil
from pathlib import Path

import pytest

from clbench.data.toy import toy_rows
from clbench.records.answers import answer_bytes
from clbench.records.files import read_record
from clbench.reports import site
from clbench.reports.page import read_report
from clbench.reports.published import read_ledger
from clbench.reports.questions import read_questions
from clbench.reports.site import pages_of, write_site
from tests.conftest import REFERENCE
from tests.records.examples import record
from tests.reports.test_page import EVIL, Page

TOY = REFERENCE / "toy"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The site of three runs on toy data."""
    folder = tmp_path_factory.mktemp("results")
    for path in TOY.glob("*_s1_*"):
        if re.search("_(rkif|seqlora|mtl)_", path.name):
            shutil.copy(path, folder)
    return write_site(read_report(folder), read_ledger(), "rkif", tmp_path_factory.mktemp("site"))


@pytest.fixture
def rkif():
    return read_record(next(TOY.glob("*_rkif_*_s1_*.json")))


def test_the_site_has_a_page_a_run_and_a_page_a_task(made, rkif):
    names = {path.name for path in made.parent.rglob("*.html")}
    assert {f"{rkif.name}.html", f"{rkif.name}.15.html", "index.html"} <= names
    assert len(names) == 1 + 3 * (1 + 15)
    links = {a["href"] for tag, a in Page(made.read_text("utf-8")).elements if tag == "a" and "href" in a}
    assert f"runs/{rkif.name}.html" in links
    for path in made.parent.rglob("*.html"):
        for tag, attributes in Page(path.read_text("utf-8")).elements:
            target = attributes.get("href", "#").partition("#")[0]
            assert tag != "a" or not target or (path.parent / target).exists(), target


def test_a_runs_page_shows_the_matrix_and_what_was_forgotten(made, rkif):
    page = Page((made.parent / "runs" / f"{rkif.name}.html").read_text("utf-8"))
    scores = [f"{value:.1f}" for row in rkif.scores for value in row if value is not None]
    assert [cell for cell in page.cells if re.fullmatch(r"\d+\.\d", cell)][: len(scores)] == scores
    links = [a["href"] for tag, a in page.elements if tag == "a" and "href" in a]
    assert f"{rkif.name}.1.html#wrong-15" in links
    assert any("#lost-15" in link for link in links)


def test_a_tasks_page_shows_question_answer_target_and_fate(made, rkif):
    text = (made.parent / "runs" / f"{rkif.name}.1.html").read_text("utf-8")
    page = Page(text)
    answers = [
        json.loads(line) for line in answer_bytes(TOY / f"{rkif.name}.answers.jsonl").decode("utf-8").splitlines()
    ]
    of_task = [row for row in answers if row["task"] == "mnli"]
    last = {row["row"]: row for row in of_task if row["after"] == 14}
    first = {row["row"]: row for row in of_task if row["after"] == 0}
    assert len(last) == len(first) == 102
    wrong = [row for row in first if any(one[row]["answer"] != one[row]["target"] for one in (first, last))]
    lines = [a["data-tags"].split() for tag, a in page.elements if tag == "tr" and "data-tags" in a]
    assert len(lines) == len(wrong)
    assert f"{len(wrong)} of 102 questions" in text
    lost = [r for r in first if first[r]["answer"] == first[r]["target"] and last[r]["answer"] != last[r]["target"]]
    assert sum("forgotten" in tags and "lost-15" in tags for tags in lines) == len(lost) > 0
    assert f"forgotten ({len(lost)})" in text
    assert "forgotten between cb and yahoo" in " ".join(page.cells)
    row = lost[0]
    number = page.cells.index(str(row))
    _, question, target, learned, end, _ = page.cells[number : number + 6]
    assert question.strip()
    assert (target, learned, end) == (last[row]["target"], f"✓ {target}", f"✗ {last[row]['answer']}")


def test_questions_are_shown_only_of_the_very_data(rkif):
    texts = read_questions(rkif)
    assert set(texts["agnews"]) <= {passage.rstrip() for passage, _ in toy_rows("agnews", "test")}
    assert read_questions(rkif, "none") == {}
    assert read_questions(rkif, "nowhere") == {}
    content = json.loads((TOY / f"{rkif.name}.json").read_text("utf-8"))
    assert read_questions(record(fields={"digests": {"questions": "0" * 16}})) == {}  # a digest of other data
    assert read_questions(record(fields={"digests": {"questions": None}})) == {}
    assert content["digests"]["questions"] == rkif.digests.questions


def test_without_answers_the_page_says_why(rkif, tmp_path):
    (name, text), *others = pages_of(rkif, tmp_path)
    assert name == f"{rkif.name}.html"
    assert not others
    assert "Nothing can be said of single questions: no answers" in text


def test_a_page_holds_no_more_questions_than_it_can(rkif, monkeypatch):
    monkeypatch.setattr(site, "MOST_QUESTIONS", 7)
    _, (_, text), *_ = pages_of(rkif, TOY)
    assert text.count("data-tags=") == 7
    assert "The first 7 of them are shown." in text


def test_hostile_answers_and_names_are_text(rkif, tmp_path):
    name = 'a#"<b>&?'
    content = json.loads((TOY / f"{rkif.name}.json").read_text("utf-8"))
    content["method"] |= {"name": EVIL, "changed_options": {EVIL: EVIL}, "options": {EVIL: EVIL}}
    content["notes"] = [EVIL]
    for task in content["tasks"]:
        task["name"] += EVIL
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    lines = [json.loads(line) for line in answer_bytes(TOY / f"{rkif.name}.answers.jsonl").decode("utf-8").splitlines()]
    for line in lines:
        line["answer"], line["task"] = EVIL, line["task"] + EVIL
    (tmp_path / f"{name}.answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for _, text in pages_of(read_record(tmp_path / f"{name}.json"), tmp_path):
        page = Page(text)
        assert [tag for tag, _ in page.elements].count("script") == 1
        assert not [tag for tag, _ in page.elements if tag in ("img", "b")]
        assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
        assert any(EVIL in text for text in page.texts)


def test_the_command_writes_a_folder(clbench, tmp_path, rkif):
    for path in TOY.glob(f"{rkif.name}.*"):
        (tmp_path / "results").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "results")
    result = clbench("report", "--site", "public", "--data", "none")
    assert result.exit_code == 0, result.output
    assert result.output.strip() == "public/index.html"
    assert "Their texts are left out" in (tmp_path / "public" / "runs" / f"{rkif.name}.1.html").read_text("utf-8")
    for words in (["--site", "x", "-o", "y"], ["--data", "toy"]):
        refused = clbench("report", *words)
        assert refused.exit_code == 2
        assert "--site" in refused.output


@pytest.fixture(scope="module")
def browser():
    """Chromium without a screen, which may reach no host."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium, or no chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    for flag in (*flags.split(), "disable-component-update", "window-size=1200,900"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as driver:
        yield driver


def rows_of(browser, table):
    """The first cells of the rows that are seen."""
    rows = "[...document.querySelectorAll('table.sheet')[arguments[0]].tBodies[0].rows].filter(r => r.offsetParent)"
    return browser.execute_script(f"return {rows}.map(row => row.innerText.split(/\\s/)[0])", table)


def wait_for_rows(browser, count):
    """Wait until so many rows are seen: a page hears of its new address only after the click."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 30).until(lambda _: len(rows_of(browser, 0)) == count)


@pytest.mark.browser
def test_tables_sort_and_filter(browser, made):
    browser.get(made.as_uri())
    heads = browser.find_elements("css selector", "table.sheet thead")[0].find_elements("tag name", "button")
    names = [head.text.split("\n")[0] for head in heads]
    assert names[:2] == ["Method", "Long Sequence OP"]
    assert rows_of(browser, 0) == ["mtl", "rkif", "seqlora"]
    heads[0].click()
    assert rows_of(browser, 0) == ["mtl", "rkif", "seqlora"]
    heads[0].click()
    assert rows_of(browser, 0) == ["seqlora", "rkif", "mtl"]
    heads[1].click()  # of numbers the highest first
    assert rows_of(browser, 0) == ["mtl", "rkif", "seqlora"]
    heads[2].click()  # BWT, which mtl has not: it comes last
    assert rows_of(browser, 0) == ["rkif", "seqlora", "mtl"]
    heads[2].click()
    assert rows_of(browser, 0) == ["seqlora", "rkif", "mtl"]
    assert browser.get_log("browser") == []  # the content policy refused nothing, and no script failed


@pytest.mark.browser
def test_a_tasks_rows_are_chosen_by_what_the_address_says_and_by_words(browser, made, rkif):
    page = made.parent / "runs" / f"{rkif.name}.1.html"
    tags = [a["data-tags"].split() for tag, a in Page(page.read_text("utf-8")).elements if "data-tags" in a]
    browser.get(f"{page.as_uri()}#forgotten")
    assert len(rows_of(browser, 0)) == sum("forgotten" in of_row for of_row in tags) < len(tags)
    browser.find_element("partial link text", "wrong after mnli").click()
    wait_for_rows(browser, sum("wrong-1" in of_row for of_row in tags))
    browser.find_element("partial link text", "all (").click()
    wait_for_rows(browser, len(tags))
    browser.find_element("css selector", "input[type=search]").send_keys("FORGOTTEN by")
    assert rows_of(browser, 0) == []
    browser.find_element("css selector", "input[type=search]").clear()
    browser.find_element("css selector", "input[type=search]").send_keys("Forgotten cb")
    assert len(rows_of(browser, 0)) == sum("forgotten" in of_row for of_row in tags)
    assert "rows" in browser.find_element("css selector", "[role=status]").text


@pytest.mark.browser
def test_pictures_follow_the_dark_mode(browser, made):
    pytest.importorskip("matplotlib")
    text = re.search(r'src="(data:image/svg[^"]+)"', made.read_text("utf-8"))[1]
    shades = []
    for mode in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": mode}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(text)
        script = "return getComputedStyle(document.querySelector('[style*=\"fill: var(--c0)\"]')).fill"
        shades.append(browser.execute_script(script))
    assert shades == ["rgb(27, 27, 27)", "rgb(230, 230, 230)"]

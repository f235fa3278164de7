"""The ledger of published numbers: complete against the paper's text, and strict about its own form."""

import re
import shutil
import tomllib

import pytest

from clbench.errors import ClbenchError
from clbench.reports.published import read_ledger
from tests.conftest import ROOT
from tests.realdata import REAL

PAPER = REAL.parent / "paper.txt"
SHIPPED = ROOT / "results" / "published"
needs_paper = pytest.mark.skipif(not PAPER.is_file(), reason=f"no paper at {PAPER} (set CLBENCH_DATA)")


def paper_tables(text: str) -> list[list[list[float]]]:
    """Return the numbers of each table of the paper's text, a list a row, without those of the row labels."""
    tables: list[list[list[float]]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().rstrip("|").split("|")]
        if line.startswith("---"):
            tables.append([])
        elif "|" in line and tables and len(cells) > 1:
            labelled = cells[1:] if cells[-1] else cells  # a row whose label is lost ends in an empty cell
            numbers = [float(cell) for cell in labelled if re.fullmatch(r"-?\d+\.\d+", cell)]
            if numbers and line.rstrip().endswith("|"):
                tables[-1].append(numbers)
    return [table for table in tables if table]


@needs_paper
def test_every_number_of_tables_1_to_10_is_that_of_the_paper_and_none_is_missing():
    found = paper_tables(PAPER.read_text("utf-8"))
    ours: dict[str, dict[str, list[float]]] = {}
    for row in read_ledger():
        if row.source.name == "rkif" and row.table.startswith("Table"):
            numbers = [n for n in (row.op, row.bwt, row.minutes_per_epoch) if n is not None]
            ours.setdefault(row.table, {}).setdefault(row.label, []).extend(numbers)
    assert list(ours) == [f"Table {number}" for number in range(1, 11)]
    printed = [list(table.values()) for table in ours.values()]
    assert sorted(printed) == sorted(found)
    assert sum(len(row) for table in found for row in table) == 133


@needs_paper
def test_the_numbers_that_the_text_names_for_figure_3():
    text = PAPER.read_text("utf-8")
    assert (
        "using the LLaMA2-7B backbone, Recurrent-KIF boosts the OP metric from 75.6% to 78.2% compared to VR-MCL"
        in text
    )
    figure = {row.method: row.op for row in read_ledger() if row.table == "Figure 3"}
    assert figure == {"vrmcl": 75.6, "rkif": 78.2}


NOTES = {  # where methods/*.md print the numbers of a ledger file
    "migu": ["migu.md", "moelora.md", "l2p.md", "lfpt5.md", "seq_replay_mtl.md", "beyond.md"],
    "olora": ["olora.md", "seq_replay_mtl.md"],
    "sapt": ["sapt.md"],
    "forever": ["beyond.md", "moelora.md"],
    "gainlora": ["beyond.md"],
    "others": ["beyond.md"],
}


@needs_paper
def test_every_second_hand_number_stands_in_the_notes():
    rows = [row for row in read_ledger() if row.source.name in NOTES]
    assert {row.source.name for row in rows} == set(NOTES)
    for name, notes in NOTES.items():
        text = " ".join((PAPER.parent / "methods" / note).read_text("utf-8") for note in notes)
        numbers = {abs(float(number)) for number in re.findall(r"\d+(?:\.\d+)?", text)}
        for row in (row for row in rows if row.source.name == name):
            for number in (row.op, row.bwt, row.forgetting):
                assert number is None or abs(number) in numbers, (name, row.table, row.label, number)


def test_what_a_reader_must_know_is_marked():
    rows = {(row.source.name, row.table, row.label, row.column): row for row in read_ledger()}
    assert "full fine-tuning" in rows["rkif", "Table 1", "EWC", "long"].note
    assert rows["rkif", "Table 1", "EWC", "long"].copied
    assert rows["rkif", "Table 1", "EWC", "long"].protocol.train_rows_per == "class"
    assert "mixes two configurations" in rows["rkif", "Table 1", "MIGU", "standard"].note
    assert "synthesised" in rows["rkif", "Table 1", "SAPT-LoRA", "long"].note
    assert rows["forever", "Qwen3-0.6B", "FOREVER", "long"].second_hand
    assert rows["rkif", "Table 1", "MTL", "standard"].protocol.learning_rate == 3e-4


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "ledger"
    shutil.copytree(SHIPPED, folder)
    return folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("op = 43.7", "opp = 43.7", "rkif.toml: table 'Table 1', row 1 ('SeqLoRA'): field 'opp'; did you mean 'op'?"),
        ("op = 43.7", "op = '43.7'", "rkif.toml: table 'Table 1', row 1 ('SeqLoRA'): op = '43.7' is not int or float"),
        ("op = 43.7", "op = 437", "row 1 ('SeqLoRA'): op = 437.0 is not between 0 and 100"),
        ("op = 43.7, bwt = -50.4, ", "", "row 1 ('SeqLoRA'): has no number (op, bwt, forgetting, minutes_per_epoch)"),
        ('label = "SeqLoRA", ', "", "row 1 ('?'): no field 'label'"),
        ('column = "long", op = 11.6', 'column = "lang", op = 11.6', "row 2 ('SeqLoRA'): stream 'lang'; did you mean 'long'?"),
        ('column = "long", op = 11.6', 'column = "standard", op = 11.6', "row 'SeqLoRA': stands twice for standard"),
        ('protocol = "sapt"', 'protocol = "sabt"', "protocol 'sabt'; did you mean 'sapt'?"),
        ("runs = 3", "runs = true", "rkif.toml: table 'Table 1': runs = True is not int"),
        ("[[tables]]", "[[table]]", "rkif.toml: part 'table'; did you mean 'tables'?"),
        ("[[tables]]", "[[tables]", "rkif.toml: not TOML"),
        ('read = "paper"', "", "rkif.toml: source: no field 'read'"),
    ],
)  # fmt: skip
def test_a_malformed_ledger_is_one_line_with_file_and_entry(copy, old, new, message):
    file = copy / "rkif.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ClbenchError) as raised:
        read_ledger(copy)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_malformed_protocol_and_no_folder(copy, tmp_path):
    (copy / "protocols.toml").write_text("[rkif]\nepoch = 10\n")
    with pytest.raises(ClbenchError, match=r"protocols.toml: protocol 'rkif': field 'epoch'; did you mean"):
        read_ledger(copy)
    with pytest.raises(ClbenchError, match="no ledger folder"):
        read_ledger(tmp_path / "none")


def test_every_package_and_data_file_ships_in_the_wheel():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package, folder in (("clbench.published", "results/published"), ("clbench.tasks", "tasks")):
        assert setup["package-dir"][package] == folder
    assert {"clbench.published", "clbench.tasks", "clbench.tasks.suites"} <= set(setup["packages"])
    folders = {"clbench": "clbench", **setup["package-dir"]}
    patterns = [
        (ROOT / folders.get(package, package.replace("clbench.tasks", "tasks").replace(".", "/")), globs)
        for package, globs in setup["package-data"].items()
    ]
    shipped = {file for folder, globs in patterns for glob in globs for file in folder.glob(glob)}
    there = {file for top in folders.values() for file in (ROOT / top).rglob("*") if file.is_file()}
    there = {file for file in there if file.suffix not in (".py", ".pyc") and not file.name.startswith(".")}
    assert there - shipped == set()
    rooms = {file.parent.relative_to(ROOT) for file in (ROOT / "clbench").rglob("__init__.py")}
    own = {".".join(room.parts) for room in rooms if room.parts[1:2] not in (("plugins",), ("tasks",), ("published",))}
    assert own <= set(setup["packages"])

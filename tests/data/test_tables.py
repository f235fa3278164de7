"""The readers of data files against pandas and `datasets`, row by row, on generated files; and what they refuse."""

import csv
import io
import json
from pathlib import Path

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clbench.data.rows import read_json
from clbench.data.tables import read_table
from clbench.data.templates import cell
from clbench.errors import ClbenchError

# Pieces that a reader could take for something else, beside any text.
PIECES = [
    "",
    " ",
    "\n",
    "\r",
    "\r\n",
    "\t",
    ",",
    ";",
    '"',
    '""',
    "'",
    "\\",
    "\\n",
    "\0",
    "\ufeff",
    "\u2028",
    "\x85",
    "\x1c",
    "#",
]
WORDS = ["NA", "nan", "null", "None", "inf", "-0", "1e5", "1.50", "007", "TRUE", "2020-01-01", "{", "[]", "é"]
TEXTS = st.lists(st.sampled_from(PIECES + WORDS) | st.text(max_size=4), max_size=5).map("".join)
TEXTS = TEXTS.filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))
COLUMNS = st.lists(TEXTS.filter(bool), min_size=1, max_size=3, unique=True)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.none() | st.booleans() | NUMBERS | TEXTS | st.lists(TEXTS, max_size=2)
TABLES = st.tuples(COLUMNS, st.lists(st.lists(TEXTS, min_size=3, max_size=3), min_size=1, max_size=4))
FEW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])


def rows_of(columns, values):
    return [dict(zip(columns, row, strict=False)) for row in values]


def as_pandas(path):
    """Return the rows of a file of fields as pandas has them, each a text as it stands."""
    separator = "\t" if path.suffix == ".tsv" else ","
    frame = pandas.read_csv(
        path, sep=separator, dtype=str, keep_default_na=False, na_filter=False, index_col=False, encoding="utf-8-sig"
    )
    return frame.to_dict("records")


@FEW
@given(table=TABLES, tabs=st.booleans(), bom=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_fields_are_those_that_csv_s_writer_and_pandas_mean(tmp_path, table, tabs, bom, end):
    columns, values = table
    assume(not columns[0].startswith("\ufeff"))  # in the first place it is the file's mark
    rows = rows_of(columns, values)
    path = tmp_path / ("r.tsv" if tabs else "r.csv")
    with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if tabs else ",", lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([columns, *[[*row.values()] for row in rows]])
    try:
        assert read_table(path) == rows
    except ClbenchError as error:  # the file is also a table without quotes, of other rows
        if not tabs or "can be read in two ways" not in str(error):
            raise
    text = path.read_text("utf-8")
    if "\0" not in text:  # pandas ends a field there
        assert [list(row.values()) for row in as_pandas(path)] == [list(row.values()) for row in rows]


@FEW
@given(
    text=st.lists(st.sampled_from(["a", "b", " ", ",", '"', '""', "\n", "\r\n", "\r", '",', ',"', '"\n']), max_size=16)
)
def test_any_text_is_refused_or_read_as_pandas_reads_it(tmp_path, text):
    path = tmp_path / "r.csv"
    path.write_bytes(("x,y\n" + "".join(text)).encode())
    try:
        rows = read_table(path)
    except ClbenchError:
        return
    assert rows == as_pandas(path)


@FEW
@given(
    rows=st.lists(st.dictionaries(TEXTS, JSON_VALUES, max_size=3), min_size=1, max_size=4),
    bom=st.booleans(),
    escaped=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]),
)
def test_json_and_jsonl_are_what_was_written(tmp_path, rows, bom, escaped, end):
    code = "utf-8-sig" if bom else "utf-8"
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    (tmp_path / "r.jsonl").write_bytes(end.join(lines).encode(code))
    (tmp_path / "r.json").write_bytes(f"[{','.join(lines)}]".encode(code))
    assert list(map(repr, read_table(tmp_path / "r.jsonl"))) == list(map(repr, rows))
    assert list(map(repr, read_table(tmp_path / "r.json"))) == list(map(repr, rows))


@FEW
@given(table=TABLES, escaped=st.booleans())
def test_json_is_what_pandas_reads(tmp_path, table, escaped):
    columns, values = table
    assume("\0" not in "".join(columns))  # pandas writes a name up to there
    frame = pandas.DataFrame(rows_of(columns, values))
    frame.to_json(tmp_path / "r.jsonl", orient="records", lines=True, force_ascii=escaped)
    frame.to_json(tmp_path / "r.json", orient="records", force_ascii=escaped)
    for name in ("r.json", "r.jsonl"):
        text = (tmp_path / name).read_bytes().decode()
        again = pandas.read_json(io.StringIO(text), lines=name.endswith("l"), dtype=False)
        found = read_table(tmp_path / name)
        assert found == frame.to_dict("records")
        if not {"\r", "\u2028", "\x85", "\x1c"} & set(text):  # pandas splits lines there
            assert [list(row.values()) for row in again.to_dict("records")] == [list(row.values()) for row in found]


INTEGERS = st.integers(-(2**63), 2**63 - 1)


@FEW
@given(
    columns=COLUMNS,
    values=st.lists(st.tuples(st.none() | TEXTS, st.none() | INTEGERS, st.none() | st.booleans()), min_size=1),
)
def test_parquet_is_what_was_written_and_what_pandas_reads(tmp_path, columns, values):
    path, rows = tmp_path / "r.parquet", rows_of(columns, values)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert read_table(path) == rows
    frame = pandas.read_parquet(path, dtype_backend="pyarrow")
    assert [{k: None if v is pandas.NA else v for k, v in row.items()} for row in frame.to_dict("records")] == rows


def test_datasets_reads_the_same_rows(tmp_path):
    rows = [{"x": 'a "b",\tc\r\nd', "y": "é\u2028"}, {"x": " NA ", "y": "z" * 200_000}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "r.csv", index=False)
    frame.to_csv(tmp_path / "r.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "r.parquet")
    frame.to_json(tmp_path / "r.json", orient="records")
    kinds = {
        "jsonl": ("json", {}),
        "csv": ("csv", {}),
        "tsv": ("csv", {"sep": "\t"}),
        "parquet": ("parquet", {}),
        "json": ("json", {}),
    }
    for ending, (kind, more) in kinds.items():
        path = tmp_path / f"r.{ending}"
        theirs = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=tmp_path / "cache", **more)
        assert read_table(path) == theirs.to_list() == rows, ending


# (file, content, the message)
REFUSED = {
    "csv columns": ("r.csv", b"x,y,x\n1,2,3\n", "r.csv: two columns are called 'x'; give each a name of its own"),
    "tsv columns": ("r.tsv", b"x\tx\n1\t2\n", "r.tsv: two columns are called 'x'"),
    "json keys": ("r.json", b'[{"x": 1, "x": 2}]', "r.json: cannot be read as JSON: an object names the key 'x' twice"),
    "json keys within": ("r.json", b'[{"x": {"y": 1, "y": 1}}]', "an object names the key 'y' twice"),
    "jsonl keys": ("r.jsonl", b'{"x": 1}\n{"x": 1, "x": 2}', "r.jsonl: row 1: cannot be read as JSON: an object names the key"),
    "json large": ("r.json", b'[{"x": 1e999}]', "the number 1e999 is too large to be read as one"),
    "jsonl large": ("r.jsonl", b'{"x": -1e999}', "r.jsonl: row 0: cannot be read as JSON: the number -1e999 is too large"),
    "json small": ("r.json", b'[{"x": 0.3e-999}]', "the number 0.3e-999 is too small to be read as one"),
    "json endless": ("r.json", b'[{"x": ' + b"1" * 5000 + b"}]", "r.json: cannot be read as JSON: "),
    "jsonl blank": ("r.jsonl", '{"x": 1}\n\u00a0\n'.encode(), "r.jsonl: row 1: cannot be read as JSON"),
    "jsonl second mark": ("r.jsonl", '{"x": 1}\n\ufeff{"x": 1}\n'.encode(), "r.jsonl: row 1: cannot be read as JSON"),
    "json utf-16": ("r.json", '[{"x": 1}]'.encode("utf-16"), "r.json: cannot be read as JSON: 'utf-8' codec"),
    "csv lone CR": ("r.csv", b"x\na\rb\n", "r.csv: row 0: cannot be read as CSV: a lone carriage return outside quotes"),
    "csv of CR": ("r.csv", b"x,y\ra,b\r", "r.csv: row 0: cannot be read as CSV: a lone carriage return outside quotes"),
    "csv after quote": ("r.csv", b'x\n"a"b\n', "r.csv: row 0: cannot be read as CSV: "),
    "tsv two ways": ("r.tsv", b'x\ty\n"a\tb\nc"\td\n', "r.tsv: can be read in two ways: with quotes around fields as 1 rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_lose_something_is_refused(tmp_path, name):
    file, content, message = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ClbenchError) as caught:
        read_table(tmp_path / file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tsv_with_quoted_fields_is_none_that_can_be_read_in_two_ways(tmp_path):
    for content, rows in (
        ('x\ty\n"a\nb"\tc\n', [{"x": "a\nb", "y": "c"}]),
        ('x\n"a\nb"\n', [{"x": "a\nb"}]),
        ('x\ty\n"a"\t5" b\n', [{"x": "a", "y": '5" b'}]),
    ):
        (tmp_path / "r.tsv").write_text(content)
        assert read_table(tmp_path / "r.tsv") == rows


def test_a_long_field_is_read_in_every_format_and_the_limit_of_others_stays(tmp_path):
    rows, limit = [{"x": "y" * 300_000}], csv.field_size_limit()
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "r.csv", index=False)
    frame.to_csv(tmp_path / "r.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "r.json", orient="records")
    for name in ("r.csv", "r.tsv", "r.json"):
        assert read_table(tmp_path / name) == rows
    assert csv.field_size_limit() == limit


def test_columns_of_parquet(tmp_path):
    twice, folder = tmp_path / "twice.parquet", tmp_path / "k=1"
    pyarrow.parquet.write_table(pyarrow.table([[1], [2]], names=["x", "x"]), twice)
    with pytest.raises(ClbenchError, match=r"twice\.parquet: two columns are called 'x'"):
        read_table(twice)
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), folder / "r.parquet")
    assert read_table(folder / "r.parquet") == [{"x": 1}]  # the folder's name is no column
    field = pyarrow.field("s", pyarrow.struct([("a", pyarrow.int64()), ("a", pyarrow.int64())]))
    array = pyarrow.StructArray.from_arrays([pyarrow.array([1]), pyarrow.array([2])], fields=list(field.type))
    pyarrow.parquet.write_table(pyarrow.table([array], schema=pyarrow.schema([field])), tmp_path / "in.parquet")
    with pytest.raises(ClbenchError, match=r"in\.parquet: cannot be read as parquet: "):
        read_table(tmp_path / "in.parquet")
    broken = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff")]
    )
    pyarrow.parquet.write_table(pyarrow.table({"x": broken}), tmp_path / "bytes.parquet")
    with pytest.raises(ClbenchError, match=r"bytes\.parquet: cannot be read as parquet: 'utf-8' codec"):
        read_table(tmp_path / "bytes.parquet")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_no_text_either(tmp_path: Path, number):
    (tmp_path / "r.json").write_text(f'[{{"x": {number}, "y": 1.5}}]')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"x": float(number), "y": 1.5}]), tmp_path / "r.parquet")
    for name in ("r.json", "r.parquet"):
        (row,) = read_table(tmp_path / name)
        assert cell(row, "y", "") == "1.5"  # a column that nobody asks for spoils nothing
        with pytest.raises(ClbenchError, match=r"^here: column 'x' holds .*, which is no number"):
            cell(row, "x", "here")


def test_zeros_are_numbers(tmp_path):
    (tmp_path / "r.json").write_text("[0.0, -0.0, 0e5, 0.00e-999, 1e-320, 1e308]")
    assert list(map(str, read_json(tmp_path / "r.json"))) == ["0.0", "-0.0", "0.0", "0.0", "1e-320", "1e+308"]

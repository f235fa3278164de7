"""The record as a value: what is written is read, numbers that JSON has not, the published schema, and no torch."""

import json
import math
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench.errors import ClbenchError
from clbench.records.files import RunFiles, read_record
from clbench.records.record import SCHEMA_FILE, Record, decode_record, encode_record, make_record, schema_text
from tests.records.examples import record

FLOATS = st.floats(width=64)  # nan and inf among them
TEXTS = st.text(max_size=20)
VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | TEXTS


@st.composite
def contents(draw):
    """Plain values of a record, NaN and infinities among the numbers."""
    names = draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))
    size, options = len(names), draw(st.dictionaries(TEXTS, VALUES, max_size=3))
    return {
        "protocol_version": draw(st.integers(0, 9)),
        "name": draw(TEXTS),
        "method": {"name": draw(TEXTS), "options": options, "changed_options": options},
        "stream": {"name": draw(TEXTS), "family": draw(TEXTS), "order": draw(st.none() | st.integers(1, 8))},
        "seed": draw(st.integers(0, 2**31)),
        "settings": draw(st.dictionaries(TEXTS, VALUES, max_size=3)),
        "tasks": [{"name": name, "version": 1} for name in names],
        "scores": [[draw(st.none() | FLOATS) for _ in range(size)] for _ in range(size)],
        "metrics": {"op": draw(st.none() | FLOATS)},
        "learned": [draw(st.dictionaries(TEXTS, FLOATS, max_size=2)) for _ in range(size)],
        "notes": draw(st.lists(TEXTS, max_size=2)),
    }


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@given(contents())
def test_write_read_write_is_the_identity(content):
    made = make_record(**content)
    written = encode_record(made)
    json.loads(written, parse_constant=refuse)
    again = decode_record(written, "here")
    assert again == made
    assert encode_record(again) == written


def test_a_number_that_json_has_not_is_null_or_as_an_option_a_text():
    made = record(
        op=math.nan,
        options={"strength": math.inf},
        fields={"learned": [{"loss": -math.inf}], "settings": {"clip_norm": -math.inf}},
    )
    assert made.metrics.op is None
    assert made.scores == ((None,),)
    assert made.learned == ({"loss": None},)
    assert made.method.options == {"strength": "inf"}
    assert made.settings == {"clip_norm": "-inf"}


def test_the_published_schema_is_current():
    written, published = json.loads(schema_text()), json.loads(SCHEMA_FILE.read_text("utf-8"))
    assert in_order(written) == in_order(published), "run: python -m clbench.records.record"


def in_order(schema):
    """Return a schema with its choices in one order: msgspec's versions differ in it."""
    if isinstance(schema, dict):
        return {key: in_order(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return sorted(map(in_order, schema), key=repr)
    return schema


def test_a_setting_that_the_record_does_not_name_is_the_default():
    made = record(fields={"settings": {"epochs": 3}})
    assert (made.setting("epochs"), made.setting("max_input")) == (3, 512)
    assert made.all_settings["batch_size"] == 8
    assert not {"stream", "seed"} & set(record().settings)


def test_what_is_no_record_is_one_line():
    written = json.loads(encode_record(record()))
    with pytest.raises(ClbenchError, match=r"here: not a clbench record: .*\$\.scores\[0\]\[0\]"):
        decode_record(json.dumps(written | {"scores": [["much"]]}).encode(), "here")
    with pytest.raises(msgspec.ValidationError, match="seed"):
        make_record(**{**written, "seed": "one"})


def test_the_files_of_a_run_hold_the_record_that_was_written(tmp_path):
    made, files = record(), RunFiles(tmp_path, "r")
    files.write_record(made, [])
    assert read_record(files.record) == msgspec.structs.replace(made, name="r")  # where its answers lie
    assert isinstance(made, Record)


def test_records_and_reports_need_no_torch():
    names = "records.files, records.bootstrap, records.maps, reports.page, reports.reproduce, reports.significance"
    imports = "; ".join(f"import clbench.{name}" for name in names.split(", "))
    code = f"import sys; {imports}; print([n for n in ('torch', 'transformers', 'peft') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

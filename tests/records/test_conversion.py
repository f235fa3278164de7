"""`scripts/convert_records.py`: a record of schema 1 is read after it, says that it was converted, and keeps its numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clbench.errors import ClbenchError
from clbench.records.files import read_record
from tests.conftest import REFERENCE, ROOT

OLD = {
    "schema_version": 1,
    "name": "r",
    "method": "rkif",
    "options": {"top": 0.1},
    "changed_options": {"top": 0.1},
    "plugin": {"origin": "clbench.plugins.rkif", "source_digest": "35f6"},
    "settings": {"stream": "long:1", "seed": 3, "epochs": 2},
    "stream": {"name": "long:1", "family": "long", "order": 4},
    "tasks": [{"name": "agnews", "version": 1, "metric": "exact_match"}],
    "data_fingerprint": "ae11",
    "test_fingerprint": "b994",
    "scores": [[70.0]],
    "metrics": {"op": 70.0, "bwt": None, "forgetting": None},
    "peak_memory_bytes": 5,
    "device": "cpu, 2 cores",
    "versions": {"clbench": "0.0.1", "torch": "2.6"},
    "git_commit": "0ddba11",
}


def test_a_record_of_schema_1_is_converted(tmp_path):
    path = tmp_path / "deep" / "r.json"
    path.parent.mkdir()
    path.write_text(json.dumps(OLD))
    (tmp_path / "config.json").write_text('{"schema_version": 1}')  # no record
    with pytest.raises(ClbenchError, match=r"schema version 1, of clbench 0\.1; `python scripts/convert_records\.py"):
        read_record(path)
    subprocess.run([sys.executable, ROOT / "scripts" / "convert_records.py", tmp_path], check=True)
    found = read_record(path)
    assert (found.protocol_version, found.seed, found.settings, found.scores) == (0, 3, {"epochs": 2}, ((70.0,),))
    assert (found.method.name, found.method.options, found.method.changed_options) == (
        "rkif",
        {"top": 0.1},
        {"top": 0.1},
    )
    assert (found.digests.questions, found.digests.plugin, found.identity) == ("b994", None, None)
    assert (found.environment.clbench, found.environment.versions) == ("0.0.1", {"torch": "2.6"})
    assert (found.peak_memory.bytes, found.peak_memory.of) == (5, "process")
    assert "converted from schema 1" in found.notes[0]
    assert (tmp_path / "config.json").read_text() == '{"schema_version": 1}'


def test_the_reference_records_say_that_they_were_converted():
    found = [read_record(path) for path in REFERENCE.rglob("*.json")]
    old = [record for record in found if record.protocol_version == 0]
    assert {record.notes[0].split(" (")[0] for record in old} == {"converted from schema 1"}
    others = {Path(record.settings["backbone"]).name for record in found if record not in old}
    assert others == {"SmolLM2-135M-Instruct.Q4_1.gguf", "mini"}

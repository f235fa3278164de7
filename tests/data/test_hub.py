"""The hub as a source: every task's columns and label ids, sampling, the cache, and what can go wrong on the way."""

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from clbench.data import hub as hub_module
from clbench.data.catalogue import task_specs
from clbench.data.hub import read_hub
from clbench.data.sources import Selection, make_tasks, open_source
from clbench.data.streams import find_stream
from clbench.errors import ClbenchError
from tests.hubfolder import ROWS, data_file, write_hub

SST = task_specs()["sst-2"].hub
IMDB = task_specs()["imdb"].hub


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep what `datasets` makes of the files in the test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name", ROWS)
def test_every_task_reads_from_the_hub_s_layout(tmp_path, name):
    write_hub(tmp_path / "hub", [name])
    spec = task_specs()[name]
    for split in ("train", "test"):
        rows = read_hub(spec, split, tmp_path / "hub")
        assert [(row.passage, row.answers) for row in rows] == [(passage, (label,)) for _, passage, label in ROWS[name]]
    assert read_hub(spec, "dev", tmp_path / "hub") == []


def test_all_tasks_have_rows_here_and_every_hub_label_is_in_the_set():
    hubbed = {spec.name: spec for spec in task_specs().values() if spec.hub is not None}
    assert set(hubbed) == set(ROWS) == set(find_stream("4").tasks)
    for spec in hubbed.values():
        assert sorted(label for _, label in spec.hub.labels) == sorted(spec.labels)
        commit = spec.hub.revision
        assert re.fullmatch("[0-9a-f]{40}", commit) or (spec.name, commit) == ("amazon", "refs/convert/parquet")


def test_a_run_takes_1000_rows_a_task_and_500_a_class(tmp_path):
    folder = write_hub(tmp_path / "hub", ["sst-2"])
    rows = [{"sentence": f"s{i}", "label": int(i % 5 > 0)} for i in range(4000)]
    for pattern in (SST.train, SST.test):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data_file(folder, SST.id, pattern))
    source = open_source(f"hub:{folder}")
    stream = find_stream("sst-2")
    (task,) = make_tasks(source, stream, Selection(seed=1))
    assert Counter(example.target for example in task.train) == {"Good": 500, "Bad": 500}
    assert Counter(example.target for example in task.test) == {"Good": 500, "Bad": 500}
    (other,) = make_tasks(source, stream, Selection(seed=2, train_per_class=600))
    assert len(other.train) == 1200
    assert other.test == task.test


def test_of_a_large_class_the_same_pool_is_taken_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "POOL", 3)
    folder = write_hub(tmp_path / "hub", ["imdb"])
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(50)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data_file(folder, IMDB.id, IMDB.train))
    first = read_hub(task_specs()["imdb"], "train", folder)
    assert len(first) == 6
    assert first == read_hub(task_specs()["imdb"], "train", folder)
    assert all(int(row.place.split()[-1]) == int(row.passage[1:]) for row in first)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"sentence": "x", "label": 7}], "row 0: value '7' in column 'label' stands for no label"),
        ([{"text": "x", "label": 1}], r"no column 'sentence' \(columns: text, label\)"),
        ([{"sentence": ["x"], "label": 1}], "row 0: column 'sentence' holds a list, expected a text or a number"),
    ],
)
def test_unexpected_content_is_named(tmp_path, rows, message):
    folder = write_hub(tmp_path / "hub", ["sst-2"])
    path = data_file(folder, SST.id, SST.train)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(ClbenchError, match=message):
        read_hub(task_specs()["sst-2"], "train", folder)


def test_a_missing_copy_and_a_damaged_file_are_named(tmp_path):
    folder = write_hub(tmp_path / "hub", ["sst-2"])
    with pytest.raises(ClbenchError, match="no folder 'stanfordnlp/imdb'"):
        read_hub(task_specs()["imdb"], "train", folder)
    with pytest.raises(ClbenchError, match=r"task 'rte': no files rte/train-\*\.parquet"):
        read_hub(task_specs()["rte"], "train", folder)
    data_file(folder, SST.id, SST.train).write_bytes(b"no parquet")
    with pytest.raises(ClbenchError, match="hub data set 'nyu-mll/glue' cannot be read"):
        read_hub(task_specs()["sst-2"], "train", folder)


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download needs; `gated` answers as for a gated data set."""

    folder: Path
    gated = False

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": SST.revision, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        if self.gated:
            return self.answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
        if self.path.startswith("/api/datasets/"):
            if SST.revision not in self.path:  # another revision, or none: the newest
                return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            name = "/".join(self.path.split("/")[3:5])
            root = self.folder / name
            files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
            if self.path.split("/")[5] == "tree":
                content = [{"type": "file", "path": n, "size": p.stat().st_size, "oid": n} for n, p in files.items()]
            else:
                siblings = [{"rfilename": file} for file in files]
                content = {"id": name, "sha": SST.revision, "siblings": siblings, "private": False}
            return self.answer(200, json.dumps(content).encode(), Content_Type="application/json")
        if not self.path.startswith("/datasets/"):
            return self.answer(404)
        name, _, path = self.path.removeprefix("/datasets/").partition(f"/resolve/{SST.revision}/")
        body = (self.folder / name / path).read_bytes()
        return self.answer(200, body, ETag=f'"{abs(hash(body))}"', Accept_Ranges="bytes")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake_hub(tmp_path):
    """A function that starts a hub over a folder; returns its address and what stops it."""
    servers = []

    def start(gated=False):
        handler = type("Handler", (FakeHub,), {"folder": write_hub(tmp_path / "remote", ["sst-2"]), "gated": gated})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def audit_from_hub(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command on the hub in a process of its own, so that the environment counts."""
    code = "from clbench.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "audit", "--stream", "sst-2", "--data", "hub", "--backbone", "none", "--format", "json"],
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip


def test_what_was_fetched_once_is_read_offline(tmp_path, fake_hub):
    address, server = fake_hub()
    online = audit_from_hub(tmp_path, HF_ENDPOINT=address)
    assert online.returncode == 1, online.stdout + online.stderr  # train and test are the same two rows
    assert "2 of 2 test questions stand in train" in online.stdout
    assert json.loads(online.stdout)["tasks"][0]["rows"] == {"train": 2, "dev": 0, "test": 2}
    server.shutdown()
    server.server_close()
    offline = audit_from_hub(tmp_path, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    assert offline.stdout == online.stdout


@pytest.mark.parametrize("gated", [False, True])
def test_a_hub_out_of_reach_or_gated_is_one_line(tmp_path, fake_hub, gated):
    address = fake_hub(gated=True)[0] if gated else "http://127.0.0.1:9"
    result = audit_from_hub(tmp_path, HF_ENDPOINT=address)
    assert result.returncode == 1
    (first, *_) = json.loads(result.stdout)["findings"]
    expected = "is gated: accept its terms at https://" if gated else "cannot be reached and is not in the cache"
    assert first["level"] == "error"
    assert f"task 'sst-2': hub data set 'nyu-mll/glue' {expected}" in first["message"]
    assert "\n" not in first["message"]

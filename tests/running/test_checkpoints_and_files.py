"""Files: atomic writing, checkpoints of every kind of state, records."""

from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import save_file

from clbench.atomic import write_atomically
from clbench.data.tasks import Example
from clbench.errors import ClbenchError, ClbenchWarning
from clbench.learning.replay_memory import Memory
from clbench.records.files import RunFiles, read_record, read_records, slug
from clbench.running import checkpoints
from clbench.running.checkpoints import load_checkpoint, restore_state, save_checkpoint, state_of
from clbench.settings import Settings
from clbench.spec import RunSpec

CPU = torch.device("cpu")
EXAMPLE = Example("question", "passage", "answer", "tail", ("answer", "other"), 7)


@dataclass(eq=False)
class Method:
    option: int = 3
    memory: Memory = field(default_factory=Memory, init=False)
    anchors: list[torch.Tensor] = field(default_factory=list, init=False)
    seen: dict[str, object] = field(default_factory=dict, init=False)


@pytest.mark.parametrize("most", [checkpoints.MOST_HEADER, 10])  # characters in the header, or all beside the tensors
def test_state_round_trips(tmp_path, most, monkeypatch):
    monkeypatch.setattr(checkpoints, "MOST_HEADER", most)
    method = Method()
    method.memory.of_task["t"] = (EXAMPLE,)
    method.anchors = [torch.arange(3.0), torch.ones(2, dtype=torch.bfloat16)]
    method.seen = {"count": 2, "name": None, "pair": (1.5, "x", EXAMPLE), "nested": [[True]]}
    assert set(state_of(method)) == {"memory", "anchors", "seen"}
    save_checkpoint(tmp_path / "c", {"method": state_of(method)}, "1a")
    other = Method()
    restore_state(other, load_checkpoint(tmp_path / "c", CPU, "1a")["method"])
    assert other.memory == method.memory
    assert other.seen == method.seen
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(method.anchors, other.anchors, strict=True))


def test_tensors_come_back_where_products_are_computed_as_before(tmp_path):
    """In memory of their own, aligned as PyTorch aligns it, whatever stood before them in the file."""
    for length in range(1, 9):
        state = {"text": "x" * length, **{f"t{number}": torch.ones(number) for number in range(1, 12)}}
        save_checkpoint(tmp_path / "c", state, "1a")
        found = load_checkpoint(tmp_path / "c", torch.device("cpu"), "1a")
        tensors = [value for value in found.values() if isinstance(value, torch.Tensor)]
        assert len(tensors) == 11
        assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)


def test_a_plain_class_has_no_state():
    assert state_of(object()) == {}


def test_what_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"state.method.seen.made: a set cannot be checkpointed"):
        save_checkpoint(tmp_path / "c", {"method": {"seen": {"made": {1}}}}, "1a")
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path):
    (tmp_path / "c").write_bytes(b"\x10" * 40)
    with pytest.raises(ClbenchError, match=r"damaged checkpoint.*--force"):
        load_checkpoint(tmp_path / "c", CPU, "1a")


def test_a_checkpoint_of_another_run_or_schema_is_refused(tmp_path):
    save_checkpoint(tmp_path / "c", {"method": {}}, "1a")
    with pytest.raises(ClbenchError, match=r"c: a checkpoint of another run .*; remove it or use --force"):
        load_checkpoint(tmp_path / "c", CPU, "1b")
    save_file({}, tmp_path / "old", {"content": "{}"})  # as clbench 0.1 wrote it
    with pytest.raises(ClbenchError, match=r"old: a checkpoint of schema 1, .*; remove it or use --force"):
        load_checkpoint(tmp_path / "old", CPU, "1a")


def test_a_failing_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


def test_names_tell_the_run_and_differ_with_it(tmp_path):
    spec = RunSpec("rkif", {}, Settings(backbone="a/b/mini", data="../x/long_sequence"))
    assert RunFiles.of(tmp_path, spec, "0123456789").name == "long-1_rkif_mini_long-sequence_s1_01234567"
    assert slug("google/t5-v1.1 large") == "t5-v1.1-large"


def test_a_run_is_held_by_one_process(tmp_path):
    files = RunFiles(tmp_path, "x")
    with files.lock(), pytest.raises(ClbenchError, match="another process"), RunFiles(tmp_path, "x").lock():
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a clbench record: Expected `object`, got `array`"),
        ('{"schema_version": 2}', "missing required field `protocol_version`"),
        ('{"schema_version": 1}', "schema version 1, of clbench 0.1; `python scripts/convert_records.py FOLDER`"),
        ('{"schema_version": 3}', "schema version 3, this clbench reads 2"),
        ("\ufffd", "cannot be read as JSON"),
    ],
)
def test_malformed_records(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ClbenchError, match=message):
        read_record(tmp_path / "r.json")
    with pytest.warns(ClbenchWarning, match=rf"passed over: .*r\.json: .*{message}"):
        assert read_records(tmp_path) == []


def test_missing_record_and_folder(tmp_path):
    with pytest.raises(ClbenchError, match="no record"):
        read_record(tmp_path / "r.json")
    with pytest.raises(ClbenchError, match="no results folder"):
        read_records(tmp_path / "none")

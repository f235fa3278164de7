"""A run's identity: another one whenever something that the run reads has changed, and then nothing is 'already finished'."""

import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import T5ForConditionalGeneration

from clbench.data.sources import fingerprint
from clbench.discovery import Method, find_plugins
from clbench.errors import ClbenchError
from clbench.model.backbone_files import backbone_digest
from clbench.records.record import Digests
from clbench.running.identity import identity_of, source_files
from clbench.running.opening import RunOpener
from clbench.running.protocol import Progress, Run
from clbench.settings import Settings
from clbench.spec import PROTOCOL_VERSION, RunSpec
from tests.running.test_dry_run import FAILS_LATE

PLUGIN = """
from clbench import hookimpl
import helper

class Mine:
    @hookimpl
    def learn_task(self, learner, task):
        return {"number": helper.NUMBER}

@hookimpl
def methods():
    return {"mine": Mine}
"""
PARTS = st.tuples(*[st.integers(0, 1)] * 8)


def of(parts):
    """Return the identity of a run with each part as it is (0) or changed (1)."""
    method, option, stream, seed, setting, data, plugin, backbone = parts
    run_settings = Settings(stream="ab"[stream], seed=seed, epochs=1 + setting)
    digests = Digests(data=str(data), plugin=str(plugin), backbone=str(backbone), questions="q")
    return identity_of(RunSpec(f"m{method}", {"o": option}, run_settings), digests)


@given(PARTS, PARTS)
def test_the_identity_changes_if_and_only_if_a_part_does(one, other):
    assert (of(one) == of(other)) == (one == other)


def test_the_protocol_version_is_a_part(monkeypatch):
    before = of((0,) * 8)
    monkeypatch.setattr("clbench.running.identity.PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    assert of((0,) * 8) != before


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A plugin file with a helper module beside it."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "mine.py").write_text(PLUGIN)
    (folder / "helper.py").write_text("import deeper\nNUMBER = 1\n")
    (folder / "deeper.py").write_text("")
    (folder / "other.py").write_text("")
    monkeypatch.syspath_prepend(folder)
    for name in ("helper", "deeper", "other"):  # of another test's folder
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder / "mine.py"


def test_a_finished_run_is_made_again_once_a_helper_the_data_or_the_weights_change(
    clbench, tiny_run, tiny_folder, mine, tmp_path
):
    words = [*tiny_run, "--stream", "sst-2", "--method", "mine", "--plugin", mine]
    backbone = shutil.copytree(tiny_folder, tmp_path / "copy")
    words[words.index("--backbone") + 1] = str(backbone)

    def is_repeated() -> bool:
        result = clbench(*words)
        assert result.exit_code == 0, result.output
        return "already finished" not in result.output

    assert is_repeated()
    assert not is_repeated()
    for name in ("other.py", "README.md"):
        (mine.parent / name).write_text("# not read")
    (backbone / "README.md").write_text("not read")
    assert not is_repeated()
    (mine.parent / "deeper.py").write_text("# imported by what the plugin imports")
    assert is_repeated()
    model = T5ForConditionalGeneration.from_pretrained(backbone)
    model.lm_head.weight.data[0, 0] += 1
    model.save_pretrained(backbone)
    assert is_repeated()
    assert not is_repeated()
    assert len(list((tmp_path / "results").glob("*.json"))) == 3


def test_an_installed_plugin_counts_as_a_whole_and_a_plugin_file_with_what_it_imports(mine, tmp_path, monkeypatch):
    package = tmp_path / "plugin" / "their_package"
    (package / "deep").mkdir(parents=True)
    for name in ("__init__.py", "methods.py", "deep/__init__.py", "deep/numbers.py"):
        (package / name).write_text("")
    monkeypatch.syspath_prepend(mine.parent)
    import their_package.methods

    assert source_files(their_package.methods) == set(package.rglob("*.py"))
    module = find_plugins([mine]).modules[str(mine)]
    assert {path.name for path in source_files(module)} == {"mine.py", "helper.py", "deeper.py"}
    rkif = find_plugins().modules["clbench.plugins.rkif"]
    assert {path.name for path in source_files(rkif)} == {"rkif.py"}
    variants = find_plugins().modules["clbench.plugins.rkif_variants"]
    assert {path.name for path in source_files(variants)} == {"rkif.py", "rkif_variants.py"}


def test_a_plugin_that_takes_over_evaluation_counts_and_a_watcher_does_not(tmp_path, tiny_folder):
    spec = RunSpec("seqlora", {}, Settings(stream="sst-2", backbone=str(tiny_folder)))
    (tmp_path / "watcher.py").write_text(
        "from clbench import hookimpl\n@hookimpl(wrapper=True)\ndef evaluate(learner, task):\n    return (yield)\n"
    )
    (tmp_path / "answers.py").write_text(
        "from clbench import hookimpl\n@hookimpl\ndef evaluate(learner, task):\n    return ['Good'] * len(task.test)\n"
    )
    found = [
        RunOpener(find_plugins(files), tmp_path).open(spec).digests.plugin
        for files in ([], [tmp_path / "watcher.py"], [tmp_path / "answers.py"])
    ]
    assert found[0] == found[1] != found[2]


def test_the_digest_of_a_backbone(tiny_folder, tmp_path, monkeypatch):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    assert backbone_digest(str(copy)) == backbone_digest(str(tiny_folder)) != backbone_digest("mini")
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    assert backbone_digest(str(copy)) != backbone_digest(str(tiny_folder))
    snapshot = tmp_path / "snapshots" / "0ddba11" / "config.json"
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *words, **named: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file: str(snapshot))
    assert backbone_digest("their/model") == "hub commit 0ddba11"


def test_a_run_builds_its_method_once_and_takes_one_fingerprint(clbench, tiny_run, monkeypatch):
    built, taken = [], []
    build = Method.build
    monkeypatch.setattr(Method, "build", lambda self, options: built.append(self.name) or build(self, options))
    monkeypatch.setattr(
        "clbench.running.opening.fingerprint", lambda tasks: taken.append(len(tasks)) or fingerprint(tasks)
    )
    assert clbench(*tiny_run, "--stream", "sst-2", "--method", "rkif", "--set", "memory_ratio=0.5").exit_code == 0
    assert built == ["rkif"]
    assert taken == [1]


def test_a_stream_file_is_no_data_for_another_stream(tmp_path, tiny_folder):
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nversion = 1\n[tasks.t]\ntrain = "a.csv"\ntest = "a.csv"\nprompt = "{x}"\ntarget = "y"\n'
    )
    spec = RunSpec("seqlora", {}, Settings(stream="long:1", data=str(tmp_path / "mine.toml")))
    with pytest.raises(ClbenchError, match=r"is the file of stream 'mine', not data for 'long:1': --stream"):
        RunOpener(find_plugins(), tmp_path).open(spec)
    with pytest.raises(ClbenchError, match=r"no backbone 'no/where'"):
        RunOpener(find_plugins(), tmp_path).open(replace(spec, settings=Settings(stream="sst-2", backbone="no/where")))


def test_a_checkpoint_of_another_run_under_this_runs_name_is_refused(clbench, tiny_run, tiny_folder, tmp_path):
    (tmp_path / "late.py").write_text(FAILS_LATE)
    words = [*tiny_run, "--method", "late", "--plugin", "late.py", "--stream", "sst-2,agnews"]
    assert clbench(*words).exit_code == clbench(*words, "--seeds", "2,").exit_code == 2
    first, second = sorted((tmp_path / "results").glob("*.checkpoint"))
    shutil.copy(first, second)
    result = clbench(*words, "--seeds", "2,")
    assert result.exit_code == 2
    assert f"{second.name}: a checkpoint of another run" in result.output.replace("\n", "")
    assert "a checkpoint of another run" not in clbench(*words, "--seeds", "2,", "--force").output


def test_a_resumed_run_keeps_the_most_memory_of_its_sessions():
    meter = SimpleNamespace(read=lambda: 7)
    for earlier, most in ((0, 7), (9, 9)):
        run = Run(None, None, None, Progress([], peak_memory=earlier), meter)
        run.note_memory()
        assert run.progress.peak_memory == most

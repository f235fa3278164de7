"""What users stumbled over (issue 18, part 4), one test each: what is said, and what is taken."""

import subprocess
import sys
import warnings

import pytest

from clbench.cli.parameters import parse_numbers, parse_seeds
from clbench.cli.run import choose_streams
from clbench.errors import ClbenchError, unknown
from clbench.model import backbone_files
from clbench.model.backbone import attach_adapter, load_backbone
from clbench.names import match, nearest
from clbench.records.files import RunFiles
from clbench.reports.leaderboard import make_rows, pivot
from clbench.settings import Settings
from clbench.units import counted
from tests.conftest import EXAMPLE_PLUGINS, REFERENCE
from tests.records.examples import record

HEAD = "from clbench import hookimpl\n"
METHOD = (
    HEAD
    + """
class M:
    '''A method.'''

    @hookimpl
    def learn_task(self, learner, task):
        raise KeyError('lost')

@hookimpl
def methods():
    return {'m': M}
"""
)


def fault(result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize(
    ("typed", "name"), [("RKIF", "rkif"), ("Recurrent-KIF", "rkif"), ("O-LoRA", "olora"), ("vr_mcl", "vrmcl")]
)
def test_a_method_is_found_whatever_its_case_and_by_what_papers_call_it(clbench, typed, name):
    assert clbench("methods", typed).stdout.startswith(f"{name}: ")


def test_several_methods_are_a_sweep(clbench):
    said = fault(clbench("run", "--method", "seqlora,rkif", "--stream", "agnews"))
    assert "clbench run takes one method; `clbench sweep make --method seqlora,rkif ...` takes several" in said


def test_names_match_whatever_case_and_punctuation_but_never_two():
    assert match("Long:1", ["long:1", "long:2"]) == "long:1"
    assert match("a-b", ["a_b", "ab"]) is None
    assert match("ab", ["a_b", "ab"]) == "ab"
    assert match("", ["-"]) is None
    assert match("-", ["_"]) is None


def test_presets_streams_and_tasks_too(clbench):
    assert "preset t5-large" in clbench("presets", "T5-Large").stdout
    (stream,) = choose_streams(None, "Standard:2")
    assert stream.name == "standard:2"
    assert [one.name for one in choose_streams(None, "SST2, AGNews")] == ["sst-2,agnews"]


def test_orders_and_seeds_are_given_as_ranges():
    assert [stream.name for stream in choose_streams("1-3", None)] == ["standard:1", "standard:2", "standard:3"]
    assert [stream.order for stream in choose_streams("1,5-6,5", None)] == [1, 5, 6]
    assert parse_seeds("4-6") == [4, 5, 6]
    assert parse_seeds("7,1-2") == [7, 1, 2]
    assert parse_numbers("3-1") is parse_numbers("1-") is parse_numbers("0-1000000") is None
    with pytest.raises(ClbenchError, match="--seeds takes how many"):
        parse_seeds("1-3,2")
    with pytest.raises(ClbenchError, match="no order '10'"):
        choose_streams("7-10", None)


def test_a_family_means_all_its_streams(clbench, tmp_path):
    assert [stream.order for stream in choose_streams(None, "standard")] == [1, 2, 3]
    (tmp_path / "grid.toml").write_text('methods = ["seqlora"]\nstreams = ["standard"]\n')
    plan = clbench("sweep", "grid.toml", "--dry-run")
    assert plan.stdout.count("seqlora") == 3, plan.output
    message = fault(clbench("audit", "--stream", "Lang"))
    assert "did you mean 'long'?" in message
    assert (
        clbench("audit", "--stream", "standard", "--backbone", "none").exit_code == 0
    )  # its streams have the same tasks


def test_a_family_is_refused_where_one_stream_is_wanted():
    import clbench

    with pytest.raises(
        ClbenchError, match="'standard' is a family of streams: standard:1, standard:2, standard:3; name one"
    ):
        clbench.run("seqlora", stream="standard")


def test_a_typo_among_many_names_is_answered_with_the_nearest_alone(clbench):
    message = fault(clbench("run", "--method", "seqlora", "--stream", "sst-2,amazn"))
    assert message == "error: no task 'amazn'; did you mean 'amazon'? (38 are known: `clbench streams`)\n"
    assert (
        str(unknown("x", "?!", range(30), "list x")) == "no x '?!' (0, 1, 2, 3, 4, 5, 6, 7 ... 30 are known: `list x`)"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "--lr", "3"],
            "error: no option --lr; did you mean --learning-rate or --lora-rank? (`clbench run --help`)",
        ),
        (["run", "--rank", "3"], "error: no option --rank; did you mean --lora-rank?"),
        (["run", "--model", "x"], "error: no option --model; did you mean --backbone?"),
        (["run", "--epoch", "3"], "error: no option --epoch; did you mean --epochs?"),
        (["streams", "--xyz"], "error: no option --xyz (`clbench streams --help`)"),
        (["leaderbord"], "error: no command 'leaderbord'; did you mean leaderboard? (`clbench --help`)"),
        (["show"], "error: Missing argument 'RECORD' (`clbench show --help`)"),
    ],
)
def test_an_unknown_option_is_answered_with_those_that_mean_it(clbench, words, message):
    assert fault(clbench(*words)).startswith(message)


def test_initials_words_and_beginnings_are_near():
    known = ["learning_rate", "lora_rank", "weight_decay", "epochs", "max_input"]
    assert nearest("lr", known) == ["learning_rate", "lora_rank"]
    assert nearest("decay", known) == ["weight_decay"]
    assert nearest("epo", known) == ["epochs"]
    assert nearest("LORA-RANK", known) == ["lora_rank"]
    assert nearest("zzz", known) == nearest("", known) == []


@pytest.mark.parametrize(
    "words", [["run", "--method", "RKIF"], ["sweep", "--method", "rkif"], ["check-method", "rkif"]]
)
def test_an_option_of_the_method_is_told_from_a_setting(clbench, words):
    message = fault(clbench(*words, "--outer-steps", "2"))
    assert "no option --outer-steps of the command; it is an option of method rkif: --set outer_steps=2 (" in message


def test_a_setting_among_the_methods_options_is_told_from_them(clbench):
    message = fault(clbench("run", "--method", "rkif", "--set", "epochs=2"))
    assert message == "error: 'epochs' is a setting, no option of method 'rkif': --epochs 2\n"


@pytest.mark.parametrize("network", [OSError("no route"), RuntimeError("of whatever library")])
def test_a_backbone_that_cannot_be_reached_is_asked_for_once(monkeypatch, network):
    asked = []

    def ask(api, name, timeout):
        asked.append(timeout)
        raise network

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", ask)
    with pytest.raises(
        ClbenchError, match=r"^no backbone 't5-lrge'; did you mean 'google-t5/t5-large'\? \(.* cannot be reached: "
    ):
        load_backbone("t5-lrge", "cpu")
    assert asked == [backbone_files.PATIENCE]
    with pytest.raises(ClbenchError, match=r"^no backbone 'google-t5/t5-large' \(not 'mini', no local folder"):
        load_backbone("google-t5/t5-large", "cpu")


def test_what_was_asked_for_is_not_suggested():
    assert str(unknown("format", "none", ["none", "nine"])) == "no format 'none' (known: none, nine)"


def test_an_error_of_a_plugin_names_file_and_line_and_shows_its_traceback_on_request(clbench, tmp_path, tiny_run):
    file = tmp_path / "m.py"
    file.write_text(METHOD)
    place = f"({file}, line {METHOD[: METHOD.index('raise')].count(chr(10)) + 1})"
    for words in (["check-method", "m"], [*tiny_run, "--method", "m", "--stream", "sst-2", "--seeds", "2"]):
        plain = clbench(*words, "--plugin", file)
        assert place in plain.output, plain.output
        assert "Traceback" not in plain.output
        for asked in (["--traceback", *words], [*words, "--traceback"]):
            shown = clbench(*asked, "--plugin", file)
            assert "Traceback (most recent call last)" in shown.stderr
            assert "KeyError: 'lost'" in shown.stderr


def test_a_folder_of_plugins_is_taken_and_a_file_imports_its_neighbour(clbench, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "of_mine_alone.py").write_text("NAME = 'm'\n")
    (folder / "one.py").write_text(METHOD.replace("'m'", "NAME") + "\nfrom of_mine_alone import NAME\n")
    (folder / "two.py").write_text(METHOD.replace("'m'", "'second'"))
    (folder / "notes.py").write_text("raise SystemExit('a script, not to be imported')\n")
    listed = clbench("methods", "--plugin", folder).stdout
    assert "two.py" in listed
    assert "one.py" in clbench("methods", "--plugin", folder / "one.py").stdout
    other = tmp_path / "other"
    other.mkdir()
    (other / "of_mine_alone.py").write_text("NAME = 'other'\n")
    (other / "one.py").write_text((folder / "one.py").read_text())
    message = fault(clbench("methods", "--plugin", other))
    assert f"it imports 'of_mine_alone', which is {folder / 'of_mine_alone.py'} and not {other}" in message


def test_a_package_of_plugins_is_taken(clbench, tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "inner.py").write_text(METHOD.replace("'m'", "'inner'"))
    (folder / "__init__.py").write_text("from .inner import methods\n")
    assert "inner " in clbench("methods", "--plugin", folder).stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "offers nothing: it has no function under @hookimpl; a method is offered by `methods`"),
        (f"{HEAD}@hookimpl\ndef methods(): return {{}}", "m.py offers no method"),
    ],
)
def test_a_plugin_that_offers_nothing_says_so(clbench, tmp_path, text, message):
    (tmp_path / "m.py").write_text(text)
    assert message in fault(clbench("run", "--method", "m", "--plugin", "m.py"))
    (tmp_path / "folder").mkdir()
    assert "folder offers nothing: no .py file" in fault(clbench("methods", "--plugin", tmp_path / "folder"))


@pytest.mark.parametrize("words", [["leaderboard"], ["plot", "matrix"], ["report"]])
def test_records_in_subfolders_are_pointed_to(clbench, tmp_path, words):
    RunFiles(tmp_path / "results" / "a", "r").folder.mkdir(parents=True)
    assert "no records in 'results'; make a first one with `clbench run`" in fault(clbench(*words))
    RunFiles(tmp_path / "results" / "a", "r").write_record(record(), [])
    assert "no records in 'results', but in results/a: name one of these folders" in fault(clbench(*words))


@pytest.mark.parametrize("words", [["show"], ["explain"], ["rescore"], ["plot", "matrix"]])
def test_a_record_that_is_not_there_is_answered_with_those_that_come_near(clbench, tmp_path, words):
    (tmp_path / "results").mkdir()
    for name in ("long-1_rkif_mini", "long-1_olora_mini"):
        RunFiles(tmp_path / "results", name).write_record(record(), [])
    known = "(known: long-1_olora_mini, long-1_rkif_mini)"
    assert f"no record 'rkif'; did you mean 'long-1_rkif_mini'? {known}" in fault(clbench(*words, "rkif"))
    assert f"no record 'x' {known}" in fault(clbench(*words, "x"))


def test_rows_stand_in_the_order_of_their_score_and_the_note_says_what_that_means():
    records = [
        record("a", op=15.4),
        record("b", op=15.6, epochs=9),
        record("c", op=1.0),
        record("d", op=15.1, epochs=9),
    ]
    sheet = pivot(make_rows(records))
    assert [line[0] for line in sheet.lines] == ["b", "a", "d", "c"]
    assert "Rows of several recipes" in sheet.notes[0]
    assert not pivot(make_rows([records[0], records[2]])).notes
    both = [record("a", "standard:1", op=10), record("a", op=60), record("b", "standard:1", op=20), record("b", op=50)]
    assert [line[0] for line in pivot(make_rows(both)).lines] == ["b", "a"]  # by the first column of scores


def test_peft_says_nothing_of_gpt_2(tmp_path, tiny_folder):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach_adapter(backbone, Settings(lora_targets="c_attn")).unload()


def test_one_is_not_many(clbench, tmp_path):
    assert [counted(number, "run") for number in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]
    (tmp_path / "grid.toml").write_text('methods = ["seqlora"]\norders = [1]\nseeds = 1\n')
    assert "1 run: 1 missing" in clbench("sweep", "grid.toml", "--dry-run").stdout


def test_published_numbers_are_shown_alone(clbench):
    result = clbench("compare", "--stream", "standard")
    assert result.exit_code == 0, result.output
    assert "LoRAReplay" in result.stdout
    assert "68.8" in result.stdout
    assert result.stderr.startswith("warning: no results folder 'results'; ")
    assert "these are the published numbers alone" in result.stderr
    assert clbench("compare", "--results", REFERENCE, "--stream", "standard").stderr == ""


def test_no_table_in_a_pipe_has_boxes_or_is_cut(tmp_path):
    code = "from clbench.cli.main import main; main()"
    for words in (
        ["streams"],
        ["methods", "rkif", "--plugin", EXAMPLE_PLUGINS / "l2.py"],
        ["presets"],
        ["leaderboard", "--results", REFERENCE],
        ["compare", "--results", REFERENCE],
    ):
        result = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        assert not set("│┃┏╇━─╭") & set(result.stdout), words
        assert max(map(len, result.stdout.splitlines())) > 80, words
        assert not any(line.endswith((" ", "…")) for line in result.stdout.splitlines())

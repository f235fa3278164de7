"""What a run has learned, used without clbench: the record's answers by plain transformers and PEFT, on four architectures."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers
from huggingface_hub.utils import filter_repo_objects
from peft import PeftModel
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.encoding.alpaca import ask_alpaca, chat_messages
from clbench.errors import ClbenchError
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone
from clbench.model.backbone_files import hub_id, lasting_name, public_name
from clbench.records.files import read_record
from clbench.records.model_card import CardFacts, Shown, model_card
from clbench.running.export import check_exportable
from clbench.running.plain_folder import closes_prompts
from clbench.running.saved_learner import load_learner
from clbench.settings import Settings
from tests.cli.test_bad_input import expect_error
from tests.conftest import EXAMPLE_PLUGINS
from tests.records.examples import record

AVERAGE = EXAMPLE_PLUGINS / "average.py"
STREAM = "sst-2,agnews"
LEARN = [
    *("--stream", STREAM, "--limit-train", "16", "--limit-test", "8", "--epochs", "12", "--learning-rate", "0.03"),
    *("--lora-rank", "4", "--max-input", "256", "--max-answer", "6", "--device", "cpu", "--save-adapter"),
]
METHODS = {"t5": "olora", "llama": "lorareplay", "gpt2": "inclora", "qwen2": "seqlora"}


@pytest.fixture
def base(request, tiny_folder, llama_folder, tmp_path_factory):
    """The folder of a tiny random model of the family that the test is for."""
    if request.param == "t5":
        return tiny_folder
    if request.param == "llama":
        return llama_folder
    folder = tmp_path_factory.mktemp(request.param)
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(folder)
    tokens = {"vocab_size": 610, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    torch.manual_seed(0)
    if request.param == "gpt2":
        config = transformers.GPT2Config(n_positions=512, n_embd=32, n_layer=1, n_head=4, **tokens)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
        config = transformers.Qwen2Config(num_key_value_heads=2, **sizes, **tokens)
        transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def run_and_save(clbench, folder, base, method, *words):
    """Run a method; return the saved folder, the questions, and the recorded answers."""
    result = clbench("run", "--method", method, "--backbone", base, *LEARN, *words)
    assert result.exit_code == 0, result.output
    (adapter,) = (folder / "results").glob("*.adapter")
    lines = adapter.with_suffix(".answers.jsonl").read_text("utf-8").splitlines()
    answers = [row["answer"] for row in map(json.loads, lines) if row["after"] == 1]
    assert len(set(answers)) > 2
    questions = [row for task in load_tasks("toy", find_stream(STREAM), 16, 8, 1) for row in task.test]
    return adapter, questions, answers


def generate(model, tokenizer, batch, **how):
    """Return plain answers."""
    tokens = model.eval().generate(**batch, **how)
    skipped = 0 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
    return [text.strip() for text in tokenizer.batch_decode(tokens[:, skipped:], skip_special_tokens=True)]


def auto(base):
    config = transformers.AutoConfig.from_pretrained(base)
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


@pytest.mark.parametrize("template", ["plain", "alpaca"])
@pytest.mark.parametrize(("base", "method"), METHODS.items(), ids=METHODS, indirect=["base"])
def test_transformers_and_peft_answer_as_recorded(clbench, tmp_path, base, method, template):
    folder, questions, answers = run_and_save(clbench, tmp_path, base, method, "--template", template)
    result = clbench("export", folder.stem, "--merged", "out/merged")
    assert result.exit_code == 0, result.output
    prompts = [(ask_alpaca(row) if template == "alpaca" else row).prompt for row in questions]

    merged = tmp_path / "out" / "merged"
    tokenizer, model = AutoTokenizer.from_pretrained(merged), auto(base).from_pretrained(merged)
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    assert generate(model, tokenizer, batch) == answers  # nothing is said of how: it stands in the folder

    tokenizer = AutoTokenizer.from_pretrained(folder)
    adapted = PeftModel.from_pretrained(auto(base).from_pretrained(base), folder)
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    assert generate(adapted, tokenizer, batch, max_new_tokens=6, do_sample=False) == answers
    plain = auto(base).from_pretrained(base)
    assert generate(plain, tokenizer, batch, max_new_tokens=6, do_sample=False) != answers

    if not model.config.is_encoder_decoder:
        chats = [
            chat_messages(row) if template == "alpaca" else [{"role": "user", "content": row.prompt}]
            for row in questions
        ]
        batch = tokenizer.apply_chat_template(chats, padding=True, return_tensors="pt", return_dict=True)
        assert generate(model, tokenizer, batch) == answers


BEYOND = {  # methods whose learner is more than an adapter, their options, and what is said of them
    "l2p": (("pool=4", "top=2"), "with a module of its own on every question: pool (Pool)"),
    "lfpt5": (("prompt_length=4",), "with a module of its own on every question: prompt (Prompt)"),
    "moelora": ((), "with a module of its own on every question: router (Router)"),
    "sapt": ((), "with a module of its own on every question: attention (SharedAttention)"),
    "gainlora": ((), "with a module of its own on every question: gates (Gates)"),
    "sdlora": ((), "with a module of its own on every question: magnitudes (Magnitudes)"),
    "average": ((), "its method answers by an `evaluate` hook of its own, which no folder of weights has"),
}


@pytest.mark.parametrize("method", BEYOND)
def test_a_learner_that_is_more_than_an_adapter_is_refused_and_its_card_says_how_to_load_it(
    clbench, tiny_run, tmp_path, method
):
    options, reason = BEYOND[method]
    words = [word for option in options for word in ("--set", option)]
    plugin = ["--plugin", AVERAGE] if method == "average" else []
    result = clbench(*tiny_run, "--method", method, *words, *plugin, "--stream", "sst-2", "--save-adapter")
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "results").glob("*.adapter")
    for where in (["--merged", "out"], ["--push", "me/it"]):
        refused = clbench("export", folder, *plugin, *where)
        expect_error(refused, f"a learner of method '{method}' is no plain model and no plain PEFT adapter: ")
        assert reason in refused.stderr
    assert not (tmp_path / "out").exists()
    card = (folder / "README.md").read_text("utf-8")
    assert "load_learner('.')" in card
    assert "PeftModel" not in card


def test_lora_on_a_head_that_is_the_embedding_as_well_is_not_merged(llama_folder, tmp_path):
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(tmp_path)
    config = transformers.GPT2Config(vocab_size=610, n_embd=32, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    learner = Learner(load_backbone(str(tmp_path), "cpu"), Settings(lora_targets="lm_head"))
    learner.attached.add_lora()
    with pytest.raises(
        ClbenchError, match=r"cannot be merged .* weights that other modules of the model share \(lm_head\)$"
    ):
        learner.attached.fold()
    assert learner.attached.adapter is not None  # nothing was taken off


def test_weights_in_few_bits_are_not_merged(make_learner, monkeypatch):
    learner = make_learner()
    monkeypatch.setattr("clbench.model.attached.is_quantized", lambda layer: True)
    with pytest.raises(
        ClbenchError, match=r"cannot be merged .* in 8 or 4 bits, which cannot take the adapter up exactly$"
    ):
        learner.attached.fold()
    assert learner.attached.adapter is not None


def test_a_tokenizer_that_ends_prompts_is_refused(llama_folder, tiny_folder, tmp_path):
    shutil.copytree(llama_folder, tmp_path, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    form = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = form
    tokenizer.save_pretrained(tmp_path)
    ending, usual, encoder = (load_backbone(str(folder), "cpu") for folder in (tmp_path, llama_folder, tiny_folder))
    assert [closes_prompts(one) for one in (ending, usual, encoder)] == [True, False, False]
    with pytest.raises(ClbenchError, match=r"closes prompts, too, by its end token, .* with --backbone$"):
        check_exportable(SimpleNamespace(beyond_weights="", learner=SimpleNamespace(backbone=ending)))


@pytest.fixture
def saved(clbench, tiny_run, tmp_path):
    """The folder of a plain learner."""
    result = clbench(*tiny_run, "--method", "seqlora", "--stream", STREAM, "--save-adapter")
    assert result.exit_code == 0, result.output
    return next((tmp_path / "results").glob("*.adapter"))


def test_what_cannot_be_exported_is_said_in_one_line(clbench, saved, tmp_path):
    expect_error(clbench("export", saved), "say where to: --merged DIR writes a model folder")
    expect_error(clbench("export", "nothing", "--merged", "out"), "no saved learner 'nothing': there is neither")
    for name in ("alone", "a/b/c", "a/-b", ""):
        expect_error(clbench("export", saved, "--push", name), f"--push takes OWNER/NAME, not '{name}'")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    expect_error(
        clbench("export", saved, "--merged", "full"), "'full' is there already; name another folder, or remove it"
    )
    expect_error(clbench("export", saved, "--push", "me/it"), "'me/it' cannot be pushed to: HF_HUB_OFFLINE is set")


@pytest.mark.parametrize("merged", [True, False])
def test_a_push_uploads_what_others_can_use_and_nothing_else(clbench, saved, monkeypatch, merged):
    uploaded, made = [], []

    class Hub:
        def __init__(self, library_name: str) -> None:
            assert library_name == "clbench"

        def create_repo(self, name, private, exist_ok):
            made.append((name, private, exist_ok))
            return f"https://huggingface.co/{name}"

        def upload_folder(self, repo_id, folder_path, commit_message, ignore_patterns):
            names = sorted(path.name for path in folder_path.iterdir())
            uploaded.extend(filter_repo_objects(names, ignore_patterns=ignore_patterns))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    words = ["--merged", "out", "--public"] if merged else []
    result = clbench("export", saved, "--push", "me/it", *words)
    assert result.exit_code == 0, result.output
    assert "pushed to https://huggingface.co/me/it" in result.output
    assert made == [("me/it", not merged, True)]
    weights = ["config.json", "generation_config.json", "model.safetensors"]
    own = weights if merged else ["adapter_config.json", "adapter_model.safetensors"]
    assert uploaded == ["README.md", *own, "tokenizer.json", "tokenizer_config.json"]


def test_a_card_says_what_the_record_does_and_no_path_of_this_machine(saved, tiny_folder):
    card, record = (saved / "README.md").read_text("utf-8"), read_record(saved.with_suffix(".json"))
    for task, score in zip(record.tasks, record.scores[-1], strict=True):
        assert f"- `{task.name}`, exact_match: {score:.1f}" in card
        assert f"Answers: {', '.join(f'`{label}`' for label in task.labels)}" in card
    assert f"OP {record.metrics.op:.1f}, BWT {record.metrics.bwt:.1f}" in card
    (prompt, _) = [row.prompt for task in load_tasks("toy", find_stream(STREAM), 16, 8, 1) for row in task.test[:1]]
    assert f"```text\n{prompt}\n```" in card
    assert f"prompt = {prompt!r}" in card
    assert "learning_rate=0.01" in card
    config = json.loads((saved / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == tiny_folder.name
    machine = str(tiny_folder.parent)
    with_paths = [path.name for path in saved.iterdir() if machine.encode() in path.read_bytes()]
    assert sorted(with_paths) == ["learner.json", "record.json"]  # which a push keeps back


def test_names_of_backbones_travel(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_folder)
    for name, public, lasting, on_hub in (
        ("mini", "mini", "mini", None),
        ("google/t5-v1_1-large", "google/t5-v1_1-large", "google/t5-v1_1-large", "google/t5-v1_1-large"),
        (str(tiny_folder), tiny_folder.name, str(tiny_folder), None),
        (".", tiny_folder.name, str(tiny_folder), None),
        (f"../{tiny_folder.name}", tiny_folder.name, str(tiny_folder), None),
        ("m/x.Q4.gguf", "x.Q4.gguf", str(tiny_folder / "m" / "x.Q4.gguf"), None),
    ):
        assert (public_name(name), lasting_name(name), hub_id(name)) == (public, lasting, on_hub)


def test_a_learner_of_a_relative_backbone_loads_from_anywhere(clbench, tiny_run, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    words = [tiny_folder.name if word == str(tiny_folder) else word for word in tiny_run]
    result = clbench(*words, "--method", "seqlora", "--stream", "sst-2", "--save-adapter", "--results", tmp_path / "r")
    assert result.exit_code == 0, result.output
    monkeypatch.chdir("/")
    (folder,) = (tmp_path / "r").glob("*.adapter")
    assert load_learner(folder).learner.backbone.name == str(tiny_folder)


def test_markdown_in_names_and_prompts_stays_text():
    made = record(fields={"tasks": [{"name": "a`b", "version": 1}], "notes": ["<b>x</b> [y](z)"]})
    shown = Shown("a`b", "```\n{text}", ["a`", "<i>"])
    facts = CardFacts("model", "base", None, True, [shown], "``` # no heading", [], 8)
    card = model_card(made, facts)
    assert "`` a`b ``" in card
    assert "\n````text\n```\n{text}\n````\n" in card
    assert r"\<b\>x\</b\> \[y\](z)" in card
    assert "base_model" not in card
    assert "base_model: org/base\nbase_model_relation: finetune" in model_card(made, replace(facts, hub_id="org/base"))

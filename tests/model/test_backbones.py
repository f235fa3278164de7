"""Backbones through the real command: whole streams on Hugging Face folders, presets on one's own folder, plain errors."""

import json
import re
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from clbench.data.streams import find_stream
from clbench.errors import ClbenchError
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone
from clbench.model.tiny import save_tiny_llama
from clbench.records.files import read_record
from clbench.settings import Settings
from tests.cli.test_bad_input import expect_error
from tests.conftest import TINY_LLAMA

SMALL = ["--limit-train", "16", "--limit-test", "8", "--epochs", "1", "--device", "cpu"]


def flags(values: dict) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("folder", ["tiny_folder", "llama_folder"])
def test_the_whole_of_order_1_on_a_folder(folder, clbench, tmp_path, request):
    place = request.getfixturevalue(folder)
    given = flags({**TINY_LLAMA, "backbone": place})
    result = clbench("run", "--method", "lorareplay", "--order", "1", *given, *SMALL, "--save-adapter")
    assert result.exit_code == 0, result.output
    (path,) = (path for path in tmp_path.glob("results/*.json") if not path.name.endswith(".answers.jsonl"))
    record = read_record(path)
    assert [task.name for task in record.tasks] == list(find_stream("1").tasks)
    assert all(score is not None for score in record.scores[-1])
    assert record.settings["lora_targets"] == "auto"
    assert record.lora_targets == ("q,v" if folder == "tiny_folder" else "q_proj,v_proj")
    (adapter,) = tmp_path.glob("results/*.adapter/adapter_config.json")
    kind = json.loads(adapter.read_text())["task_type"]
    assert kind == ("SEQ_2_SEQ_LM" if folder == "tiny_folder" else "CAUSAL_LM")


@pytest.mark.parametrize(("preset", "folder"), [("t5-large", "tiny_folder"), ("llama2-7b", "llama_folder")])
def test_a_preset_on_a_folder_of_its_architecture(preset, folder, clbench, tmp_path, request):
    place = request.getfixturevalue(folder)
    given = ["--preset", preset, "--backbone", place, "--data", "toy", "--quantize", "none", "--max-answer", "4"]
    result = clbench("run", "--method", "lorareplay", "--stream", "sst-2,agnews", *given, *SMALL)
    assert result.exit_code == 0, result.output
    (path,) = (path for path in tmp_path.glob("results/*.json") if not path.name.endswith(".answers.jsonl"))
    settings = json.loads(path.read_text())["settings"]
    assert (settings["learning_rate"], settings["max_input"], settings["max_target"]) == (3e-4, 512, 128)
    assert (settings["epochs"], settings["max_answer"]) == (1, 4)  # overridden
    assert settings["batch_size"] == (8 if preset == "t5-large" else 64)


def test_any_causal_model_is_adapted_where_its_architecture_has_it(tmp_path, llama_folder, toy_tasks):
    """GPT-2: learned positions, one matrix for query, key and value, stored the other way round."""
    transformers.AutoTokenizer.from_pretrained(llama_folder).save_pretrained(tmp_path)
    config = transformers.GPT2Config(
        vocab_size=600, n_positions=512, n_embd=32, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    learner = Learner(load_backbone(str(tmp_path), "cpu"), Settings(**TINY_LLAMA, epochs=1))
    learner.attached.add_lora()
    learner.begin_task(0)
    assert {name.split(".")[-4] for name in learner.weights.views(learner.weights.data)} == {"c_attn"}
    training = learner.training(toy_tasks[0].train)
    for batch in training:
        training.step(learner.loss(batch))
    examples = toy_tasks[0].test
    assert learner.answer(examples) == [learner.answer([example])[0] for example in examples]


def test_an_architecture_that_peft_does_not_know_is_adapted_at_query_and_value(tmp_path, llama_folder):
    transformers.AutoTokenizer.from_pretrained(llama_folder).save_pretrained(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Olmo2Config(vocab_size=600, **sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    transformers.Olmo2ForCausalLM(config).save_pretrained(tmp_path)
    learner = Learner(load_backbone(str(tmp_path), "cpu"), Settings(**TINY_LLAMA))
    learner.attached.add_lora()
    assert {name.split(".")[-4] for name in learner.weights.views(learner.weights.data)} == {"q_proj", "v_proj"}


def test_a_folder_that_is_no_backbone_is_one_line(clbench, tmp_path, tiny_folder):
    bert = tmp_path / "bert"
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertForMaskedLM(config).save_pretrained(bert)
    run = ["run", "--method", "seqlora", "--stream", "sst-2", *SMALL]
    expect_error(
        clbench(*run, "--backbone", bert), "is a bert model, which cannot write answers; use an encoder-decoder"
    )
    vit = tmp_path / "vit"
    transformers.ViTConfig().save_pretrained(vit)
    expect_error(clbench(*run, "--backbone", vit), "is a vit model, which cannot write answers")
    missing = (
        "no backbone 'no/where' (not 'mini', no local folder, not in the hub's cache, and https://huggingface.co cannot"
    )
    expect_error(clbench(*run, "--backbone", "no/where"), missing)
    (tmp_path / "empty").mkdir()
    expect_error(clbench(*run, "--backbone", tmp_path / "empty"), "the folder has no config.json")


@pytest.mark.parametrize(("folder", "lost"), [("tiny_folder", "k.weight"), ("llama_folder", "embed_tokens.weight")])
def test_a_backbone_whose_tensors_do_not_make_the_model_is_refused_and_names_them(folder, lost, tmp_path, request):
    copy = tmp_path / "copy"
    shutil.copytree(request.getfixturevalue(folder), copy)
    file = copy / "model.safetensors"
    tensors = load_file(file)
    name = next(one for one in tensors if one.endswith(lost))
    whole = tensors.pop(name)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ClbenchError, match=rf"copy': its files do not hold all tensors of the model; missing: {name}$"):
        load_backbone(str(copy), "cpu")
    save_file({**tensors, name: whole[:-1].contiguous()}, file, {"format": "pt"})
    rows, width = whole.shape
    said = re.escape(f"model; of another shape: {name} ({rows - 1}, {width}), not ({rows}, {width})")
    with pytest.raises(ClbenchError, match=rf"{said}$"):
        load_backbone(str(copy), "cpu")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ClbenchError, match=r"no backbone '.*copy'.*SafetensorError"):
        load_backbone(str(copy), "cpu")


def test_answers_are_greedy_whatever_the_authors_of_a_model_generate_with(tmp_path, toy_tasks):
    folder = save_tiny_llama(tmp_path)
    answers = []
    for given in ({}, {"repetition_penalty": 1e6, "no_repeat_ngram_size": 1, "suppress_tokens": list(range(3, 300))}):
        ids = {"bos_token_id": 1, "eos_token_id": 2}
        transformers.GenerationConfig(**ids, **given).save_pretrained(folder)
        learner = Learner(load_backbone(str(folder), "cpu"), Settings(**TINY_LLAMA))
        learner.attached.add_lora()
        answers.append(learner.answer(toy_tasks[0].test))
    assert answers[0] == answers[1]


def test_a_stream_is_checked_in_the_form_of_its_backbone(clbench, tmp_path, llama_folder):
    (tmp_path / "r.json").write_text(json.dumps([{"text": f"t{i}", "label": ["no", "yes"][i % 2]} for i in range(6)]))
    (tmp_path / "s.toml").write_text(
        '[tasks.t]\ntrain = "r.json"\ntest = "r.json"\nprompt = "Yes or no?\\n{text}"\ntarget = "label"\nlabels = ["no", "yes"]\n'
    )
    result = clbench("streams", "check", "s.toml", "--backbone", llama_folder, "--max-input", "100")
    assert "### Instruction:\nYes or no?\n\n### Input:\nt0\n\n### Response:\n" in result.output
    assert "instruction and closing line alone take" in result.output  # with the template
    plain = clbench("streams", "check", "s.toml", "--max-input", "100")
    assert "### Instruction" not in plain.output
    assert "alone take" not in plain.output


def test_lora_targets_that_do_not_fit_name_the_modules(clbench, llama_folder):
    run = ["run", "--method", "seqlora", "--stream", "sst-2", "--backbone", llama_folder, *SMALL]
    message = (
        "its linear modules: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj; or all-linear"
    )
    expect_error(clbench(*run, *flags({**TINY_LLAMA, "lora_targets": "q,v"})), message)


def test_code_that_comes_with_a_model_runs_only_when_asked(clbench, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_tiny_llama(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    run = ["run", "--method", "seqlora", "--stream", "sst-2", "--backbone", folder, *SMALL]
    run += flags({**TINY_LLAMA, "lora_targets": "q_proj,v_proj"})
    expect_error(clbench(*run), "needs code that comes with it: read it, then give --trust-remote-code")
    assert not (tmp_path / "ran").exists()
    result = clbench(*run, "--trust-remote-code")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "ran").exists()
    (path,) = (path for path in tmp_path.glob("results/*.json") if not path.name.endswith(".answers.jsonl"))
    assert json.loads(path.read_text())["settings"]["trust_remote_code"] is True


def test_a_tokenizer_without_end_token_is_one_line(clbench, tmp_path, llama_folder):
    folder = save_tiny_llama(tmp_path / "endless")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "eos_token": None}))
    run = ["run", "--method", "seqlora", "--stream", "sst-2", "--backbone", folder, *SMALL, *flags(TINY_LLAMA)]
    expect_error(clbench(*run), "its tokenizer has no end token")


@pytest.mark.parametrize(
    ("amx", "avx512", "large", "expected"),
    [(0, 1, 1, "bfloat16"), (1, 0, 1, "bfloat16"), (0, 0, 1, "float32"), (1, 1, 0, "float32")],
)
def test_auto_is_bfloat16_on_a_cpu_that_has_it_for_a_large_model(
    amx, avx512, large, expected, llama_folder, monkeypatch
):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: bool(amx))
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bool(avx512))
    weights = sum(weight.numel() for weight in load_backbone(str(llama_folder), "cpu", "float32").model.parameters())
    monkeypatch.setattr("clbench.model.backbone.LARGE", weights if large else weights + 1)
    assert load_backbone(str(llama_folder), "cpu", "auto").model.dtype == getattr(torch, expected)
    assert load_backbone(str(llama_folder), "cpu", "float32").model.dtype == torch.float32

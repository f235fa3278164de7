"""Tokens without an embedding and texts beyond the table of positions are found before anything is trained."""

import json

import pytest
import torch
import transformers
from torch.nn import functional
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

from clbench.encoding.encoder import Encoded
from clbench.errors import ClbenchError
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone
from clbench.model.reach import check_reach
from clbench.model.soft_prompts import hook_prompt
from clbench.model.tiny import save_tiny_llama
from clbench.settings import Settings

POSITIONS = 150


@pytest.fixture(scope="module")
def gpt2_folder(llama_folder, tmp_path_factory):
    """A tiny GPT-2 that reads 150 tokens at most."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bart_folder(tiny_folder, tmp_path_factory):
    """A tiny BART that reads and writes 60 tokens at most."""
    folder = tmp_path_factory.mktemp("bart")
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer), max_position_embeddings=60, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder)
    return folder


def row(prompt, target=1):
    return Encoded([5] * prompt, [6] * target)


def test_a_decoder_reads_prompt_and_answer_up_to_its_last_position(gpt2_folder):
    backbone = load_backbone(str(gpt2_folder), "cpu")
    check_reach(backbone, [row(100, 50), row(10)], [1, 140])
    for rows, answers in (([row(100, 51)], [1]), ([row(10), row(140)], [1, 11])):
        with pytest.raises(
            ClbenchError, match=r"is longer than the model can read \(its table of positions has 150 rows\)"
        ):
            check_reach(backbone, rows, answers)


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_soft_prompt_takes_positions_as_tokens_do(gpt2_folder, bart_folder, where):
    for folder, fits, prompt, answer in (
        (gpt2_folder, row(90, 50), 91, " with an answer of 50"),
        (bart_folder, row(50, 60), 51, ""),
    ):
        learner = Learner(load_backbone(str(folder), "cpu"), Settings())
        vectors = torch.zeros(1, 10, 16)
        hook_prompt(learner.attached, lambda ids, mask, vectors=vectors: vectors.expand(len(ids), -1, -1), where)
        check_reach(learner.backbone, [fits], [1])
        line = f"a prompt of {prompt} tokens{answer} and a soft prompt of 10 vectors is longer .* or a shorter soft prompt$"
        with pytest.raises(ClbenchError, match=line):
            check_reach(learner.backbone, [row(prompt, len(fits.labels))], [1])


def test_an_encoder_decoder_has_two_tables(bart_folder):
    backbone = load_backbone(str(bart_folder), "cpu")
    check_reach(backbone, [row(60), row(5, 60)], [60, 2])
    for rows, answers in (([row(61)], [1]), ([row(5, 61)], [1]), ([row(5), row(60)], [61, 1])):
        with pytest.raises(
            ClbenchError, match=r"or an answer of .*, is longer than the model can read \(its table of pos"
        ):
            check_reach(backbone, rows, answers)


@pytest.mark.parametrize("name", ["backbone", "llama"])
def test_relative_positions_have_no_end(request, name):
    backbone = request.getfixturevalue(name)
    check_reach(backbone, [row(3000, 20)], [300])
    assert not backbone.model.training


def test_a_token_without_an_embedding_is_named(backbone):
    size = backbone.model.get_input_embeddings().weight.shape[0]
    check_reach(backbone, [Encoded([size - 1], [size - 1])], [1])
    for one in (Encoded([size], [1]), Encoded([1], [size])):
        with pytest.raises(ClbenchError, match=rf"as number {size}, but the model's embeddings end at {size - 1}"):
            check_reach(backbone, [row(3), one], [1, 1])


def test_the_look_changes_neither_model_nor_chance(gpt2_folder):
    backbone = load_backbone(str(gpt2_folder), "cpu")
    before, state = {k: v.clone() for k, v in backbone.model.state_dict().items()}, torch.get_rng_state()
    check_reach(backbone, [row(20)], [4])
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert functional.embedding(torch.tensor([0]), torch.eye(2)).tolist() == [[1.0, 0.0]]


def run_words(folder, *more):
    return [
        "run", "--backbone", folder, "--limit-train", 8, "--limit-test", 4, "--epochs", 1, "--lora-rank", 2,
        "--max-target", 8, "--learning-rate", 1e-3, "--threads", 1, *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "vectors"),
    [
        (["seqlora"], 0),
        (["l2p", "--set", "pool=4", "--set", "top=2", "--set", "length=4"], 8),
        (["lfpt5", "--set", "prompt_length=8", "--set", "pseudo_per_class=0"], 8),
    ],
)
def test_a_run_says_it_before_it_trains(clbench, tmp_path, gpt2_folder, method, vectors):
    task = {"train": "r.json", "test": "r.json", "prompt": "{x}", "target": "y", "metric": "token_f1", "max_answer": 4}
    for name, words in (("r", 2), ("long", 400)):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"x": "good film " * words, "y": "yes"}]))
    tables = {"first": task, "second": {**task, "test": "long.json"}}
    (tmp_path / "s.toml").write_text(
        "\n".join(
            f"[tasks.{name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in table.items())
            for name, table in tables.items()
        )
    )
    words = run_words(
        gpt2_folder, "--stream", "s.toml", "--template", "plain", "--lora-targets", "c_attn", "--method", *method
    )
    fits = POSITIONS - vectors - 5
    result = clbench(*words, "--max-input", fits + 5)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    soft = f" and a soft prompt of {vectors} vectors" if vectors else ""
    assert f"a prompt of {fits + 5} tokens with an answer of 4{soft} is longer than the model can read" in lines[0]
    assert not list((tmp_path / "results").glob("*.checkpoint"))  # the first task was not trained
    assert clbench(*words, "--max-input", fits).exit_code == 0


def test_a_padding_token_beyond_the_embedding_is_found(clbench, tmp_path):
    folder = save_tiny_llama(tmp_path / "padded")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    result = clbench(*run_words(folder, "--method", "seqlora", "--stream", "sst-2"))
    assert result.exit_code == 2
    assert f"its tokenizer has the token '[PAD]' as number {size}, but the model's embeddings end at" in result.stderr
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(size + 1)
    model.save_pretrained(folder)
    assert clbench(*run_words(folder, "--method", "seqlora", "--stream", "sst-2")).exit_code == 0


def test_an_instruction_that_does_not_fit_is_found_before_the_first_task(clbench, tiny_run, tmp_path):
    words = [*tiny_run, "--method", "seqlora", "--max-input", 40, "--stream"]
    assert clbench(*words, "sst-2").exit_code == 0
    result = clbench(*words, "sst-2,dbpedia")
    assert result.exit_code == 2
    assert "max_input 40 is too short: the instruction" in result.stderr
    assert not list(tmp_path.rglob("*.checkpoint"))

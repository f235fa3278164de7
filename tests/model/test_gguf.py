"""GGUF files: what is read of them, where it is kept, what ends a text, and what is said when it cannot be read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from clbench.errors import ClbenchError
from clbench.model.backbone import load_backbone, prompt_form_of, source_of
from clbench.model.backbone_files import backbone_digest
from tests.cli.test_bad_input import expect_error
from tests.conftest import TINY_LLAMA

gguf = pytest.importorskip("gguf")
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm",
    "model.layers.": "blk.",
}  # fmt: skip


def write_gguf(folder: Path, file: Path, architecture: str = "llama", **ids: int) -> Path:
    """Write a LLaMA's folder as a GGUF file, as llama.cpp's converter does; return the file. `ids` are special tokens."""
    model = LlamaForCausalLM.from_pretrained(folder)
    config, vocabulary = model.config, json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary["vocab"], key=vocabulary["vocab"].__getitem__))
    writer.add_token_types([3 if number < 3 else 1 for number in range(config.vocab_size)])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_chat_template("{{ messages }}")
    for name, number in ids.items():
        getattr(writer, f"add_{name}_token_id")(number)
    for name, tensor in model.state_dict().items():
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}.get(name.split(".")[-2][0])
        if heads and "_proj" in name and "self_attn" in name:  # llama.cpp rotates neighbours, transformers halves
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        for own, theirs in NAMES.items():
            name = name.replace(own, theirs)
        writer.add_tensor(name, np.ascontiguousarray(tensor.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of an own cache."""
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def test_a_file_is_converted_once_and_is_the_model(llama_folder, tmp_path, cache):
    file = write_gguf(llama_folder, tmp_path / "tiny.gguf", bos=1, eos=2, unk=0)
    ours, own = load_backbone(str(file), "cpu", "float32"), load_backbone(str(llama_folder), "cpu", "float32")
    ids = torch.randint(3, 600, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores, expected = ours.model(input_ids=ids).logits, own.model(input_ids=ids).logits
    assert torch.corrcoef(torch.stack([scores.flatten(), expected.flatten()]))[0, 1] > 0.999  # rounded to bfloat16
    text = "What is the topic? 1234 élève"
    assert ours.tokenizer(text, add_special_tokens=False) == own.tokenizer(text, add_special_tokens=False)
    (folder,) = (place for place in cache.iterdir() if place.is_dir())
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    assert source_of(str(file)) == str(folder)
    elsewhere = tmp_path / "elsewhere.gguf"
    elsewhere.write_bytes(file.read_bytes())
    assert source_of(str(elsewhere)) == str(folder)  # the content counts
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    assert backbone_digest(str(file)) == backbone_digest(str(elsewhere))


def test_special_tokens_are_those_of_the_file(llama_folder, tmp_path, cache):
    """Whatever transformers makes of them: another file with the same weights names others."""
    file = write_gguf(llama_folder, tmp_path / "tiny.gguf", bos=0, eos=7, pad=1)
    backbone = load_backbone(str(file), "cpu")
    tokenizer, generation = backbone.tokenizer, backbone.model.generation_config
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 7, 1)
    assert tokenizer.unk_token is None
    assert tokenizer.chat_template == "{{ messages }}"
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (0, 7, 1)
    other = write_gguf(llama_folder, tmp_path / "other.gguf", eos=2)
    assert backbone_digest(str(file)) != backbone_digest(str(other))
    assert load_backbone(str(other), "cpu").tokenizer.pad_token_id == 2  # the end token stands in
    assert prompt_form_of(str(other), "auto") is not None


def test_a_file_that_changes_is_converted_again(llama_folder, tmp_path, cache):
    file = tmp_path / "tiny.gguf"
    ends = [load_backbone(str(write_gguf(llama_folder, file, eos=end)), "cpu").tokenizer.eos_token_id for end in (2, 5)]
    assert ends == [2, 5]


def test_what_cannot_be_read_is_one_line(llama_folder, tmp_path, cache, monkeypatch):
    with pytest.raises(ClbenchError, match=r"no backbone '.*no.gguf': there is no such file"):
        load_backbone(str(tmp_path / "no.gguf"))
    (tmp_path / "html.gguf").write_text("<html>")
    with pytest.raises(ClbenchError, match="is not a GGUF file: it does not begin with 'GGUF'"):
        load_backbone(str(tmp_path / "html.gguf"))
    with pytest.raises(ClbenchError, match="does not say which token ends a text"):
        load_backbone(str(write_gguf(llama_folder, tmp_path / "endless.gguf", bos=1)))
    with pytest.raises(ClbenchError, match="cannot be converted by transformers"):
        load_backbone(str(write_gguf(llama_folder, tmp_path / "other.gguf", "unheard-of", eos=2)))
    assert not [place for place in cache.iterdir() if place.is_dir()]
    monkeypatch.setattr("clbench.model.gguf.find_spec", lambda name: None)
    with pytest.raises(ClbenchError, match=r"needs the package gguf: pip install 'clbench\[gguf\]'"):
        load_backbone(str(write_gguf(llama_folder, tmp_path / "fine.gguf", eos=2)))


def test_the_command_runs_on_a_file(llama_folder, tmp_path, clbench):
    """Here without a cache."""
    file = write_gguf(llama_folder, tmp_path / "tiny.gguf", bos=1, eos=2)
    flags = [word for name, value in TINY_LLAMA.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ["run", "--method", "seqlora", "--stream", "sst-2", "--preset", "smollm2", "--epochs", "1", *flags]
    result = clbench(*words, "--limit-train", "8", "--limit-test", "4", "--backbone", file)
    assert result.exit_code == 0, result.output
    expect_error(clbench(*words, "--backbone", "no.gguf"), "no backbone 'no.gguf': there is no such file")
    assert AutoTokenizer.from_pretrained(source_of(str(file))).eos_token_id == 2

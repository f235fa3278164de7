"""Token ids on disk: read again for the same texts, tokenizer and lengths, and for nothing else."""

import shutil

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clbench.data.tasks import Example
from clbench.encoding import token_cache
from clbench.encoding.encoder import Encoder
from clbench.encoding.token_cache import TokenCache, cache_folder

EXAMPLES = [Example("Topic?\n", f"text {i} " * 30, f"answer {i}") for i in range(5)]


class Counting:
    """A tokenizer that counts the texts it was given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.texts = tokenizer, 0

    def __call__(self, texts, **options):
        self.texts += len(texts)
        return self.tokenizer(texts, **options)


@pytest.fixture
def make_encoder(tmp_path, backbone):
    def make(max_input=64, max_target=8):
        counting = Counting(backbone.tokenizer)
        return Encoder(counting, max_input, max_target, TokenCache(tmp_path, backbone.tokenizer)), counting

    return make


def test_a_second_encoder_reads_what_the_first_made(make_encoder):
    first, counting = make_encoder()
    made = first.encode(EXAMPLES)
    assert counting.texts == 10
    second, counting = make_encoder()
    assert second.encode(EXAMPLES) == made
    assert counting.texts == 0
    assert second.encode(EXAMPLES[::-1]) == made[::-1]
    assert counting.texts == 0


@pytest.mark.parametrize(
    "change",
    [
        {"examples": [*EXAMPLES[:4], Example("Topic?\n", "other", "answer 4")]},
        {"examples": [*EXAMPLES[:4], Example("Topic?\n", EXAMPLES[4].passage, "other")]},
        {"examples": [*EXAMPLES[:4], Example("Topic?", "\n" + EXAMPLES[4].passage, "answer 4")]},
        {"max_input": 65},
        {"max_target": 2},
    ],
)
def test_another_text_or_length_is_made_anew(make_encoder, backbone, change):
    make_encoder()[0].encode(EXAMPLES)
    examples = change.pop("examples", EXAMPLES)
    encoder, counting = make_encoder(**change)
    plain = Encoder(backbone.tokenizer, **{"max_input": 64, "max_target": 8, **change})
    assert encoder.encode(examples) == plain.encode(examples)
    assert counting.texts == 10


def test_another_tokenizer_is_another_file(tmp_path, backbone, tiny_folder):
    from clbench.model.backbone import load_tokenizer

    other = load_tokenizer(str(tiny_folder))
    same = TokenCache(tmp_path, other)
    assert same.path("key") == TokenCache(tmp_path, backbone.tokenizer).path("key")
    other.add_tokens(["newword"])
    assert TokenCache(tmp_path, other).path("key") != same.path("key")


def test_a_damaged_file_is_made_anew(make_encoder, tmp_path):
    made = make_encoder()[0].encode(EXAMPLES)
    (path,) = (tmp_path / "tokens").iterdir()
    path.write_bytes(b"\x10" * 40)
    encoder, counting = make_encoder()
    assert encoder.encode(EXAMPLES) == made
    assert counting.texts == 10
    assert make_encoder()[0].encode(EXAMPLES) == made


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path, backbone):
    (tmp_path / "tokens").write_text("a file in the way")
    encoder = Encoder(backbone.tokenizer, 64, 8, TokenCache(tmp_path, backbone.tokenizer))
    assert encoder.encode(EXAMPLES) == Encoder(backbone.tokenizer, 64, 8).encode(EXAMPLES)


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("CLBENCH_CACHE", "none")
    assert cache_folder() is None
    monkeypatch.delenv("CLBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "clbench"


def test_a_second_run_reads_the_cache_and_scores_the_same(clbench, tiny_run, tmp_path, monkeypatch):
    import json

    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path / "cache"))
    words = [*tiny_run, "--stream", "sst-2,agnews", "--method", "lorareplay"]
    assert clbench(*words, "--results", "a").exit_code == 0
    kept = {path.name for path in (tmp_path / "cache" / "tokens").iterdir()}
    assert len(kept) == 2  # one a task: all of its texts are read before training
    assert clbench(*words, "--results", "b").exit_code == 0
    assert {path.name for path in (tmp_path / "cache" / "tokens").iterdir()} == kept
    scores = [json.loads(next((tmp_path / name).glob("*.json")).read_text())["scores"] for name in "ab"]
    assert scores[0] == scores[1]


def damage_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)


def put_ids(first):
    """Write other ids with a digest of their own, as only an evil hand could."""

    def change(path):
        content = load_file(path)
        content["ids"][0] = first
        digest = token_cache._digest(path, content["lengths"], content["ids"])
        save_file(content, path, {"digest": digest})

    return change


@pytest.mark.parametrize("damage", [damage_a_bit, put_ids(600), put_ids(-1), lambda path: save_file({}, path)])
def test_ids_that_were_changed_are_made_anew(damage, make_encoder, tmp_path):
    made = make_encoder()[0].encode(EXAMPLES)
    (path,) = (tmp_path / "tokens").iterdir()
    damage(path)
    encoder, counting = make_encoder()
    assert encoder.encode(EXAMPLES) == made
    assert counting.texts == 10


def test_the_ids_of_other_texts_under_this_name_are_not_taken(make_encoder, tmp_path):
    make_encoder()[0].encode(EXAMPLES)
    (path,) = (tmp_path / "tokens").iterdir()
    others = [Example("Topic?\n", f"text {i} " * 30, "another") for i in range(5)]
    make_encoder()[0].encode(others)
    (other,) = set((tmp_path / "tokens").iterdir()) - {path}
    shutil.copy(path, other)
    encoder, counting = make_encoder()
    encoder.encode(others)
    assert counting.texts == 10


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: no space")])
def test_a_full_disk_does_no_harm(error, make_encoder, monkeypatch, tmp_path):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(token_cache, "save_file", fail)
    assert make_encoder()[0].encode(EXAMPLES)
    assert not list((tmp_path / "tokens").iterdir())

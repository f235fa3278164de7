"""The recipe: which settings two runs must share to be averaged, one by one."""

from dataclasses import fields

import pytest

from clbench.settings import Settings

OTHER = {  # another value of each setting that changes what is learned, asked or scored
    "backbone": "a/t5", "data": "hub", "layout": "sapt", "limit_train": 8, "limit_test": 8, "train_per_class": 8,
    "validation": 8, "evaluate_on": "validation", "superni_metric": "mixed", "epochs": 3, "batch_size": 4,
    "learning_rate": 1e-3, "schedule": "constant", "warmup_steps": 5, "weight_decay": 0.1, "clip_norm": 0.5,
    "max_input": 64, "max_target": 8, "template": "plain", "max_answer": 8, "lora_rank": 4, "lora_alpha": 16.0,
    "lora_dropout": 0.1, "lora_targets": "q", "answers": "labels", "precision": "bfloat16", "quantize": "8bit",
    "trust_remote_code": True, "batching": "shuffled", "least_batch": 4, "warmup_part": None, "tuned": "20 trials on order 2",
    "overlap": 0.1,
}  # fmt: skip
FREE = {  # and of each that names one run of a recipe, or changes no score
    "stream": "long:2", "seed": 2, "matrix": "op", "device": "cuda", "threads": 1, "micro_batch": 2,
    "gradient_checkpointing": True, "compile": "default", "pad_multiple": 8, "eval_batch_size": 4, "eval_tokens": 512,
    "verify_answers": 4, "probe": "embedded", "probe_questions": "q.jsonl", "probe_tokens": 64,
}  # fmt: skip


def recipes(name: str, value: object) -> tuple[dict, dict]:
    common = {"validation": 4} if name == "evaluate_on" else {}
    return Settings(**common).recipe, Settings(**{**common, name: value}).recipe


@pytest.mark.parametrize("name", OTHER)
def test_what_changes_scores_is_in_the_recipe(name):
    usual, changed = recipes(name, OTHER[name])
    assert {key for key in usual if usual[key] != changed[key]} == {name}


@pytest.mark.parametrize("name", FREE)
def test_what_changes_no_score_is_not(name):
    usual, changed = recipes(name, FREE[name])
    assert usual == changed


def test_every_setting_is_one_or_the_other():
    assert sorted([*OTHER, *FREE]) == sorted(field.name for field in fields(Settings))

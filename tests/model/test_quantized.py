"""Bases in 8 and 4 bits: what is stored how, what is trained, evaluation without merging, plain errors."""

import pytest
import torch

from clbench.errors import ClbenchError
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone, merged
from clbench.model.quantized import quantized_storage
from clbench.model.tiny import save_tiny_llama, save_tiny_t5
from clbench.records.files import read_record
from clbench.settings import Settings
from tests.cli.test_bad_input import expect_error
from tests.conftest import TINY_LLAMA
from tests.model.test_backbones import SMALL, flags

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
pytestmark = pytest.mark.skipif(
    "cpu" not in bitsandbytes.supported_torch_devices, reason="this bitsandbytes does not run on the CPU"
)
WHOLE_BLOCKS = {  # of 64 weights, which 4 bits need
    "llama": (save_tiny_llama, {"hidden_size": 64, "intermediate_size": 128}),
    "t5": (save_tiny_t5, {"d_model": 64, "d_kv": 16, "d_ff": 128}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny models whose sizes are multiples of 64."""
    return {kind: save(tmp_path_factory.mktemp(kind), **sizes) for kind, (save, sizes) in WHOLE_BLOCKS.items()}


def learned(folder, tasks, quantize, precision="float32", **settings):
    backbone = load_backbone(str(folder), "cpu", precision, quantize=quantize)
    learner = Learner(backbone, Settings(**{**TINY_LLAMA, "epochs": 2, **settings}))
    learner.attached.add_lora()
    learner.begin_task(0)
    training = learner.training(tasks[1].train)
    for batch in training:
        training.step(learner.loss(batch))
    return learner, training


@pytest.mark.parametrize(
    ("kind", "quantize", "stored", "precision"),
    [
        ("llama", "8bit", torch.int8, "bfloat16"),
        ("t5", "8bit", torch.int8, "float32"),
        ("llama", "4bit", torch.uint8, "float32"),
        ("t5", "4bit", torch.uint8, "bfloat16"),
    ],
)
def test_the_base_is_stored_small_and_lora_is_trained_in_float32(kind, quantize, stored, precision, folders, toy_tasks):
    learner, training = learned(folders[kind], toy_tasks, quantize, precision)
    layers = {name: part for name, part in learner.model.named_modules() if name.endswith("base_layer")}
    assert {part.weight.dtype for part in layers.values()} == {stored}
    assert learner.weights.data.dtype == torch.float32
    assert str(learner.model.dtype) == f"torch.{precision}"
    rows = learner.weights.views(learner.weights.data)
    assert all(view.abs().max() > 0 for name, view in rows.items() if ".lora_B." in name)
    _, plain = learned(folders[kind], toy_tasks, "none", precision)
    assert training.stats["loss"] == pytest.approx(plain.stats["loss"], rel=0.05)
    assert training.stats["loss"] != plain.stats["loss"]


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_quantised_layers_answer_unmerged_and_stay_as_they_are(quantize, folders, toy_tasks):
    learner, _ = learned(folders["llama"], toy_tasks, quantize)
    learner.model.eval()
    batch = learner.feed.batch(toy_tasks[0].test)
    with torch.no_grad():
        apart = learner.loss(batch)
        before = {name: part.clone() for name, part in learner.model.named_parameters()}
        with merged(learner.model):
            assert torch.equal(learner.loss(batch), apart)
        examples = toy_tasks[1].test
        together = learner.answer(examples)
        assert together == learner.answer(examples)
    assert all(torch.equal(part, before[name]) for name, part in learner.model.named_parameters())


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_an_evaluation_does_not_change_the_gradients(quantize, kind, folders, toy_tasks):
    learner, _ = learned(folders[kind], toy_tasks, quantize, lora_dropout=0.0)
    batch, gradients = learner.feed.batch(toy_tasks[0].train[:4]), []
    for _ in range(2):
        learner.passes.train_mode()
        learner.weights.zero_grad()
        learner.passes.backward(learner.loss(batch))
        gradients.append(learner.weights.grad.clone())
        learner.answer(toy_tasks[0].test[:2])
    assert gradients[0].abs().max() > 0
    assert torch.allclose(*gradients, atol=1e-6)


def test_a_run_records_it(clbench, tmp_path, folders):
    given = flags({**TINY_LLAMA, "backbone": folders["llama"], "quantize": "8bit"})
    result = clbench("run", "--method", "rkif", "--stream", "sst-2,agnews", *given, *SMALL)
    assert result.exit_code == 0, result.output
    (path,) = (path for path in tmp_path.glob("results/*.json") if not path.name.endswith(".answers.jsonl"))
    record = read_record(path)
    assert record.settings["quantize"] == "8bit"
    assert record.environment.versions["bitsandbytes"] == bitsandbytes.__version__


def test_without_the_package_or_a_device_it_is_one_line(clbench, monkeypatch, llama_folder):
    run = ["run", "--method", "seqlora", "--stream", "sst-2", "--backbone", llama_folder, *SMALL, "--quantize", "4bit"]
    with monkeypatch.context() as patched:
        patched.setattr("clbench.model.quantized.find_spec", lambda name: None)
        expect_error(clbench(*run), "--quantize 4bit needs bitsandbytes: pip install bitsandbytes")
    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"cuda", "xpu"})
    expect_error(clbench(*run), "does not run on 'cpu' (it does on cuda, xpu)")
    with pytest.raises(ClbenchError, match="does not run on 'mps'"):
        quantized_storage("8bit", torch.device("mps"), torch.float32)

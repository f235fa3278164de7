"""What all tests share: a tiny random backbone, a shortcut to a learner, and the real command."""

import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CLBENCH_CACHE", "none")

import hypothesis
import pytest
import torch
from click.testing import CliRunner, Result

from clbench.cli.main import main
from clbench.data.sources import load_tasks
from clbench.data.streams import find_stream
from clbench.data.tasks import Task
from clbench.learning.learner import Learner
from clbench.model.backbone import Backbone, load_backbone
from clbench.model.fast.fused_lora import restore_lora
from clbench.model.tiny import save_tiny_llama, save_tiny_t5
from clbench.settings import Settings

torch.set_num_threads(1)
hypothesis.settings.register_profile("clbench", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("clbench")

# Random examples at a desk, to find what is new; the same ones in CI, whose failures are then the commit's.
hypothesis.settings.register_profile("desk", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("desk"), derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
EXAMPLE_PLUGINS = ROOT / "tests" / "example_plugins"
TINY = {"lora_targets": "q,v", "max_input": 96, "max_target": 8, "max_answer": 4, "learning_rate": 1e-2, "lora_rank": 2}

TINY_LLAMA = {**TINY, "lora_targets": "auto", "max_input": 256}  # the Alpaca prompt alone takes 100 tokens


def pytest_collection_finish() -> None:
    """Let collections of garbage pass over what was imported: each run of a test makes some, a third of its time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny random T5."""
    return save_tiny_t5(tmp_path_factory.mktemp("tiny-t5"))


@pytest.fixture(scope="session")
def backbone(tiny_folder: Path) -> Backbone:
    """The tiny T5, loaded once."""
    return load_backbone(str(tiny_folder), "cpu")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny random LLaMA."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Backbone:
    """The tiny LLaMA, loaded once."""
    return load_backbone(str(llama_folder), "cpu")


@pytest.fixture
def make_learner(backbone: Backbone):
    """A function that returns a new learner on the tiny T5; keyword arguments are settings, `attach` is a method's."""
    yield from _learner_maker(backbone, TINY)


@pytest.fixture
def make_decoder(llama: Backbone):
    """The same on the tiny LLaMA."""
    yield from _learner_maker(llama, TINY_LLAMA)


def add_lora(learner: Learner) -> None:
    """Attach one plain LoRA adapter."""
    learner.attached.add_lora()


def as_peft_computes(learner: Learner) -> Learner:
    """Let LoRA layers compute product by product."""
    restore_lora(learner.model)
    return learner


def _learner_maker(backbone: Backbone, common: dict):
    made: list[Learner] = []

    def make(attach=add_lora, stream_length=1, **settings) -> Learner:
        for learner in made:
            learner.attached.detach()
        made.clear()
        learner = Learner(backbone, Settings(**{**common, "epochs": 1, **settings}), stream_length=stream_length)
        attach(learner)
        learner.begin_task(0)
        made.append(learner)
        return learner

    yield make
    for learner in made:
        learner.attached.detach()


@pytest.fixture
def toy_tasks() -> list[Task]:
    """Two small toy tasks."""
    return load_tasks("toy", find_stream("sst-2,agnews"), 24, 8)


@pytest.fixture
def clbench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A function that runs the command in a temporary folder and returns click's result."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return call


@pytest.fixture
def tiny_run(tiny_folder: Path) -> list[str]:
    """The words of a `clbench run` that takes a few seconds, without `--method`."""
    flags = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["run", "--backbone", str(tiny_folder), "--limit-train", "16", "--limit-test", "8", "--epochs", "1", *flags]


def run_in_subprocess(words: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the real command in a process of its own."""
    code = "import torch; torch.set_num_threads(1); from clbench.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port

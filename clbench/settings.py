"""What a run is: its validated settings, and where each value comes from (command line > preset > default)."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from clbench.errors import ClbenchError, unknown
from clbench.names import SHUFFLED, match
from clbench.options import Option, Search, list_options, restore, settle
from clbench.tuned import find_tuned

# Far above what anybody needs, and below what hangs or kills the process that tries it.
MOST_EPOCHS = 10_000
MOST_ROWS = 1_000_000
MOST_TOKENS = 1_000_000
MOST_RANK = 4096
MOST_PADDING = 4096
MOST_THREADS = 256

# Settings that name one run of a recipe, or that change its speed and extent but not its scores.
NOT_RECIPE = (
    "stream", "seed", "matrix", "device", "threads", "micro_batch", "gradient_checkpointing", "compile", "pad_multiple",
    "eval_batch_size", "eval_tokens", "verify_answers", "probe", "probe_questions", "probe_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """One run's settings. The defaults are the common recipe of the field (`methods/protocol`, Recurrent-KIF App. D).

    Raises:
        ClbenchError: a value is out of its range.
    """

    backbone: Annotated[
        str, "mini (embedded), a Hugging Face hub id, a local model folder, or a GGUF file", MinLen(1)
    ] = "mini"
    data: Annotated[
        str, "toy (embedded), hub (hub:FOLDER for a copy of it), or a folder in a public layout", MinLen(1)
    ] = "toy"
    layout: Annotated[
        Literal["auto", "rkif", "olora", "sapt", "trace"], "layout of the data folder; auto: what the folder shows"
    ] = "auto"
    stream: Annotated[str, "a stream's name (`clbench streams`), or task names separated by commas", MinLen(1)] = (
        "long:1"
    )
    seed: Annotated[int, "seed of initialisation, shuffling, dropout, sampling and memory", Ge(0)] = 1
    limit_train: Annotated[int | None, "training rows per task, class-balanced", Ge(1)] = None
    limit_test: Annotated[int | None, "test rows per task, class-balanced", Ge(1)] = None
    train_per_class: Annotated[int | None, "training rows per class (O-LoRA's protocol takes 1000)", Ge(1)] = None
    validation: Annotated[int, "rows per task carved out of the training rows, never trained on", Ge(0)] = 0
    evaluate_on: Annotated[
        Literal["test", "validation"], "score the test rows, or the validation rows (to choose hyper-parameters)"
    ] = "test"
    overlap: Annotated[
        float, "share of its training rows that a task exchanges with its neighbours: blurred boundaries", Ge(0), Le(1)
    ] = 0.0
    superni_metric: Annotated[
        Literal["rouge", "mixed"], "SuperNI: Rouge-L on every task, or accuracy on 363 and 875"
    ] = "rouge"
    epochs: Annotated[
        int, "passes over each task's training rows", Ge(1), Le(MOST_EPOCHS), Search(choices=(2, 5, 10))
    ] = 10
    batch_size: Annotated[int, "examples per optimizer step", Ge(1), Le(MOST_ROWS)] = 8
    batching: Annotated[
        Literal["bucketed", "shuffled"], "batches of rows of similar length, in random order; or rows in random order"
    ] = "bucketed"
    least_batch: Annotated[
        int, "fewest rows of an epoch's last batch: with fewer it is left out, unless it is the only one", Ge(1)
    ] = 1
    micro_batch: Annotated[
        int | None, "examples per forward pass (gradient accumulation); none: the whole batch", Ge(1)
    ] = None
    learning_rate: Annotated[float, "peak learning rate of AdamW", Ge(0), Search(1e-4, 1e-2, log=True)] = 3e-4
    schedule: Annotated[Literal["linear", "constant"], "learning rate after the warm-up, per task"] = "linear"
    warmup_steps: Annotated[int, "warm-up steps per task, as far as warmup_part allows", Ge(0)] = 50
    warmup_part: Annotated[
        float | None, "most of a task's steps that the warm-up may take; none: all (the releases)", Gt(0), Le(1)
    ] = 0.1
    weight_decay: Annotated[float, "AdamW weight decay", Ge(0)] = 0.0
    clip_norm: Annotated[float, "largest global gradient norm; 0 does not clip", Ge(0)] = 1.0
    max_input: Annotated[int, "longest prompt in tokens; the middle of the passage is cut", Ge(16), Le(MOST_TOKENS)] = (
        512
    )
    max_target: Annotated[
        int | None, "longest training target in tokens; none: as max_answer", Ge(1), Le(MOST_TOKENS)
    ] = None
    template: Annotated[
        Literal["auto", "plain", "alpaca", "release"],
        "the prompt as it is, or in the Alpaca template; auto: alpaca for a decoder; release: as auto, with the white space that "
        "Recurrent-KIF's data have before 'Answer:'",
    ] = "auto"
    max_answer: Annotated[
        int | None, "longest generated answer in tokens; none: the task's own, else 128", Ge(1), Le(MOST_TOKENS)
    ] = None
    lora_rank: Annotated[int, "rank of the LoRA adapter", Ge(1), Le(MOST_RANK), Search(choices=(4, 8, 16, 32, 64))] = 8
    lora_alpha: Annotated[float, "LoRA scaling numerator", Gt(0)] = 32.0
    lora_dropout: Annotated[float, "dropout on the LoRA input", Ge(0), Lt(1), Search(0.0, 0.2)] = 0.05
    lora_targets: Annotated[
        str,
        "module names separated by commas, all-linear, or auto: the architecture's usual ones (T5: q,v; LLaMA: q_proj,v_proj)",
        MinLen(1),
    ] = "auto"
    answers: Annotated[
        Literal["generate", "labels"], "generate freely, or choose among a task's labels (constrained greedy decoding)"
    ] = "generate"
    verify_answers: Annotated[int, "test rows per task to answer both ways and compare; changes no score", Ge(0)] = 0
    probe: Annotated[
        str | None,
        "texts whose perplexity is measured before the first task and after each: embedded, or files, separated by commas; "
        "changes no score",
        MinLen(1),
    ] = None
    probe_questions: Annotated[
        str | None,
        "files of questions (rows with prompt and answers) that are asked at the same times, separated by commas",
        MinLen(1),
    ] = None
    probe_tokens: Annotated[int, "tokens that are read of each probe, its first ones", Ge(32), Le(MOST_TOKENS)] = 1024
    eval_batch_size: Annotated[int, "most examples per batch of answers", Ge(1), Le(MOST_ROWS)] = 128
    eval_tokens: Annotated[int, "most tokens of prompts and answers, padding included, per batch of answers", Ge(1)] = (
        65536
    )
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        "of the frozen weights; auto: bfloat16 on a GPU, and for 100 million weights or more on a CPU with AMX or AVX512-BF16",
    ] = "auto"
    quantize: Annotated[Literal["none", "8bit", "4bit"], "store the frozen weights in 8 or 4 bits (bitsandbytes)"] = (
        "none"
    )
    gradient_checkpointing: Annotated[bool, "compute activations again in the backward pass: slower, less memory"] = (
        False
    )
    compile: Annotated[
        Literal["none", "default", "cudagraphs"],
        "training passes through torch.compile, or as CUDA graphs: pays where a step is many small kernels",
    ] = "none"
    pad_multiple: Annotated[
        int | None,
        "pad lengths to a multiple, so that shapes are few; none: 32 with --compile cudagraphs, else 1",
        Ge(1),
        Le(MOST_PADDING),
    ] = None
    trust_remote_code: Annotated[bool, "run Python code that comes with the backbone; read it first"] = False
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps ...", MinLen(1)] = "auto"
    threads: Annotated[
        int | None,
        "CPU threads; none: PyTorch's choice, which is slow while other programs use the same cores",
        Ge(1),
        Le(MOST_THREADS),
    ] = None
    matrix: Annotated[
        Literal["op", "bwt", "lower", "full"],
        "cells to evaluate: the last row; diagonal and last row; lower triangle; all",
    ] = "bwt"
    tuned: Annotated[
        str | None,
        "how settings and options were chosen, for the record; a preset of `clbench tune` says it",
        MinLen(1),
    ] = None

    def __post_init__(self) -> None:
        for name, value in restore(list_settings(), vars(self)).items():
            object.__setattr__(self, name, value)
        if self.evaluate_on == "validation" and not self.validation:
            raise ClbenchError("--evaluate-on validation needs --validation N, the rows per task to carve out")

    @property
    def padding(self) -> int:
        """What the lengths of training batches are a multiple of."""
        return self.pad_multiple or (32 if self.compile == "cudagraphs" else 1)

    @property
    def backbone_arguments(self) -> tuple[str, str, str, int | None, str, bool]:
        """What `load_backbone` is called with; two runs with the same arguments share a backbone."""
        return self.backbone, self.device, self.precision, self.threads, self.quantize, self.trust_remote_code

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that two runs must share to be averaged."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_RECIPE}


@cache
def list_settings() -> Mapping[str, Option]:
    """Return what each setting declares, by name."""
    return list_options(Settings)


@dataclass(frozen=True)
class Layer:
    """What one preset says of a run: settings, and options of its method."""

    settings: Mapping[str, Any]
    options: Mapping[str, Any]


def load_presets() -> dict[str, dict[str, Any]]:
    """Return the presets of `tasks/presets.toml` by name: their settings, and under "options" those of methods by name."""
    return tomllib.loads(files("clbench.tasks").joinpath("presets.toml").read_text("utf-8"))


def find_preset(name: str) -> str:
    """Return a preset's name as it is written, whatever the case and punctuation.

    Raises:
        ClbenchError: no such preset.
    """
    presets = load_presets()
    found = match(name, presets)
    if found is None:
        raise unknown("preset", name, presets)
    return found


def resolve_settings(given: Mapping[str, Any], preset: str | None = None) -> Settings:
    """Return the settings of a run from the values given by the user and a preset.

    Without a preset's name, the preset made for the backbone applies, if there is one. On top of a preset comes the
    one called PRESET:FAMILY for the stream's family, if there is one.

    Raises:
        ClbenchError: no such preset or setting, or a value out of its range.
    """
    return settle_settings(given, preset_layers(given, preset))


def settle_settings(given: Mapping[str, Any], layers: Mapping[str, Layer]) -> Settings:
    """Return the settings from the values given by the user and the presets beneath them.

    Raises:
        ClbenchError: no such setting, or a value out of its range.
    """
    return Settings(**settle(list_settings(), given, _chosen(layers)))


def _chosen(layers: Mapping[str, Layer]) -> dict[str, Any]:
    """Return what the presets say, the stronger one's word where several do."""
    return {name: value for layer in layers.values() for name, value in layer.settings.items()}


def preset_layers(
    given: Mapping[str, Any], preset: str | None = None, method: str = "", options: Mapping[str, Any] | None = None
) -> dict[str, Layer]:
    """Return the presets that apply to the settings given by the user, by name, the stronger one last.

    Args:
        preset: a name, or the file that `clbench tune` wrote.
        method: the one whose options the layers are to have.
        options: those that the user gives to it.

    Raises:
        ClbenchError: no such preset.
    """
    if preset is not None and preset.endswith(".toml"):
        tuned = find_tuned(Path(preset), method, options or {})
        beneath = preset_layers(given, tuned.preset, method)
        backbone = {**_chosen(beneath), **given}.get("backbone", Settings.backbone)
        other = "" if Path(str(backbone)).name == Path(tuned.budget.backbone).name else f" with {tuned.budget.backbone}"
        return {**beneath, preset: Layer({**tuned.settings, "tuned": tuned.note + other}, tuned.options)}
    presets = load_presets()
    backbone = given.get("backbone", Settings.backbone)
    own = next((name for name, values in presets.items() if values.get("backbone") == backbone), "")
    name = own if preset is None else find_preset(preset)
    found = {}
    for layer in (name, f"{name}:{family_of(str(given.get('stream', Settings.stream)))}"):
        if layer in presets:
            values = dict(presets[layer])
            options = values.pop("options", {}).get(method, {})
            found[layer] = Layer(values, options)
    return found


def family_of(stream: str) -> str:
    """Return the family of a stream's name ('long:1'), or of task names: the first one of whose streams has all of them."""
    stream = stream.split(SHUFFLED)[0]
    tasks = {name.strip() for name in stream.split(",")}
    known = _known_streams().items()
    return next((name.split(":")[0] for name, row in known if tasks <= set(row["tasks"])), stream.split(":")[0])


@cache
def _known_streams() -> dict[str, Any]:
    return tomllib.loads(files("clbench.tasks").joinpath("streams.toml").read_text("utf-8"))

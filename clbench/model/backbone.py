"""Load a language model and its tokenizer (embedded, local folder, Hugging Face hub) and attach the LoRA adapter."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from clbench.data.tasks import Example
from clbench.encoding.alpaca import ask_alpaca
from clbench.encoding.batches import Batch, collate
from clbench.encoding.encoder import Encoded, Encoder
from clbench.encoding.token_cache import TokenCache, cache_folder
from clbench.errors import ClbenchError, one_line
from clbench.model.backbone_files import is_gguf, locate, plain_errors
from clbench.model.batch_limits import BatchLimits
from clbench.model.decoder import read_labels
from clbench.model.gguf import converted
from clbench.model.quantized import is_quantized, keep_trainable, quantized_storage
from clbench.model.saved_tensors import name_some
from clbench.seeds import derive_seed
from clbench.settings import Settings

LARGE = 100_000_000  # weights from which on a CPU computes faster in bfloat16, if it has instructions for it


@dataclass(eq=False)
class Backbone:
    """A frozen pre-trained language model and its tokenizer; loaded once, shared by the runs of a process.

    `spoiled` names what a run left otherwise than it was loaded; no other run may have it then.
    """

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    limits: BatchLimits = field(default_factory=BatchLimits)
    spoiled: Sequence[str] = ()
    _encoders: dict[tuple[int, int | None, str], Encoder] = field(default_factory=dict, repr=False)

    @property
    def is_decoder(self) -> bool:
        """Whether the model has no encoder: it reads prompt and answer as one sequence."""
        return not self.model.config.is_encoder_decoder

    def collate(self, rows: Sequence[Encoded], share: float = 1.0, positions: Sequence[int] = ()) -> Batch:
        """Return encoded rows as one batch, padded as the model reads it.

        Args:
            share: its part of an optimizer step.
            positions: where the rows are among the examples that were asked for.
        """
        pad_id = self.tokenizer.pad_token_id
        return collate(rows, pad_id, self.device, share, self.is_decoder, positions=positions)

    def encoder(self, max_input: int, max_target: int | None, template: str = "auto") -> Encoder:
        """Return the encoder of these lengths; the same one each time, so that no text is tokenised twice.

        Args:
            template: the prompt's form: plain, alpaca, or auto and release (alpaca for a decoder).
        """
        key = (max_input, max_target, template)
        if key not in self._encoders:
            folder = cache_folder()
            cache = TokenCache(folder, self.tokenizer) if folder is not None else None
            wrap = prompt_form(template, self.is_decoder)
            end = self.tokenizer.eos_token_id if self.is_decoder else None
            self._encoders[key] = Encoder(self.tokenizer, max_input, max_target, cache, wrap, end)
        return self._encoders[key]


def prompt_form(template: str, is_decoder: bool) -> Callable[[Example], Example] | None:
    """Return what puts an example into the form of a template; None for the plain one."""
    return ask_alpaca if template == "alpaca" or (template in ("auto", "release") and is_decoder) else None


def prompt_form_of(name: str, template: str) -> Callable[[Example], Example] | None:
    """Return the same for a backbone by its name, which is not loaded.

    Raises:
        ClbenchError: it is not there, or is unreadable.
    """
    with plain_errors(name):
        config = transformers.AutoConfig.from_pretrained(source_of(name), trust_remote_code=False)
    return prompt_form(template, not config.is_encoder_decoder)


def source_of(name: str) -> str:
    """Return what transformers is to read a backbone from: a folder or a hub id; a GGUF file is converted the first time.

    Raises:
        ClbenchError: it is not there, or cannot be converted.
    """
    place = locate(name)
    return str(converted(Path(place), Path(place).stat().st_mtime_ns)) if is_gguf(name) else place


def choose_device(name: str) -> torch.device:
    """Return the device of a name; 'auto' is the first of CUDA, MPS, CPU that is there.

    Raises:
        ClbenchError: no such device, or it is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ClbenchError(f"device '{name}' cannot be used: {one_line(error)}; use auto or cpu") from None
    return device


def choose_dtype(precision: str, device: torch.device, weights: int = 0) -> torch.dtype:
    """Return the type of the frozen weights; 'auto' is bfloat16 where the device is faster with it, else float32.

    Args:
        weights: of the model, as far as known; a CPU gains nothing with a small one.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cpu":
        faster = weights >= LARGE and multiplies_bfloat16()
    else:
        faster = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if faster else torch.float32


def multiplies_bfloat16() -> bool:
    """Return whether the CPU has instructions for products of bfloat16 matrices: AMX or AVX512-BF16."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def count_weights(kind: Any, config: Any, trust_remote_code: bool = False) -> int:
    """Return how many weights a model of a configuration has; none are made."""
    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=trust_remote_code)
    return sum(weight.numel() for weight in model.parameters())


def load_backbone(
    name: str,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    quantize: str = "none",
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a backbone by name: 'mini', a local folder, a GGUF file, or a hub id; an encoder-decoder or a decoder.

    Args:
        threads: CPU threads of the process from now on; None leaves them as they are.
        quantize: store the linear layers in '8bit' or '4bit' (bitsandbytes), or 'none'.
        trust_remote_code: run Python code that comes with the model; without, none is executed.

    Raises:
        ClbenchError: the model is not there, is unreadable or incomplete, or cannot write answers; no quantisation on this
            device.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    place = choose_device(device)
    with plain_errors(name):
        source = source_of(name)
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        kind = _model_class(name, config)
        sized = precision == "auto" and quantize == "none" and place.type == "cpu"
        dtype = choose_dtype(precision, place, count_weights(kind, config, trust_remote_code) if sized else 0)
        storage = {} if quantize == "none" else quantized_storage(quantize, place, dtype)
        model, loading = kind.from_pretrained(
            source,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,  # said below, in one line
            output_loading_info=True,
            **storage,
        )
    _check_complete(name, loading)
    tokenizer = load_tokenizer(name, trust_remote_code)
    if storage:
        keep_trainable(model)
    else:
        model.to(place)
    model.requires_grad_(False).eval()
    model.generation_config = _plain_generation(model.generation_config)
    if not config.is_encoder_decoder:
        read_labels(model)
    return Backbone(name, model, tokenizer, place)


def _check_complete(name: str, loading: Mapping[str, Any]) -> None:
    """Check that a model's files hold all its tensors; tied weights, which they hold once, are not missing.

    Raises:
        ClbenchError: a tensor is missing or of another shape, and would be random.
    """
    shapes = [f"{key} {tuple(has)}, not {tuple(needs)}" for key, has, needs in sorted(loading["mismatched_keys"])]
    mismatched = {key for key, *_ in loading["mismatched_keys"]}
    faults = {"missing": sorted(set(loading["missing_keys"]) - mismatched), "of another shape": shapes}
    texts = [f"{fault}: {name_some(names)}" for fault, names in faults.items() if names]
    if texts:
        raise ClbenchError(f"backbone '{name}': its files do not hold all tensors of the model; {'; '.join(texts)}")


def load_backbone_of(settings: Settings) -> Backbone:
    """Load the backbone that the settings describe, as they describe it."""
    return load_backbone(*settings.backbone_arguments)


def _model_class(name: str, config: Any) -> Any:
    """Return the class to load a model with.

    Raises:
        ClbenchError: the model is an encoder alone (BERT), or no language model.
    """
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    encoders, decoders = transformers.MODEL_FOR_MASKED_LM_MAPPING, transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if not remote and (type(config) in encoders or type(config) not in decoders):
        raise ClbenchError(
            f"backbone '{name}' is a {config.model_type} model, which cannot write answers; "
            f"use an encoder-decoder such as T5 or a decoder such as LLaMA"
        )
    return transformers.AutoModelForCausalLM


def _plain_generation(own: transformers.GenerationConfig) -> transformers.GenerationConfig:
    """Return a model's settings for generation without its authors' penalties and beams, which would enter every answer."""
    return transformers.GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        decoder_start_token_id=own.decoder_start_token_id,
        forced_bos_token_id=own.forced_bos_token_id,
    )


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """Load a backbone's tokenizer alone; where it has no padding token (LLaMA), the end token stands in for it.

    Raises:
        ClbenchError: it is not there, is unreadable, or lacks what is needed.
    """
    transformers.utils.logging.set_verbosity_error()
    with plain_errors(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source_of(name), trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None or not tokenizer.is_fast:
        lack = "is not a fast one" if not tokenizer.is_fast else "has no end token"
        raise ClbenchError(f"backbone '{name}': its tokenizer {lack}; save one with it in the model's folder")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, whatever stands there
    return tokenizer


def attach_adapter(backbone: Backbone, settings: Settings) -> PeftModel:
    """Return the backbone with a fresh LoRA adapter, initialised from the settings' seed, in float32.

    Raises:
        ClbenchError: the model has no module of the names in `lora_targets`.
    """
    targets = settings.lora_targets
    names: Any = {"auto": _usual_targets(backbone.model), "all-linear": targets}
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM if backbone.is_decoder else TaskType.SEQ_2_SEQ_LM,
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=names.get(targets, [part.strip() for part in targets.split(",")]),
    )
    torch.manual_seed(derive_seed(settings.seed, "adapter"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that is to go
            warnings.filterwarnings("ignore", message=".*tied")  # `merged` leaves tied weights as they are
            warnings.filterwarnings(
                "ignore", message="fan_in_fan_out"
            )  # GPT-2 stores layers the other way round; peft adapts
            adapter = get_peft_model(backbone.model, config)
    except ValueError as error:
        raise ClbenchError(
            f"lora_targets '{targets}' does not fit backbone '{backbone.name}' "
            f"(its linear modules: {', '.join(sorted(_linear_names(backbone.model)))}; or all-linear): {one_line(error)}"
        ) from None
    try:
        _refuse_idle(backbone, targets)
    except ClbenchError:
        adapter.unload()
        raise
    return adapter


def _refuse_idle(backbone: Backbone, targets: str) -> None:
    """Refuse a target that only lends its weights to others: T5's `shared`, which no pass goes through.

    Raises:
        ClbenchError: there is such a module among the targets.
    """
    model = backbone.model
    names = {part: name for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    idle = dict(names) if any(map(tied_weights(model).__contains__, map(_weight_of, names))) else {}
    handles = [part.register_forward_pre_hook(lambda part, _: idle.pop(part, None) and None) for part in idle]
    try:
        if idle:
            pass_a_token(model)
    finally:
        for handle in handles:
            handle.remove()
    for part, name in idle.items():
        if _weight_of(part) in tied_weights(model):  # of others a token may just not need them: experts
            raise ClbenchError(
                f"lora_targets '{targets}': the model computes nothing with '{name}' itself, it only shares its weights with "
                f"other modules; name those that compute (linear modules: {', '.join(sorted(_linear_names(model)))})"
            )


def pass_a_token(model: Any) -> None:
    """Let one token go through the model, without gradients and dropout, for hooks that note what is computed."""
    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    decoder = {"decoder_input_ids": token} if model.config.is_encoder_decoder else {}
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(input_ids=token, use_cache=False, **decoder)
    finally:
        model.train(training)


def tied_weights(model: nn.Module) -> set[int]:
    """Return the addresses of the parameters that several modules have: an input embedding that is the head as well."""
    owners = Counter(parameter.data_ptr() for _, parameter in model.named_parameters(remove_duplicate=False))
    return {address for address, count in owners.items() if address and count > 1}


def _weight_of(layer: LoraLayer) -> int:
    return int(layer.get_base_layer().weight.data_ptr())


def _usual_targets(model: Any) -> list[str] | None:
    """Return query and value as the architecture names them; None where PEFT knows them, or nobody does."""
    if model.config.model_type in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        return None
    names = _linear_names(model)
    return next((pair for pair in (["q_proj", "v_proj"], ["q", "v"]) if names.issuperset(pair)), None)


def _linear_names(model: Any) -> set[str]:
    return {
        name.split(".")[-1]
        for name, part in model.named_modules()
        if isinstance(part, (nn.Linear, transformers.Conv1D))
    }


def adapted_modules(adapter: PeftModel | None, settings: Settings) -> str | None:
    """Return the names of the modules with LoRA, as `lora_targets` has them, 'auto' resolved; None without an adapter."""
    if adapter is None or settings.lora_targets != "auto":
        return None if adapter is None else settings.lora_targets
    found = adapter.peft_config[adapter.active_adapter].target_modules
    return found if isinstance(found, str) else ",".join(sorted(found))


@contextmanager
def merged(model: PeftModel) -> Iterator[None]:
    """Fold the adapter into the frozen weights for the duration of a block; restore the very same tensors after it.

    Two kinds of layers stay as they are, with the adapter beside them: quantised ones, whose weights could not take it up
    exactly, and those whose weights other modules have as well, which would answer with the adapter of another.
    """
    tied = tied_weights(model)
    layers = [
        part
        for part in model.modules()
        if isinstance(part, LoraLayer) and not is_quantized(part.get_base_layer()) and _weight_of(part) not in tied
    ]
    originals = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)  # works on a copy: the original tensor stays as it is
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.get_base_layer().weight.data = original
            layer.merged_adapters.clear()

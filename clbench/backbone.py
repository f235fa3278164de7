"""Load a language model and its tokenizer (embedded, local folder, Hugging Face hub) and attach the LoRA adapter."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from .batches import Encoder
from .errors import ClbenchError, one_line
from .room import Room
from .seeding import derive_seed
from .settings import Settings
from .token_cache import TokenCache, cache_folder

EMBEDDED = "mini"


@dataclass(eq=False)
class Backbone:
    """A frozen pre-trained encoder-decoder and its tokenizer; loaded once, shared by the runs of a process."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    room: Room = field(default_factory=Room)
    _encoders: dict[tuple[int, int | None], Encoder] = field(default_factory=dict, repr=False)

    def encoder(self, max_input: int, max_target: int | None) -> Encoder:
        """Return the encoder of these lengths; the same one each time, so that no text is tokenised twice."""
        key = (max_input, max_target)
        if key not in self._encoders:
            folder = cache_folder()
            cache = TokenCache(folder, self.tokenizer) if folder is not None else None
            self._encoders[key] = Encoder(self.tokenizer, max_input, max_target, cache)
        return self._encoders[key]


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


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type of the frozen weights; 'auto' is bfloat16 on a GPU that has it, else float32."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def load_backbone(name: str, device: str = "auto", precision: str = "auto", threads: int | None = None) -> Backbone:
    """Load a backbone by name: 'mini', a local folder, or a hub id. No code from the hub is executed.

    Args:
        threads: CPU threads of the process from now on; None leaves them as they are.

    Raises:
        ClbenchError: the model is not there, is unreadable, or is no encoder-decoder.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    place = choose_device(device)
    source = _locate(name)
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        if not config.is_encoder_decoder:
            raise ClbenchError(f"backbone '{name}' is a {config.model_type} decoder; use an encoder-decoder such as T5")
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source, dtype=choose_dtype(precision, place))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _not_found(name, error) from error
    tokenizer = load_tokenizer(name)
    model.requires_grad_(False).to(place).eval()
    return Backbone(name, model, tokenizer, place)


def load_tokenizer(name: str) -> Any:
    """Load a backbone's tokenizer alone.

    Raises:
        ClbenchError: it is not there, or is unreadable.
    """
    transformers.utils.logging.set_verbosity_error()
    source = _locate(name)
    try:
        return transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _not_found(name, error) from error


def _locate(name: str) -> str:
    if name != EMBEDDED and Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise ClbenchError(f"backbone '{name}': the folder has no config.json; expected a Hugging Face model folder")
    return str(files("clbench") / EMBEDDED) if name == EMBEDDED else name


def _not_found(name: str, error: Exception) -> ClbenchError:
    return ClbenchError(
        f"no backbone '{name}': not '{EMBEDDED}', and neither a readable local folder nor a reachable hub id "
        f"({one_line(error)})"
    )


def attach_adapter(backbone: Backbone, settings: Settings) -> PeftModel:
    """Return the backbone with a fresh LoRA adapter, initialised from the settings' seed, in float32.

    Raises:
        ClbenchError: the model has no module of the names in `lora_targets`.
    """
    targets = settings.lora_targets
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if targets == "all-linear" else [part.strip() for part in targets.split(",")],
    )
    torch.manual_seed(derive_seed(settings.seed, "adapter"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that is to go
            return get_peft_model(backbone.model, config)
    except ValueError as error:
        linear = {name.split(".")[-1] for name, part in backbone.model.named_modules() if isinstance(part, nn.Linear)}
        raise ClbenchError(
            f"lora_targets '{targets}' does not fit backbone '{backbone.name}' "
            f"(its linear modules: {', '.join(sorted(linear))}; or all-linear): {one_line(error)}"
        ) from None


@contextmanager
def merged(model: PeftModel) -> Iterator[None]:
    """Fold the adapter into the frozen weights for the duration of a block; restore the very same tensors after it."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    originals = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)  # works on a copy: the original tensor stays as it is
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.get_base_layer().weight.data = original
            layer.merged_adapters.clear()

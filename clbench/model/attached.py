"""What is put on the frozen model and trained: a LoRA adapter, plain or in rank blocks, and a method's own modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clbench.errors import ClbenchError
from clbench.model.backbone import Backbone, attach_adapter, tied_weights
from clbench.model.backbone_files import public_name
from clbench.model.fast.compiled import CompiledLoss, GraphedLoss, check_compile, compiled_loss
from clbench.model.fast.fused_attention import fuse_attention, restore_attention
from clbench.model.fast.fused_lora import fuse_lora, has_hooks, restore_lora
from clbench.model.fast.fused_norms import fuse_norms, restore_norms
from clbench.model.gradient_checkpointing import set_checkpointing
from clbench.model.lora_blocks import ADAPTER_FILE, Blocks
from clbench.model.quantized import is_quantized
from clbench.model.saved_tensors import name_some, read_tensors
from clbench.model.weights import Weights
from clbench.settings import MOST_RANK, Settings

Part = TypeVar("Part", bound=nn.Module)
PARTS = "parts.safetensors"  # in the folder of a saved adapter: what a method trains besides LoRA


class Attached:
    """What is on the model of a backbone; one object at a time can have something on it.

    Attributes:
        model: the backbone's `transformers` model, the adapter's layers and the parts within it.
        adapter: the `peft.PeftModel` around it, None without LoRA.
        parts: the method's own modules by name.
        hooks: handles of the method's own forward hooks, which `detach` removes.
        weights: all trainable weights as one flat vector; there is none before something is put on the model.
        compiled: what computes losses in the setting `compile`, None where the model itself does.
    """

    weights: Weights

    def __init__(self, backbone: Backbone, settings: Settings) -> None:
        self.model = backbone.model
        self.adapter: PeftModel | None = None
        self._blocks: Blocks | None = None
        self.parts: dict[str, nn.Module] = {}
        self.hooks: list[RemovableHandle] = []
        self.compiled: CompiledLoss | GraphedLoss | None = None
        self._backbone = backbone
        self._settings = settings
        check_compile(settings, backbone.device)

    def add_lora(self) -> None:
        """Put a fresh LoRA adapter on the model, as the settings describe it; its weights are trainable."""
        self.adapter = attach_adapter(self._backbone, self._settings)
        fuse_lora(self.model)
        self._train_it()

    def add_blocks(self, past: Mapping[str, Tensor], count: int = 1, rank: int | None = None) -> Blocks:
        """Put a fresh LoRA adapter of several rank blocks on the model and return them; each is scaled as by `add_lora`.

        Args:
            past: frozen blocks of earlier tasks, as `Blocks.freeze` returned them; empty before the first task.
            count: trainable blocks.
            rank: rank of a block; none: the settings' one.

        Raises:
            ClbenchError: together they have a higher rank than an adapter may have.
        """
        settings, rank = self._settings, rank or self._settings.lora_rank
        ranks = count * rank
        if ranks > MOST_RANK:
            raise ClbenchError(f"{count} blocks of rank {rank} are one adapter of rank {ranks}; at most {MOST_RANK}")
        alpha = settings.lora_alpha * ranks / settings.lora_rank
        self.adapter = attach_adapter(self._backbone, replace(settings, lora_rank=ranks, lora_alpha=alpha))
        self._blocks = Blocks(self.model, rank, past)
        fuse_lora(self.model)
        self._train_it()
        return self._blocks

    def add_part(self, name: str, part: nn.Module) -> None:
        """Put a module of the method's own on the model: a soft prompt, a router; what of it requires a gradient is trained.

        It does nothing by itself: the method hooks it into the model's forward pass.
        """
        self.model.add_module(name, part.to(self._backbone.device))
        self.parts[name] = part
        self._train_it()

    def _train_it(self) -> None:
        """Take hold of what is trainable now; from here on the backward pass computes activations again, if it is to."""
        self.weights = Weights(self.model)
        fuse_norms(self.model)
        fuse_attention(self.model)
        if self._settings.gradient_checkpointing:
            set_checkpointing(self.model, True)
        unchanging = self._blocks is None and not self.parts  # what the model computes does not change between tasks
        self.compiled = compiled_loss(self._settings.compile, self.model, self.weights if unchanging else None)

    def detach(self) -> None:
        """Take adapter, parts and hooks off the backbone, which is then as it was loaded."""
        self._take_off(fold=False)

    def fold(self) -> None:
        """Fold the adapter into the frozen weights for good: what is left is a model of its architecture that answers the same.

        Raises:
            ClbenchError: what is on the model is more than an adapter, or cannot be folded in exactly; nothing has changed then.
        """
        tied = tied_weights(self.model)
        layers = {
            name: part.get_base_layer() for name, part in self.model.named_modules() if isinstance(part, LoraLayer)
        }
        shared = [name for name, layer in layers.items() if layer.weight.data_ptr() in tied]
        packed = [name for name, layer in layers.items() if is_quantized(layer)]
        reason = self.beyond_adapter
        if not reason and shared:
            reason = f"it has LoRA on weights that other modules of the model share ({name_some(shared)})"
        if not reason and packed:
            reason = "it was trained on weights in 8 or 4 bits, which cannot take the adapter up exactly"
        if reason:
            raise ClbenchError(f"this learner cannot be merged into one model: {reason}")
        self._take_off(fold=True)

    @property
    def beyond_adapter(self) -> str:
        """Why what is on the model is more than a PEFT adapter, in words; empty where it is one."""
        if self.parts:
            kinds = ", ".join(f"{name} ({type(part).__name__})" for name, part in self.parts.items())
            return f"beside the weights it computes with a module of its own on every question: {kinds}"
        if self.hooks or not self.mergeable:
            return "it changes what the model computes on every question"
        return "" if self.adapter is not None else "it has no adapter"

    def _take_off(self, fold: bool) -> None:
        if self._settings.gradient_checkpointing:
            set_checkpointing(self.model, False)
        restore_norms(self.model)
        restore_attention(self.model)
        if self.adapter is not None:
            restore_lora(self.model)  # else the layers hold one another, and their memory
            self.adapter.merge_and_unload(safe_merge=True) if fold else self.adapter.unload()
        for name in self.parts:
            delattr(self.model, name)
        for handle in self.hooks:
            handle.remove()
        self.hooks.clear()
        self.adapter, self._blocks, self.parts, self.compiled = None, None, {}, None
        vars(self).pop("weights", None)

    @property
    def blocks(self) -> Blocks:
        """The adapter's rank blocks; there are none before `add_blocks`."""
        assert self._blocks is not None, "no blocks without add_blocks()"
        return self._blocks

    def part(self, kind: type[Part]) -> Part:
        """Return the method's own module of a class, which was put on the model by `add_part`."""
        return next(part for part in self.parts.values() if isinstance(part, kind))

    @property
    def mergeable(self) -> bool:
        """Whether the adapter can be folded into the frozen weights: not where a gate weighs its blocks by the input."""
        return self._blocks is None or self._blocks.gate is None

    def treats_rows_alike(self) -> bool:
        """Return whether a decoder may compute once what the rows of a training batch begin with: it pays, and nobody notices.

        Whoever hooked into a pass, or weighs blocks by a row's tokens, would notice; with dropout each row drops entries of its
        own. It pays where arithmetic is what costs, on a CPU: on a GPU a small model's step is the launching of its kernels.
        """
        if not self._backbone.is_decoder or self._backbone.device.type != "cpu" or self.hooks or not self.mergeable:
            return False
        if self.model.training and (getattr(self.model.config, "attention_dropout", 0.0) or 0.0) > 0:
            return False
        reader = (self.model, self.model.get_output_embeddings())  # there it is `read_labels` that has hooked in
        parts = (part for part in self.model.modules() if part not in reader)
        return not any(
            has_hooks(part) or (isinstance(part, nn.Dropout) and part.training and part.p > 0) for part in parts
        )

    def save(self, folder: Path) -> None:
        """Write what was put on the model: the adapter in PEFT's format, the parts as `parts.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._blocks is not None:
            self._blocks.save(self.adapter, folder)
        elif self.adapter is not None:
            self.adapter.save_pretrained(folder)
        if self.adapter is not None:
            config = LoraConfig.from_pretrained(folder)
            config.base_model_name_or_path = public_name(self._backbone.name)
            config.save_pretrained(folder)
        if self.parts:
            save_file(self._state_of_parts(), folder / PARTS)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote into the adapter and the parts, with the same of them on the model as there were then.

        Raises:
            ValueError: the files hold other tensors than the model, or such as are not finite.
        """
        if self._blocks is not None:
            self._blocks.load(self.adapter, folder)
        elif self.adapter is not None:
            wanted = get_peft_model_state_dict(self.adapter)
            set_peft_model_state_dict(self.adapter, read_tensors(folder / ADAPTER_FILE, wanted))
        if self.parts:
            own = self._state_of_parts()
            for name, tensor in read_tensors(folder / PARTS, own).items():
                own[name].copy_(tensor)

    def _state_of_parts(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": tensor for name, part in self.parts.items() for key, tensor in part.state_dict().items()
        }

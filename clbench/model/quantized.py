"""Frozen weights in 8 or 4 bits (bitsandbytes); what is trained beside them stays in float32.

In 8 bits an answer can depend on its neighbours in a batch: LLM.int8 looks for outliers in all of a batch's activations.
"""

from importlib.util import find_spec
from typing import Any

import torch
import transformers
from torch import nn

from clbench.errors import ClbenchError


def quantized_storage(quantize: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what `from_pretrained` must be told to store linear layers in '8bit' (LLM.int8) or '4bit' (NF4, as QLoRA).

    Args:
        dtype: of the arithmetic, and of what is not quantised.

    Raises:
        ClbenchError: bitsandbytes is not installed, or does not run on the device.
    """
    if find_spec("bitsandbytes") is None:
        raise ClbenchError(f"--quantize {quantize} needs bitsandbytes: pip install bitsandbytes")
    import bitsandbytes

    supported = bitsandbytes.supported_torch_devices
    if device.type not in supported:
        raise ClbenchError(
            f"--quantize {quantize}: bitsandbytes {bitsandbytes.__version__} does not run on '{device.type}' "
            f"(it does on {', '.join(sorted(supported))})"
        )
    if quantize == "8bit":
        config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_trainable(model: nn.Module) -> None:
    """Let gradients through 4-bit layers on a CPU after an evaluation as well.

    In evaluation bitsandbytes packs their weights anew, for CPUs with AVX-512, in a form that has no backward pass, and leaves
    them so (0.50).
    """
    from bitsandbytes.nn import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def is_quantized(layer: nn.Module) -> bool:
    """Return whether a layer's weight is stored in whole numbers."""
    weight = layer.weight
    return isinstance(weight, torch.Tensor) and not weight.is_floating_point()

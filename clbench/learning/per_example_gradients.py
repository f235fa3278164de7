"""Gradients of single examples, computed in batches: what sums and means over a batch hide."""

from functools import partial

import torch
from torch import Tensor, nn

from clbench.model.weights import Weights


class SampleSquares:
    """Within a `with` block, add up every example's squared gradient over the backward passes of summed losses.

    A linear layer's gradient of one example is the product of that example's inputs and output gradients, summed over its
    tokens; both are seen in one pass over the whole batch. Inputs are (examples, features) or (examples, tokens, features).

    Attributes:
        total: sum over examples of the squared gradient, shape (weights,), float32.

    Raises:
        ValueError: a trainable parameter is no linear layer's weight.
    """

    def __init__(self, module: nn.Module, weights: Weights) -> None:
        self.total = torch.zeros_like(weights.data, dtype=torch.float32)
        views = dict(weights.views(self.total))
        layers = {f"{name}.weight": part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        if views.keys() - layers.keys():
            raise ValueError(f"'{min(views.keys() - layers.keys())}' is no linear layer's weight")
        self._targets = [(layers[name], view) for name, view in views.items()]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        self._handles = [layer.register_forward_hook(partial(self._watch, view)) for layer, view in self._targets]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, view: Tensor, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen = inputs[0].detach()

        def add(gradient: Tensor) -> None:
            given, received = (t.float().view(t.shape[0], -1, t.shape[-1]) for t in (gradient, seen))
            view.add_(torch.bmm(given.transpose(1, 2), received).square_().sum(0))

        output.register_hook(add)

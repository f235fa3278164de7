"""The flat view of the trainable weights: one vector of values and one of gradients, as the papers write them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn


class Weights:
    """All trainable parameters of a module as ONE vector; the parameters become views of it.

    Elementwise arithmetic (importance, task vectors, fusion) is then one kernel for all tensors. An optimizer over
    `weights.vector` updates every parameter; autograd accumulates into `weights.grad` through the parameters' own
    gradients.

    Raises:
        ValueError: the module has no trainable parameter, or they differ in type or device.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if len({(p.dtype, p.device) for p in parameters.values()}) != 1:
            raise ValueError("the trainable parameters must exist and share one type and one device")
        self.vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters.values()]))
        self.vector.grad = torch.zeros_like(self.vector)
        self._shapes = {name: parameter.shape for name, parameter in parameters.items()}
        start = 0
        for parameter in parameters.values():
            end = start + parameter.numel()
            parameter.data = self.vector.data[start:end].view(parameter.shape)
            parameter.grad = self.grad[start:end].view(parameter.shape)
            start = end

    def __len__(self) -> int:
        return self.vector.numel()

    @property
    def data(self) -> Tensor:
        """The values, shape (weights,), detached; writing into it changes the model."""
        return self.vector.data

    @property
    def grad(self) -> Tensor:
        """The gradient, shape (weights,), of the backward passes since the last `zero_grad`."""
        assert self.vector.grad is not None
        return self.vector.grad

    def zero_grad(self) -> None:
        """Set the gradient to zero, in place: the parameters' gradients are views of it."""
        self.grad.zero_()

    def copy(self) -> Tensor:
        """Return the values as a tensor of their own."""
        return self.data.clone()

    def assign(self, values: Tensor) -> None:
        """Set all values from a vector of shape (weights,).

        Raises:
            ValueError: it has another shape or type.
        """
        if values.shape != self.data.shape or values.dtype != self.data.dtype:
            raise ValueError(
                f"the trainable weights are {tuple(self.data.shape)} of {self.data.dtype}, "
                f"not {tuple(values.shape)} of {values.dtype}"
            )
        self.data.copy_(values)

    def views(self, vector: Tensor) -> Mapping[str, Tensor]:
        """Return a vector of shape (weights,) as one view per parameter, by the parameter's name."""
        parts = vector.split([shape.numel() for shape in self._shapes.values()])  # one node of the graph for all
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    @cached_property
    def positions_by_size(self) -> Sequence[Tensor]:
        """Where each parameter lies in the vector, stacked: one tensor (parameters, size) for all parameters of a size.

        What is done to every parameter apart can so be done to all of a size at once.
        """
        groups = defaultdict(list)
        for view in self.views(torch.arange(len(self), device=self.data.device)).values():
            groups[view.numel()].append(view.flatten())
        return [torch.stack(group) for group in groups.values()]

"""The loss of a training batch by fewer launches: torch.compile, or CUDA graphs that are replayed (`--compile`)."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from clbench.encoding.batches import Batch
from clbench.errors import ClbenchError, ClbenchWarning, one_line
from clbench.model.fast.fused_lora import has_hooks
from clbench.model.loss import full_loss
from clbench.model.weights import Weights
from clbench.settings import Settings

Replay = Callable[..., Tensor]  # from weights, input_ids, attention_mask, labels to the loss
Capture = Callable[[Replay, tuple[Tensor, ...]], Replay]
SIGHTINGS = 3  # of a shape, before a graph is made for it
SLOW = (
    "--compile default: a run's first steps wait for the compiler, for minutes on a CPU; it compiles once for batches of all "
    "lengths, and again where a method puts hooks on the model or takes them off"
)
MOST = 64  # graphs; each holds its share of one pool of memory


def check_compile(settings: Settings, device: torch.device) -> None:
    """Check that the setting `compile` works with the device and the other settings.

    Raises:
        ClbenchError: CUDA graphs are asked for without CUDA, or together with gradient checkpointing.
    """
    if settings.compile != "cudagraphs":
        return
    if device.type != "cuda":
        raise ClbenchError(f"--compile cudagraphs needs a CUDA device, this one is '{device}'; use none or default")
    if settings.gradient_checkpointing:
        raise ClbenchError("--compile cudagraphs does not work with --gradient-checkpointing; leave one out")


def compiled_loss(kind: str, model: nn.Module, weights: Weights | None) -> CompiledLoss | GraphedLoss | None:
    """Return the object that computes losses for a `--compile` choice; None if the model computes them itself.

    Args:
        weights: the trained weights; None if something else can change what the model computes, which rules out graphs.
    """
    if kind == "default":
        warnings.warn(SLOW, ClbenchWarning, stacklevel=2)
        return CompiledLoss(model)
    return GraphedLoss(model, weights) if kind == "cudagraphs" and weights is not None else None


class CompiledLoss:
    """The model's pass through torch.compile, once for batches of all lengths; the first steps wait for the compiler."""

    def __init__(self, model: nn.Module, backend: str = "inductor") -> None:
        torch.compiler.reset()  # what was compiled for earlier learners counts towards the limit of recompilations
        torch._dynamo.config.skip_nnmodule_hook_guards = False  # a method's hooks come and go
        self._model = torch.compile(model, dynamic=True, backend=backend)

    def __call__(self, batch: Batch) -> Tensor | None:
        """Return the loss of a batch."""
        return full_loss(self._model, batch.input_ids, batch.attention_mask, batch.labels)


class GraphedLoss:
    """The model's pass and its gradient as CUDA graphs, one pair for each shape of batches, replayed without launches.

    A graph repeats the very kernels and addresses that were captured. So it stands for the model's pass only while nothing but
    the flat weights and the batch changes: not while a method's hooks watch the model, an adapter is merged or off, or the
    gradient of the last loss is still to come, whose activations a replay would overwrite. Then the answer is None.

    Args:
        weights: the trained weights; captured graphs read and differentiate the flat vector.
        capture: makes a replayable function of a function and its sample arguments.
    """

    def __init__(self, model: Any, weights: Weights, capture: Capture | None = None) -> None:
        self.graphs: dict[tuple[Any, ...], Replay] = {}
        self._model = model
        self._weights = weights
        self._capture = CudaCapture() if capture is None else capture
        self._sightings: Counter[tuple[Any, ...]] = Counter()
        own = (model, model.get_output_embeddings())  # where a decoder reads its labels: a part of the captured pass
        self._parts = [part for part in model.modules() if part not in own]
        self._adapted = [part for part in self._parts if isinstance(part, LoraLayer)]
        self._open: weakref.ref[_Pass] | None = None
        self.latest: object = None

    def __call__(self, batch: Batch) -> Tensor | None:
        """Return the loss of a batch, or None where no graph may be replayed."""
        if not torch.is_grad_enabled() or self._is_open() or self._is_watched():
            return None
        key = (batch.input_ids.shape, batch.labels.shape, self._model.training)
        arguments = (self._weights.vector, batch.input_ids, batch.attention_mask, batch.labels)
        if key not in self.graphs and not self._make(key, arguments):
            return None
        this = _Pass(self)
        self._open, self.latest = weakref.ref(this), this.mark
        loss: Tensor = _Held.apply(self.graphs[key](*arguments), this)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    def close(self) -> None:
        """Note that the gradient of the last loss is being computed."""
        self._open = None

    def _is_open(self) -> bool:
        return self._open is not None and self._open() is not None

    def _is_watched(self) -> bool:
        return any(map(has_hooks, self._parts)) or any(part.merged or part.disable_adapters for part in self._adapted)

    def _make(self, key: tuple[Any, ...], arguments: tuple[Tensor, ...]) -> bool:
        self._sightings[key] += 1
        if self._sightings[key] < SIGHTINGS or len(self.graphs) >= MOST:
            return False
        vector, *inputs = arguments
        leaf = vector.detach().requires_grad_()  # the same memory, without what passes on another stream left at it
        try:
            self.graphs[key] = self._capture(self._pass, (leaf, *(tensor.clone() for tensor in inputs)))
        except RuntimeError as error:
            warnings.warn(f"--compile cudagraphs: going on without for {key[:2]}: {one_line(error)}", stacklevel=2)
            self._sightings[key] = -(10**9)
            return False
        return True

    def _pass(self, vector: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        def model(**inputs: Any) -> Any:
            return torch.func.functional_call(self._model, dict(self._weights.views(vector)), (), inputs)

        return full_loss(model, input_ids, attention_mask, labels)


class CudaCapture:
    """Capture functions as CUDA graphs that share one pool of memory; random numbers go on as if nothing had run."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Replay, samples: tuple[Tensor, ...]) -> Replay:
        """Return the function as graphs; arguments of the samples' shapes are copied into the samples."""
        state = torch.cuda.get_rng_state()
        try:
            return cast(Replay, torch.cuda.make_graphed_callables(function, samples, pool=self._pool))
        finally:
            torch.cuda.set_rng_state(state)


class _Pass:
    """Lives as long as the graph of one loss; `mark` tells it from a later one."""

    def __init__(self, owner: GraphedLoss) -> None:
        self.owner = owner
        self.mark = object()


class _Held(torch.autograd.Function):
    """The loss itself; holds on to its pass, and sees when its gradient is asked for."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, this: _Pass) -> Tensor:
        ctx.this = this
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        owner = ctx.this.owner
        if owner.latest is not ctx.this.mark:
            raise RuntimeError("a loss was differentiated again after a later one; use --compile none with this method")
        owner.close()
        return gradient, None

"""What the adapted layers read: the second moments of their inputs, and the subspaces that earlier tasks' inputs lie in.

Gradient projection memory (GPM, Saha et al. 2021, arXiv:2103.09762), as InfLoRA and GainLoRA use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clbench.data.tasks import Example
from clbench.encoding.batches import IGNORED, Batch
from clbench.learning.learner import Learner
from clbench.model.backbone import pass_a_token


class SecondMoment:
    """The mean of x x^T over the rows x that were added, a matrix (inputs, inputs) in float32."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, rows: Tensor) -> None:
        """Add rows (rows, inputs)."""
        rows = rows.detach().float()
        product = rows.t() @ rows
        self._sum = product if self._sum is None else self._sum + product
        self._count += len(rows)

    @property
    def mean(self) -> Tensor:
        """The mean; there must be a row."""
        assert self._sum is not None, "no rows"
        return self._sum / self._count


def first_readers(learner: Learner) -> dict[str, str]:
    """Return for each adapted layer the first one that reads the same tensor: query, key and value read one, and so on."""
    layers, held = learner.attached.blocks.layers, []
    seen: dict[int, str] = {}
    found: dict[str, str] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        held.append(inputs[0])  # so that no two tensors have the same id
        found[name] = seen.setdefault(id(inputs[0]), name)

    handles = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    try:
        pass_a_token(learner.model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def input_moments(learner: Learner, readers: Mapping[str, str], examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return the second moments of what the layers read of examples and their answers, by the first reader's name.

    One pass over the examples, without dropout; padding does not count.

    Args:
        readers: what `first_readers` returned.
    """
    layers = learner.attached.blocks.layers
    moments = {name: SecondMoment() for name in sorted(set(readers.values()))}
    masks: dict[int, Tensor] = {}  # of a batch, by the width of what is read: prompt, answer, or one after the other

    def note(moment: SecondMoment, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        moment.add(inputs[0][masks[inputs[0].shape[1]]])

    handles = [layers[name].register_forward_pre_hook(partial(note, moment)) for name, moment in moments.items()]
    try:
        with torch.no_grad():
            for batch in learner.feed.once(examples):
                batch = of_two_widths(batch)
                prompt, answer = batch.attention_mask.bool(), batch.labels != IGNORED
                both = torch.cat([prompt, answer], 1).sort(1, descending=True).values  # padding is on the right
                masks.clear()
                masks.update({mask.shape[1]: mask for mask in (prompt, answer, both)})
                learner.passes.logits(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: moment.mean for name, moment in moments.items()}


def of_two_widths(batch: Batch) -> Batch:
    """Return a batch whose prompts and answers are of different widths, with one column of padding more if need be."""
    if batch.input_ids.shape[1] != batch.labels.shape[1]:
        return batch
    return Batch(batch.input_ids, batch.attention_mask, functional.pad(batch.labels, (0, 1), value=IGNORED))


def outside(basis: Tensor | None, matrix: Tensor) -> Tensor:
    """Return the part of a matrix's columns (inputs, columns) that is orthogonal to a basis (inputs, directions)."""
    return matrix if basis is None else matrix - basis @ (basis.t() @ matrix)


def main_directions(basis: Tensor | None, moment: Tensor, count: int) -> Tensor:
    """Return as unit rows (count, inputs) the main directions of a second moment outside a basis; 0 where there are no more."""
    left = torch.linalg.svd(outside(basis, moment))[0][:, :count]
    rows = outside(basis, left).t()
    norms = rows.norm(dim=1, keepdim=True)
    rows = torch.where(norms > 0.1, rows / norms, torch.zeros_like(rows))  # else it is of the basis, and rounding
    return functional.pad(rows, (0, 0, 0, count - len(rows)))


def extended(basis: Tensor | None, moment: Tensor, threshold: float) -> Tensor:
    """Return an orthonormal basis that holds at least `threshold` of a second moment's energy, begun by the one that there is.

    As few directions are added as do. The energy of a matrix is the sum of its squares, here of the moment matrix as in the
    methods' released code, not of the inputs themselves.
    """
    known = moment.new_zeros(len(moment), 0) if basis is None else basis
    left, total = outside(basis, moment), moment.square().sum()
    directions, values, _ = torch.linalg.svd(left)
    held = 1 - left.square().sum() / total.clamp_min(torch.finfo(total.dtype).tiny)
    if held >= threshold:
        return known
    energies = held + values.square().cumsum(0) / total
    count = min(int((energies < threshold).sum()) + 1, len(moment) - known.shape[1])
    basis = torch.linalg.qr(torch.cat([known, directions[:, :count]], 1))[0]
    return basis.contiguous()  # as a checkpoint gives it back: products of another layout round otherwise

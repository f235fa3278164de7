"""Text to tensors: tokenise once, shorten the passage and keep the closing "Answer:", bucket by length, collate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clbench.encoding.encoder import Encoded

IGNORED = -100
"""The label, of a padding or prompt token, that the loss does not count."""
BUCKET = 16  # batches that are sorted by length together, within a shuffled epoch


@dataclass(frozen=True)
class Batch:
    """Padded tensors on the device: `input_ids`, `attention_mask` (batch, input), `labels` (batch, target).

    Encoder-decoders and decoders take the same batches; a decoder's prompts are padded on the left, all else on the right.
    `share` is the part of its optimizer step's target tokens that the batch holds; 1 without accumulation. `rows` are the
    positions of its rows among the examples that a phase, or `Feed.once`, was given, `labelled` those of the labels that the loss
    counts among the flattened ones, `tokens` how many of them each row has; `collate` alone knows these two, a batch made
    otherwise or changed by `replace` has None.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    share: float = 1.0
    rows: tuple[int, ...] = ()
    labelled: Tensor | None = field(default=None, init=False)
    tokens: tuple[int, ...] | None = field(default=None, init=False)

    @property
    def counted(self) -> Tensor:
        """The positions, among the flattened labels, that the loss counts (waits for the device where `labelled` is None)."""
        return (self.labels.flatten() != IGNORED).nonzero()[:, 0] if self.labelled is None else self.labelled

    def split(self, size: int) -> "list[Batch]":
        """Return the rows in order as batches of at most `size` rows, each a step of its own."""
        parts = zip(self.input_ids.split(size), self.attention_mask.split(size), self.labels.split(size), strict=True)
        begins = range(0, len(self.labels), size)
        tokens = self._tokens()
        return [_known(Batch(*part), tokens[i : i + size], False) for part, i in zip(parts, begins, strict=True)]

    def part(self, number: int, count: int) -> "Batch":
        """Return every `count`-th row from row `number` on, as wide as the whole batch; its share is that of its target tokens.

        Of a batch with fewer rows it is one of the others' rows, with a share of 0: the model is then asked for nothing.
        """
        tokens, rows = self._tokens(), slice(number, None, count)
        share = sum(tokens[rows]) / sum(tokens)
        if number >= len(tokens):
            rows = slice(number % len(tokens), number % len(tokens) + 1)
        whole = (self.input_ids, self.attention_mask, self.labels)
        inputs, mask, labels = (tensor[rows].contiguous() for tensor in whole)
        part = Batch(inputs, mask, labels, self.share * share, self.rows[rows])
        return _known(part, tokens[rows], self.labelled is not None)

    def _tokens(self) -> tuple[int, ...]:
        if self.tokens is None:
            return tuple((self.labels != IGNORED).sum(1).tolist())
        return self.tokens


def shuffled_batches(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator, bucketed: bool = True, least: int = 1
) -> list[list[int]]:
    """Return one epoch: every index once, in batches of similar length, in random order.

    Args:
        bucketed: False leaves the rows in random order, whatever their lengths.
        least: a last batch of fewer rows is left out, unless it is the only one.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = batch_size * BUCKET if bucketed else max(1, len(order))
    batches: list[list[int]] = []
    for begin in range(0, len(order), window):
        bucket = order[begin : begin + window]
        if bucketed:
            bucket.sort(key=lambda index: lengths[index])
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    batches = batches[: count_batches(len(lengths), batch_size, least)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()] if bucketed else batches


def count_batches(rows: int, batch_size: int, least: int = 1) -> int:
    """Return how many batches an epoch over so many rows has; `least`: as in `shuffled_batches`."""
    whole, rest = divmod(rows, batch_size)
    return whole + (rest > 0 and (rest >= least or whole == 0))


def sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield every index once, in batches, the longest first, so that batches hold little padding."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]


def collate(
    rows: Sequence[Encoded],
    pad_id: int,
    device: torch.device,
    share: float = 1.0,
    left: bool = False,
    multiple: int = 1,
    positions: Sequence[int] = (),
) -> Batch:
    """Return the rows as one batch on the device.

    Args:
        positions: where the rows are among the examples of a phase.
        left: the inputs are padded on the left (decoders), not on the right.
        multiple: what the length of the inputs is a multiple of; that of the labels, which are short, of at most 8.
    """
    inputs = pad([row.input_ids for row in rows], pad_id, left, multiple)
    mask = pad([[1] * len(row.input_ids) for row in rows], 0, left, multiple)
    labels = pad([row.labels for row in rows], IGNORED, multiple=min(multiple, 8))
    placed = [to_device(tensor, device) for tensor in (inputs, mask, labels)]
    batch = Batch(placed[0], placed[1], placed[2], share, tuple(positions))
    return _known(batch, tuple(len(row.labels) for row in rows), True)


def _known(batch: Batch, tokens: tuple[int, ...], labelled: bool) -> Batch:
    """Return a batch that knows how many labels each row has, which begins with them, and where they are; waits for no device."""
    object.__setattr__(batch, "tokens", tokens)
    if labelled:
        places = torch.arange(batch.labels.shape[1]) < torch.tensor(tokens)[:, None]
        object.__setattr__(batch, "labelled", to_device(places.flatten().nonzero().squeeze(1), batch.labels.device))
    return batch


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device; to a GPU it goes from pinned memory, without waiting for what runs there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def target_tokens(batch: Batch) -> Tensor:
    """Return how many target tokens of a batch the loss counts, a scalar on the device."""
    return (batch.labels != IGNORED).sum()


def pad(rows: Sequence[Sequence[int]], filler: int, left: bool = False, multiple: int = 1) -> Tensor:
    """Return the rows as one (rows, length) tensor of int64, filled up on the right or left to a multiple."""
    longest = -(-max(map(len, rows)) // multiple) * multiple
    fillers = [[filler] * (longest - len(row)) for row in rows]
    return torch.tensor([[*more, *row] if left else [*row, *more] for row, more in zip(rows, fillers, strict=True)])


def accumulation_group(
    rows: Sequence[Encoded],
    micro_batch: int | None,
    pad_id: int,
    device: torch.device,
    left: bool = False,
    multiple: int = 1,
    positions: Sequence[int] = (),
) -> list[Batch]:
    """Return the micro-batches of one optimizer step; their shares add up to 1. `left` and the rest: as in `collate`."""
    size = micro_batch or len(rows)
    tokens = sum(len(row.labels) for row in rows)
    group = []
    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]
        share = sum(len(row.labels) for row in part) / tokens
        group.append(collate(part, pad_id, device, share, left, multiple, positions[begin : begin + size]))
    return group

"""Answers among given labels: constrained greedy decoding on the device, over the trie of the labels' tokens.

At each node the likeliest of the tokens that go on there is taken; an answer is decided as soon as one label alone is left
below its node, so that most label sets need one or two passes through the decoder. The tokens are those that
`generate(prefix_allowed_tokens_fn=...)` takes, which walks the same trie to the end, row by row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from clbench.errors import ClbenchError


class LabelTrie:
    """The token sequences of labels, each closed by an end token, as one table.

    Attributes:
        tokens: the tokens that occur in a label, shape (columns,).
        next: the node to which a token leads, -1 where none goes on with it, shape (nodes, columns). Node 0 is the root.
        decided: the label that is left at a node, -1 where there are several, shape (nodes,); its row leads to itself.
        depth: tokens after which every label is decided, at least 1.
    """

    def __init__(self, labels: Sequence[str], sequences: Sequence[Sequence[int]], device: torch.device) -> None:
        """Build the trie.

        Raises:
            ClbenchError: two labels are the same tokens.
        """
        self.labels = list(labels)
        tokens = sorted({token for sequence in sequences for token in sequence})
        nodes, following, self.depth = [(0, list(range(len(sequences))))], [], 1
        for node, (depth, members) in enumerate(nodes):  # grows while it is read
            if len(members) == 1:
                following.append([node] * len(tokens))
                continue
            self.depth = max(self.depth, depth + 1)
            below = defaultdict(list)
            for member in members:
                if depth == len(sequences[member]):
                    self._refuse(members)
                below[sequences[member][depth]].append(member)
            first = len(nodes)
            nodes += [(depth + 1, below[token]) for token in sorted(below)]
            places = dict(zip(sorted(below), range(first, len(nodes)), strict=True))
            following.append([places.get(token, -1) for token in tokens])
        self.tokens = torch.tensor(tokens, device=device)
        self.next = torch.tensor(following, device=device)
        decided = [members[0] if len(members) == 1 else -1 for _, members in nodes]
        self.decided = torch.tensor(decided, device=device)

    def _refuse(self, members: Sequence[int]) -> None:
        names = " and ".join(f"'{self.labels[member]}'" for member in members)
        raise ClbenchError(
            f"labels {names} are the same tokens to this backbone and max_target; use --answers generate"
        )


class LabelWalk(LogitsProcessor):  # type: ignore[misc]  # transformers' types are not read
    """Where the rows of one batch are in the trie; as a logits processor, lets each row take only tokens that go on there."""

    def __init__(self, trie: LabelTrie, rows: int) -> None:
        self.trie = trie
        self.node = torch.zeros(rows, dtype=torch.long, device=trie.next.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores (rows, vocabulary), minus infinity for what is not allowed."""
        forbidden = self.trie.next[self.node] < 0
        allowed = scores[:, self.trie.tokens].masked_fill(forbidden, float("-inf"))
        return torch.full_like(scores, float("-inf")).index_copy(1, self.trie.tokens, allowed)

    def take(self, tokens: Tensor) -> Tensor:
        """Go on with the tokens that were chosen, shape (rows,); return which rows are decided."""
        column = (tokens[:, None] == self.trie.tokens).int().argmax(1)
        self.node = self.trie.next[self.node, column]
        return self.trie.decided[self.node] >= 0

    def answers(self) -> list[str]:
        """Return the rows' labels, once all are decided."""
        return [self.trie.labels[label] for label in self.trie.decided[self.node].tolist()]


class LabelStop(StoppingCriteria):  # type: ignore[misc]  # transformers' types are not read
    """End a row as soon as its label is decided."""

    def __init__(self, walk: LabelWalk) -> None:
        self.walk = walk

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        """Return which rows are decided, shape (rows,)."""
        return self.walk.take(input_ids[:, -1])

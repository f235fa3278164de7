"""How much of a batch fits: limits on the rows and tokens of a batch of questions, which shrink when memory runs out."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from clbench.errors import ClbenchError
from clbench.settings import Settings


@dataclass
class BatchLimits:
    """How many tokens, padding included, a batch of questions may hold on a device, as far as is known.

    One object per loaded backbone: what one run learns of the device holds for all later runs of the process.
    """

    tokens: float = math.inf

    def rows(self, lengths: Sequence[int], settings: Settings, padding: float = math.inf) -> int:
        """Return how many rows a batch takes of those that wait, at least one.

        Args:
            lengths: of the waiting rows, in tokens, the longest first.
            padding: most tokens by which all rows of a batch together may be shorter than the longest.
        """
        most = int(min(self.tokens, settings.eval_tokens) // lengths[0])
        waste = itertools.accumulate(lengths[0] - length for length in lengths[: max(1, most)])
        little = sum(1 for _ in itertools.takewhile(lambda tokens: tokens <= padding, waste))
        return max(1, min(settings.eval_batch_size, little))

    def shrink(self, rows: int, tokens: int) -> None:
        """Take note that memory ran out with a batch of `rows` rows of `tokens` tokens: half of it is the most from now on.

        Raises:
            ClbenchError: it was a single row.
        """
        if rows == 1:
            raise ClbenchError(
                f"out of memory: a single question of {tokens} tokens, its answer included, does not fit on the device; "
                f"use a shorter --max-input or --max-answer, or a smaller backbone"
            )
        self.tokens = rows * tokens // 2

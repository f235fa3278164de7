"""How much of a batch fits: limits on the rows and tokens of a batch of questions, which shrink when memory runs out."""

import math
from dataclasses import dataclass

from .errors import ClbenchError
from .settings import Settings


@dataclass
class Room:
    """How many tokens, padding included, a batch of questions may hold on a device, as far as is known.

    One object per loaded backbone: what one run learns of the device holds for all later runs of the process.
    """

    tokens: float = math.inf

    def rows(self, tokens: int, settings: Settings) -> int:
        """Return how many rows of so many tokens each a batch takes, at least one."""
        most = min(self.tokens, settings.eval_tokens)
        return max(1, min(settings.eval_batch_size, int(most // tokens)))

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

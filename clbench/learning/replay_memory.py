"""The replay buffer, shared by every rehearsal method, with one sampling rule."""

import random
from collections import defaultdict
from dataclasses import dataclass, field

from clbench.data.tasks import Example, Task


@dataclass
class Memory:
    """A few examples of each finished task; what is remembered of a task never changes afterwards."""

    of_task: dict[str, tuple[Example, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.of_task.values()))

    @property
    def examples(self) -> tuple[Example, ...]:
        """All remembered examples, oldest task first."""
        return tuple(example for examples in self.of_task.values() for example in examples)

    def remember(self, task: Task, ratio: float, seed: int) -> None:
        """Keep n = floor(ratio * rows) training examples of a task.

        With a label set each of its C classes gets max(1, n // C) of them and the rest is drawn at random, so that n is
        exceeded where it is smaller than C (Recurrent-KIF release); free text is drawn uniformly. A ratio of 0 keeps
        nothing.
        """
        count = int(ratio * len(task.train) + 1e-9)
        if count == 0:
            return
        chooser = random.Random(seed)
        rows = list(range(len(task.train)))
        chooser.shuffle(rows)
        chosen: list[int] = []
        if task.labels:
            of_class = defaultdict(list)
            for row in rows:
                of_class[task.train[row].target].append(row)
            quota = max(1, count // len(of_class))
            chosen = [row for members in of_class.values() for row in members[:quota]]
        left = set(rows).difference(chosen)
        chosen += [row for row in rows if row in left][: max(0, count - len(chosen))]
        self.of_task[task.name] = tuple(task.train[row] for row in sorted(chosen))

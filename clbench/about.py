"""What a method tells the harness of itself beyond its options: one value, `about`, on the class (or function) that it offers.

    class MyMethod:
        about: ClassVar[About] = About(memory=Ratio("memory_ratio"), variants={"paper": {}, "release": {"form": "mean"}})

This is the one place for it: nothing is guessed from a method's or an option's name. A method without `about` has no variants,
keeps no old rows, answers without the task's identity, is ranked with the others and trains at the setting `learning_rate`.
All of it is checked when the plugin is found; what reports need of it stands in the record, under "about".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clbench.errors import ClbenchError, unknown
from clbench.options import REQUIRED, Option, settle


@dataclass(frozen=True)
class Ratio:
    """The memory's size is an option that says which part of each task's training rows is kept; of every label at least one.

    None or 0 keeps nothing.
    """

    option: str

    def budget(self, value: float | None, rows: int, labels: int) -> int:
        """Return how many rows of a task with so many rows and labels may be kept."""
        return max(int(value * rows + 1e-9), labels) if value else 0

    def keeps_nothing(self, value: float | None, rows: int) -> bool:
        """Return whether a memory was asked for, and yet nothing is kept of a task with so many rows (`Memory.remember`)."""
        return bool(value) and int((value or 0) * rows + 1e-9) == 0

    def enlarged(self, value: float, wanted: int, rows: int) -> float:
        """Return a value that keeps at least the wanted rows of a task, if it has so many."""
        return max(value, min(1.0, wanted / rows))


@dataclass(frozen=True)
class Rows:
    """The memory's size is an option that counts rows: those of a task, or those of all tasks. None or 0 keeps nothing."""

    option: str

    def budget(self, value: float | None, rows: int, labels: int) -> int:
        """Return how many rows of a task with so many rows and labels may be kept."""
        return min(int(value), rows) if value else 0

    def keeps_nothing(self, value: float | None, rows: int) -> bool:
        """Return whether a memory was asked for, and yet nothing is kept of a task with so many rows: never."""
        return False

    def enlarged(self, value: float, wanted: int, rows: int) -> float:
        """Return a value that keeps at least the wanted rows of a task, if it has so many."""
        return max(value, min(wanted, rows))


@dataclass(frozen=True)
class About:
    """What the harness must know of a method.

    Attributes:
        variants: named sets of option values, asked for with `--set variant=NAME`; the first is the defaults, and so is empty.
        memory: the option that says how many old training rows the method keeps, as `Ratio` or `Rows`; none: it keeps none, and
            `clbench check-method` holds it to that. Where the option has no effect, nothing may be kept, either.
        needs_task_id: the method must be told which task a question is of; otherwise `check-method` hides it.
        upper_bound: the method sees what a continual learner may not, such as all tasks at once: shown, but not ranked.
        learning_rate: the option that stands for the setting `learning_rate`; where it is none, the setting counts.
        learns_plainly: on a stream of one task it is that task learned alone, with which forward transfer is compared.
        several_devices: under `torchrun` its numbers are those of one process. So what it makes of a batch comes by the loss, by
            `weights.grad` when a step is due, or added up over the processes (`learner.devices`), and its random numbers come
            from `learner.generator`. Any other method is refused there.
        resumes_within_tasks: killed within a task, the run goes on from a step of it (`--checkpoint-every`), not from its begin.
            What the loops of `learn_task` hold from step to step is then handed to `Training.keep`; what stands before, between
            and after them is computed again, and changes nothing but the learner, the method's state and what it kept.
    """

    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    memory: Ratio | Rows | None = None
    needs_task_id: bool = False
    upper_bound: bool = False
    learning_rate: str | None = None
    learns_plainly: bool = False
    several_devices: bool = False
    resumes_within_tasks: bool = False


def about_of(factory: Callable[..., Any], options: Mapping[str, Option]) -> About:
    """Return what a method declares of itself, checked against its options.

    Raises:
        ClbenchError: it is no `About`, or names an option or a value that there is not.
    """
    while isinstance(factory, partial):
        factory = factory.func
    about = getattr(factory, "about", About())
    if not isinstance(about, About):
        raise ClbenchError(f"its 'about' must be an About, not {type(about).__name__}")
    named = [about.memory.option] if about.memory is not None else []
    for name in named + ([] if about.learning_rate is None else [about.learning_rate]):
        if name not in options:
            raise unknown("option that 'about' names:", name, options)
        if not {int, float} & set(options[name].types):
            raise ClbenchError(f"its 'about' names option '{name}', which is no number")
    if about.variants and "variant" in options:
        raise ClbenchError("it has variants, so that none of its options may be called 'variant'")
    if about.variants and next(iter(about.variants.values())):
        raise ClbenchError(f"its first variant, '{next(iter(about.variants))}', must be the defaults: {{}}")
    complete = all(option.default is not REQUIRED for option in options.values())
    for variant, values in about.variants.items():
        for name in values:
            if name not in options:
                raise unknown(f"option that variant '{variant}' sets:", name, options)
            options[name].convert(values[name], f"option '{name}' of variant '{variant}'")
        if complete:
            settle(options, values, {}, f"variant '{variant}'")
    return about

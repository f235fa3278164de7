"""clbench: run and compare continual-learning methods on language models.

The names of `__all__` are public. Each is loaded when it is first used, so that `import clbench` imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clbench.about import About, Ratio, Rows
    from clbench.data.tasks import Example, Task
    from clbench.encoding.batches import Batch
    from clbench.errors import ClbenchError
    from clbench.hookspecs import hookimpl
    from clbench.learning.importance import Importance
    from clbench.learning.learner import Learner
    from clbench.learning.replay_memory import Memory
    from clbench.learning.training import Training
    from clbench.model.lora_blocks import Blocks
    from clbench.options import NonFinite, OnlyIf, Search, Unless
    from clbench.records.collection import Records, load_records
    from clbench.reports.drawing import plot
    from clbench.reports.leaderboard import leaderboard
    from clbench.running.many import sweep
    from clbench.running.one_run import run
    from clbench.running.saved_learner import load_learner

__version__ = "0.1.0"
__all__ = [
    "About",
    "Batch",
    "Blocks",
    "ClbenchError",
    "Example",
    "Importance",
    "Learner",
    "Memory",
    "NonFinite",
    "OnlyIf",
    "Ratio",
    "Records",
    "Rows",
    "Search",
    "Task",
    "Training",
    "Unless",
    "hookimpl",
    "leaderboard",
    "load_learner",
    "load_records",
    "plot",
    "run",
    "sweep",
]

_MODULES = {  # of the names above, as the type checker reads them there
    "clbench.about": ("About", "Ratio", "Rows"),
    "clbench.data.tasks": ("Example", "Task"),
    "clbench.encoding.batches": ("Batch",),
    "clbench.errors": ("ClbenchError",),
    "clbench.hookspecs": ("hookimpl",),
    "clbench.learning.importance": ("Importance",),
    "clbench.learning.learner": ("Learner",),
    "clbench.learning.replay_memory": ("Memory",),
    "clbench.learning.training": ("Training",),
    "clbench.model.lora_blocks": ("Blocks",),
    "clbench.options": ("NonFinite", "OnlyIf", "Search", "Unless"),
    "clbench.records.collection": ("Records", "load_records"),
    "clbench.reports.drawing": ("plot",),
    "clbench.reports.leaderboard": ("leaderboard",),
    "clbench.running.many": ("sweep",),
    "clbench.running.one_run": ("run",),
    "clbench.running.saved_learner": ("load_learner",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            globals()[name] = found = getattr(import_module(module), name)
            return found
    raise AttributeError(f"module 'clbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

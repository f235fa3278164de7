"""clbench: run and compare continual-learning methods on language models."""

import logging

from clbench.data.tasks import Example, Task
from clbench.errors import ClbenchError
from clbench.hookspecs import hookimpl

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which peft imports, and which reports kernels that it lacks

__version__ = "0.1.0"
__all__ = ["ClbenchError", "Example", "Task", "hookimpl"]

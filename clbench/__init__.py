"""clbench: run and compare continual-learning methods on language models."""

from .errors import ClbenchError
from .hookspecs import hookimpl
from .streams import Example, Task

__version__ = "0.1.0"
__all__ = ["ClbenchError", "Example", "Task", "hookimpl"]

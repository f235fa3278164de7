"""Which experiment trackers a run is shown in beside its record: a value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from clbench.errors import ClbenchError, unknown

# The names after `--track`: each is that of an extra and of its package, too; `running/watchers/track_NAME.py` speaks to it.
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


@dataclass(frozen=True)
class Tracking:
    """Trackers by name, and the group, of a grid or a command, under which its runs stand together in them.

    Raises:
        ClbenchError: there is no such tracker, or it is not installed.
    """

    trackers: tuple[str, ...] = ()
    group: str | None = None

    def __post_init__(self) -> None:
        for name in self.trackers:
            if name not in TRACKERS:
                raise unknown("tracker", name, TRACKERS)
            spec = find_spec(name)
            if spec is None or spec.origin is None:  # a folder of that name, as W&B makes one, is no package
                raise ClbenchError(f"--track {name} needs the package {name}: pip install 'clbench[{name}]'")


UNTRACKED = Tracking()

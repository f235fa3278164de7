"""Which experiment trackers a run is shown in beside its record: a value, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from clbench.errors import ClbenchError, unknown

# By the name after `--track`, which is also that of the extra: the module that must be there. The pages that speak to them are
# `clbench.running.watchers.track_NAME`.
TRACKERS: Mapping[str, str] = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}


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
            if find_spec(TRACKERS[name]) is None:
                raise ClbenchError(f"--track {name} needs the package {TRACKERS[name]}: pip install 'clbench[{name}]'")


UNTRACKED = Tracking()

"""Maps: importance and task vector of every trained tensor, along a run; the file `NAME.maps.safetensors` (`--log-maps`).

    importance   float32 (points, tasks, tensors)  mean over the tensor of |w g|; nan for a task that was not yet begun
    task_vector  float32 (points, tensors)         mean over the tensor of |w - w_0|

w are the weights at that point, g is the gradient of the mean loss over `rows` training rows of the task (the same ones at every
point, without dropout), w_0 are the weights before the task's first optimizer step. The measure is the same for every method and
differs from the importance that a method computes for its own use (which is smoothed over its batches). The header (metadata
`content`) is JSON:

    schema_version, name (the run's), rows, tasks (names, in the order of learning), tensors ([{name, size}]),
    points ([{task, step, steps}]): before the task (step 0), after a quarter, half and three quarters of its first
    phase's steps, and when the method is done with it (step = steps)

Of methods that start a new block with each task, the tensors are the block that is trained.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clbench.atomic import regular, write_atomically
from clbench.data.rows import parse_json
from clbench.errors import ClbenchError

SCHEMA_VERSION = 1
ROWS = 32  # training rows a task that importance is measured on
QUARTERS = 4  # of a task's steps, at each of which a point lies
Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Point:
    """When the maps were taken: the task being learned (its number), optimizer steps taken of `steps`."""

    task: int
    step: int
    steps: int

    @property
    def part(self) -> float:
        """How much of the task was learned, 0 to 1."""
        return self.step / max(1, self.steps)


@dataclass(frozen=True)
class TensorPlace:
    """Where a trained tensor lies: its layer ('encoder 3', 'outside' where it is in none) and its module ('SelfAttention.q')."""

    layer: str
    module: str

    @classmethod
    def of(cls, name: str) -> TensorPlace:
        """Read a parameter's name; the A and the B of a LoRA layer lie in one place."""
        path = re.sub(r"\.lora_[AB]\..*$|\.weight$", "", name)
        path = re.sub(r"^(base_model\.model\.)?(model\.)?", "", path)
        found = re.match(r"(?:(.*?)\.)?(?:block|layers|layer|h)\.(\d+)\.(.*)$", path)
        if found is None:
            return cls("outside", path)
        stack, number, rest = found.groups()
        return cls(f"{stack or 'layer'} {number}", re.sub(r"layer\.\d+\.", "", rest))


@dataclass(frozen=True)
class Maps:
    """The content of a maps file; see the module's docstring for shapes and units."""

    name: str
    rows: int
    tasks: list[str]
    tensors: dict[str, int]
    points: list[Point]
    importance: Numbers
    task_vector: Numbers

    def point(self, task: int, part: float) -> int:
        """Return the number of the point within a task that lies nearest to a part of it (0: before, 1: after).

        Raises:
            ClbenchError: the file has no point of that task.
        """
        numbers = [number for number, point in enumerate(self.points) if point.task == task]
        if not numbers:
            raise ClbenchError(f"maps of '{self.name}': nothing was logged of task number {task + 1}")
        return min(numbers, key=lambda number: abs(self.points[number].part - part))


def write_maps(path: Path, maps: Maps) -> None:
    """Write a maps file, atomically."""
    header = {
        "schema_version": SCHEMA_VERSION,
        "name": maps.name,
        "rows": maps.rows,
        "tasks": maps.tasks,
        "tensors": [{"name": name, "size": size} for name, size in maps.tensors.items()],
        "points": [asdict(point) for point in maps.points],
    }
    tensors = {"importance": maps.importance, "task_vector": maps.task_vector}
    content = save(tensors, {"content": json.dumps(header)})  # not save_file, whose files only their owner may read
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_maps(path: Path) -> Maps:
    """Read a maps file.

    Raises:
        ClbenchError: there is none, it is damaged, or of another schema.
    """
    if not path.exists():
        raise ClbenchError(f"no maps '{path}'; the run makes them with --log-maps")
    try:
        with safe_open(regular(path), framework="numpy") as file:
            header = parse_json(file.metadata()["content"])
            importance, task_vector = file.get_tensor("importance"), file.get_tensor("task_vector")
        if header["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {header['schema_version']}, this clbench reads {SCHEMA_VERSION}")
        tensors = {tensor["name"]: tensor["size"] for tensor in header["tensors"]}
        points = [Point(**point) for point in header["points"]]
        if importance.shape != (len(points), len(header["tasks"]), len(tensors)):
            raise ValueError(f"importance has shape {importance.shape}")
        return Maps(header["name"], header["rows"], header["tasks"], tensors, points, importance, task_vector)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ClbenchError(f"{path}: damaged maps ({error})") from None

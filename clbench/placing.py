"""Where the runs of a sweep are made: a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Placing:
    """Where runs are made: on which engine, how many at a time (`jobs`, local), with what a run needs (Ray, SLURM).

    `retries`: how often a failed run is tried again; `slurm`: parameters of submitit.
    """

    engine: Literal["local", "ray", "slurm"] = "local"
    jobs: int = 1
    retries: int = 2
    address: str | None = None
    cpus_per_run: float | None = None
    gpus_per_run: float | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)

"""`--track mlflow`: MLflow, at MLFLOW_TRACKING_URI, a server or a database, or else in files in `RESULTS/tracking/mlflow`.

Files need no server, no more than `mlflow-skinny`, and no lock between the workers of a grid. MLflow gives them no new features
and wants a word of consent, MLFLOW_ALLOW_FILE_STORE=true, which `mlflow ui` needs, too.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from filelock import FileLock
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from clbench.running.watchers.tracking import PROJECT, Axis, Rows, TrackedRun

KEY = "clbench.key"  # the tag by which a later session finds its run
MOST = 1000  # values in a call
MOST_PARAMETERS = 100
STRANGE = re.compile(r"[^\w./ -]")  # characters that MLflow refuses in names


class MLflow:
    """A run of MLflow in the experiment of MLFLOW_EXPERIMENT_NAME; a later session finds it by its tag and goes on with it."""

    def __init__(self, run: TrackedRun) -> None:
        # An unreachable server is given up after seconds: as it is, MLflow would try for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (run.folder / "mlflow").resolve().as_uri()
        self._client = MlflowClient(tracking_uri=place)
        experiment = self._experiment(run.folder)
        found = self._client.search_runs([experiment], f"tags.`{KEY}` = '{run.key}'") if run.goes_on else []
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {KEY: run.key, **({"group": run.group} if run.group else {})}
        self._id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        parameters = [Param(STRANGE.sub("_", name), str(value)) for name, value in run.config.items()]
        for first in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(self._id, params=parameters[first : first + MOST_PARAMETERS])

    def _experiment(self, folder: Path) -> str:
        """Return the number of the experiment; the first of several workers makes it."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".mlflow.lock"):
            found = self._client.get_experiment_by_name(name)
            number: str = self._client.create_experiment(name) if found is None else found.experiment_id
        return number

    def log(self, axis: Axis, rows: Rows) -> None:
        """Send values."""
        now = time.time_ns() // 1_000_000
        values = [Metric(STRANGE.sub("_", name), value, now, place) for place, of in rows for name, value in of.items()]
        for first in range(0, len(values), MOST):
            self._client.log_batch(self._id, metrics=values[first : first + MOST])

    def end(self, state: Literal["done", "failed"], summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Send measures and files, and end the run."""
        self.log("task", [(0, summary)])
        for file in files:
            self._client.log_artifact(self._id, str(file), "record")
        self._client.set_terminated(self._id, "FINISHED" if state == "done" else "FAILED")


begin = MLflow

"""The built-in tasks and streams, as TOML in tasks/."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from clbench.data.tasks import HubData, Stream, TaskSpec

SUPERNI_TAIL = "\nOutput: "
EXACT_IN_MIXED = "195"  # the number of the task that is not built in, and yet in Recurrent-KIF's list of exact matches
SUPERNI_ANSWER = 128  # tokens of an answer, of the tasks that are not built in
LONGEST_LABEL = 32  # tokens that hold every label of the Long Sequence tasks, one byte a token included


def _read_toml(name: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("clbench.tasks").joinpath(name).read_text("utf-8"))


@cache
def task_specs() -> dict[str, TaskSpec]:
    """Return every built-in task by name."""
    hub = {name: _hub_data(row) for name, row in _read_toml("hub.toml").items()}
    long = {name: _option_spec(name, row, hub.get(name)) for name, row in _read_toml("long_sequence.toml").items()}
    superni = {name: _definition_spec(name, row) for name, row in _read_toml("superni.toml").items()}
    return long | superni | {name: _whole_prompt_spec(name, row) for name, row in _read_toml("trace.toml").items()}


def _hub_data(row: dict[str, Any]) -> HubData:
    return HubData(**{**row, "labels": tuple(row["labels"].items())})


def _option_spec(name: str, row: dict[str, Any], hub: HubData | None) -> TaskSpec:
    options = ", ".join(row["labels"])
    return TaskSpec(
        name=name,
        version=row["version"],
        head=f"{row['instruction']} Option: {options}.\n",
        labels=tuple(row["labels"]),
        metric=row["metric"],
        max_answer=LONGEST_LABEL,
        unlabelled=tuple(row.get("unlabelled", ())),
        hub=hub,
    )


def superni_head(definition: str) -> str:
    """Return what a prompt of SuperNI begins with."""
    return f"Definition: {definition}\n\nNow complete the following example -\nInput: "


def _definition_spec(name: str, row: dict[str, Any]) -> TaskSpec:
    return TaskSpec(
        name=name,
        version=row["version"],
        head=superni_head(row["definition"]),
        labels=tuple(row.get("labels", ())),
        metric=row["metric"],
        tail=SUPERNI_TAIL,
        metric_mixed=row.get("metric_mixed"),
        max_answer=row["max_answer"],
    )


def _whole_prompt_spec(name: str, row: dict[str, Any]) -> TaskSpec:
    return TaskSpec(
        name=name,
        version=row["version"],
        head=row["head"],
        labels=tuple(row.get("labels", ())),
        metric=row["metric"],
        tail=row["tail"],
        further_metrics=tuple(row.get("further_metrics", ())),
        max_answer=row["max_answer"],
    )


@cache
def known_streams() -> dict[str, Stream]:
    """Return every known stream by name."""
    specs = task_specs()
    return {
        name: Stream(name, tuple(row["tasks"]), tuple(specs[task] for task in row["tasks"]), row["order"])
        for name, row in _read_toml("streams.toml").items()
    }

"""The record of a finished run: a typed value, its JSON form (schema 2), and its JSON schema.

The schema is published as `record.schema.json` beside this file; `python -m clbench.records.record` writes it anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from clbench.errors import ClbenchError
from clbench.settings import Settings, list_settings
from clbench.spec import Value

SCHEMA_VERSION = 2
SCHEMA_FILE = Path(__file__).with_name("record.schema.json")
Number = float | None
Row = tuple[Number, ...]
# What the leaderboard says beside a score, in a word.
Mark = Literal[
    "diverged",
    "empty answers",
    "unwritable answers",
    "unreadable prompts",
    "backbone changed",
    "empty memory",
    "nothing replayed",
]


class AboutMethod(Struct, frozen=True, kw_only=True):
    """What a method declares of itself, as far as records are compared by it.

    `upper_bound`: it is shown, but not ranked. `learns_plainly`: a stream of one task by it is that task learned alone.
    `learning_rate`: a rate of its own, which wins over the setting.
    """

    upper_bound: bool = False
    learns_plainly: bool = False
    learning_rate: float | None = None


class MethodInfo(Struct, frozen=True, kw_only=True):
    """The method, the plugin that offers it, the value of every option, and those that differ from their defaults."""

    name: str
    origin: str | None = None
    options: dict[str, Value] = {}
    changed_options: dict[str, Value] = {}
    about: AboutMethod = AboutMethod()


class StreamInfo(Struct, frozen=True, kw_only=True):
    """The stream: 'long:1' is of the family 'long' and the paper's order 4; a list of tasks has no order."""

    name: str
    family: str
    order: int | None = None


class TaskInfo(Struct, frozen=True, kw_only=True):
    """A task, its labels (empty: free text), and how many rows of each split the run used; none where the record does not say.

    `shortened` counts the prompts, of training and test rows, that were longer than `max_input`: the passage's middle was cut.
    """

    name: str
    version: int
    metric: str = "exact_match"
    further_metrics: tuple[str, ...] = ()
    shortened: int | None = None
    train: int | None = None
    test: int | None = None
    validation: int | None = None
    labels: tuple[str, ...] | None = None


class Measures(Struct, frozen=True, kw_only=True):
    """Measures of the score matrix, percent; none where a cell that they need was not evaluated (`fwt`: `--matrix full`)."""

    op: Number = None
    bwt: Number = None
    forgetting: Number = None
    fwt: Number = None


class Cost(Struct, frozen=True, kw_only=True):
    """What learning one task cost (`clbench/running/cost.py` counts it). `held_bytes` is measured in the second task alone.

    `probe_seconds`: of measuring the probes after it, in the first task also before it; no part of learning.
    """

    forward_batches: int
    forward_rows: int
    backward_batches: int
    rows: int
    replayed_rows: int
    own_seconds: float
    kept_bytes: int
    held_bytes: int | None = None
    probe_seconds: float = 0.0


class ProbeValues(Struct, frozen=True, kw_only=True):
    """What was measured beside the tasks: `values` before the first task and after each, none where there is none.

    They are the perplexity of a text: of its `next tokens` (decoders), of `spans` cut out as in T5's pre-training, or of the
    `second halves` of passages (other encoder-decoders). Of questions (`answers`) they are the score in percent. `rows` are the
    windows or questions, `tokens` those of a text that are scored, `digest` (SHA-256, 16 digits) is of the whole probe.
    """

    name: str
    objective: Literal["next tokens", "spans", "second halves", "answers"]
    rows: int
    tokens: int | None = None
    digest: str
    values: Row


class Losses(Struct, frozen=True, kw_only=True):
    """The training loss of one task at no more than 200 of its `of` optimizer steps, counted from 1 over all its phases."""

    steps: tuple[int, ...]
    losses: tuple[Number, ...]
    of: int


class Timings(Struct, frozen=True, kw_only=True):
    """Wall-clock seconds: of learning each task, and of evaluating each cell after it."""

    learn_seconds: tuple[float, ...] = ()
    evaluate_seconds: tuple[tuple[float, ...], ...] = ()


class Disagreement(Struct, frozen=True, kw_only=True):
    """Of `rows` questions of a task, in how many the free answer and the chosen label differ."""

    after: int
    task: str
    rows: Annotated[int, Meta(ge=1)]
    differing: int


class AuditVerdict(Struct, frozen=True, kw_only=True):
    """The findings of `clbench audit` on the run's data, in short."""

    errors: int
    warnings: int
    findings: tuple[str, ...] = ()


class PeakMemory(Struct, frozen=True, kw_only=True):
    """The most memory taken, in bytes, and of what.

    'device': what PyTorch held on the GPU during the run, the backbone included. 'run': the process's resident memory during
    the run (Linux: VmHWM, reset at its start). 'process': the same since the process began, with earlier runs of it.
    Of a run that was resumed, the most of its sessions.
    """

    bytes: int | None = None
    of: Literal["device", "run", "process"] = "process"


class Digests(Struct, frozen=True, kw_only=True):
    """SHA-256 digests of what the run read, some cut to 16 digits; none where the record does not say.

    `data`: every prompt and answer and how it is scored; `questions`: those of the test rows, the same for every order and seed;
    `plugin`: the sources of the method, and of plugins that act on runs; `backbone`: its files, or the hub's commit; `probes`:
    what is measured beside the tasks.
    """

    data: str | None = None
    questions: str | None = None
    plugin: str | None = None
    backbone: str | None = None
    probes: str | None = None


class Environment(Struct, frozen=True, kw_only=True):
    """Where the run was made. `git_commit` is of clbench's own checkout, with '+' where it had changes; none elsewhere.

    `processes`: how many shared the run, a device each, in its last session; what is measured is the first one's.
    """

    clbench: str | None = None
    git_commit: str | None = None
    device: str | None = None
    precision: str | None = None
    processes: int = 1
    versions: dict[str, str] = {}
    plugins: tuple[str, ...] = ()


class Record(Struct, frozen=True, kw_only=True):
    """A finished run. `scores[i][j]` is the score on task j after learning task i, percent, none where not evaluated.

    `untrained` are the scores before the first task (`--matrix full`), `probes` what was measured beside the tasks (`--probe`).
    `settings` are all settings but stream and seed, which have fields of their own; a record of an earlier version may lack
    some: `setting` fills in. `further_scores` has such a matrix for each metric that a task names beside the one of `scores`.
    `learned` is what the method reported of each task. `marks` are in a word what a reader of the scores must know; `notes` say
    it in sentences, and where a record was converted.
    """

    schema_version: Literal[2] = 2
    protocol_version: Annotated[int, Meta(ge=0, description="clbench/spec.py lists the versions")]
    name: Annotated[str, Meta(description="of the run's files, without their suffixes")]
    identity: Annotated[str | None, Meta(description="SHA-256 of spec, protocol version and digests")] = None
    method: MethodInfo
    stream: StreamInfo
    seed: int
    settings: dict[str, Value]
    tasks: tuple[TaskInfo, ...]
    scores: tuple[Row, ...]
    further_scores: dict[str, tuple[Row, ...]] = {}
    metrics: Measures
    learned: tuple[dict[str, Number], ...] = ()
    untrained: Row = ()
    probes: tuple[ProbeValues, ...] = ()
    costs: tuple[Cost, ...] = ()
    losses: tuple[Losses, ...] = ()
    verified_answers: tuple[Disagreement, ...] = ()
    timings: Timings = Timings()
    lora_targets: str | None = None
    trainable_weights: int | None = None
    peak_memory: PeakMemory = PeakMemory()
    digests: Digests = Digests()
    environment: Environment = Environment()
    audit: AuditVerdict | None = None
    started: str | None = None
    finished: Annotated[str | None, Meta(description="ISO 8601, UTC")] = None
    marks: tuple[Mark, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise ValueError("the tasks must be one or more, each named once")
        for scores in (self.scores, *self.further_scores.values()):
            if len(scores) != len(names) or any(len(row) != len(names) for row in scores):
                raise ValueError(f"the scores must be {len(names)} rows of {len(names)}, one of each task")
        if self.untrained and len(self.untrained) != len(names):
            raise ValueError(f"the scores before the first task must be {len(names)}, one of each task")
        if any(len(probe.values) != len(names) + 1 for probe in self.probes):
            raise ValueError(
                f"the values of a probe must be {len(names) + 1}, one before the first task and one after each"
            )
        for name, value in self.settings.items():
            if name in list_settings() and not list_settings()[name].has_type(value):
                raise ValueError(f"setting '{name}' has the value {value!r:.60}")

    def _repr_html_(self) -> str:
        """Return the run as an HTML table, for notebooks: the score on each task (column) after learning another (row)."""
        import pandas  # here: slow to import

        names = [task.name for task in self.tasks]
        table = pandas.DataFrame(self.scores, names, names, dtype=float)
        title = escape(f"{self.method.name}, {self.stream.name}, seed {self.seed}")
        caption = f"{title}: OP {_shown(self.metrics.op)}, BWT {_shown(self.metrics.bwt)}"
        return f"<p>{caption}</p>{table.to_html(na_rep='', float_format='{:.1f}'.format)}"

    def setting(self, name: str) -> Any:
        """Return a setting; one that the record's version of clbench had not, as it is by default today."""
        return self.settings[name] if name in self.settings else default_settings()[name]

    @property
    def all_settings(self) -> dict[str, Value]:
        """The settings, and today's defaults of those that the record's version of clbench had not; no stream, no seed."""
        return {**default_settings(), **self.settings}


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


@cache
def default_settings() -> Mapping[str, Value]:
    """Return today's defaults of the settings, without stream and seed."""
    values = asdict(Settings())
    return MappingProxyType({name: value for name, value in values.items() if name not in ("stream", "seed")})


def make_record(**content: Any) -> Record:
    """Return the record of plain values (dicts, lists, numbers, texts), its types checked.

    A number that JSON cannot carry becomes none; as an option's or a setting's value it becomes a text ('inf').

    Raises:
        msgspec.ValidationError: a field is missing or of another type.
    """
    return msgspec.convert(_finite(msgspec.to_builtins(content)), Record)


def _finite(value: Any, in_place: Any = None) -> Any:
    if isinstance(value, dict):
        texts = ("options", "changed_options", "settings")
        return {
            key: {k: _finite(v, str(v)) for k, v in item.items()} if key in texts else _finite(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return in_place if isinstance(value, float) and not math.isfinite(value) else value


def encode_record(record: Record) -> bytes:
    """Return a record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


class _Versioned(Struct):
    schema_version: int | None = None


class OtherSchemaError(ClbenchError):
    """A record of another version of clbench: nothing is wrong with it, but it cannot be read here."""


def decode_record(content: bytes, place: str) -> Record:
    """Read a record from its JSON form; `place` names it in an error.

    Raises:
        ClbenchError: no JSON, no record, or one of another schema.
    """
    try:
        version = msgspec.json.decode(content, type=_Versioned).schema_version
        if version == 1:
            raise OtherSchemaError(
                f"{place}: schema version 1, of clbench 0.1; `python scripts/convert_records.py FOLDER` converts it"
            )
        if version is not None and version != SCHEMA_VERSION:
            raise OtherSchemaError(f"{place}: schema version {version}, this clbench reads {SCHEMA_VERSION}")
        return msgspec.json.decode(content, type=Record)
    except msgspec.ValidationError as error:
        raise ClbenchError(f"{place}: not a clbench record: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClbenchError(f"{place}: cannot be read as JSON: {error}") from None


def schema_text() -> str:
    """Return the JSON schema of a record."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Record)}
    return msgspec.json.format(msgspec.json.encode(schema), indent=1).decode() + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), "utf-8")

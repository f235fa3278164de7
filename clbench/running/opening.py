"""Resolve what a spec names: the method, the stream, its tasks, digests of all that is read, and the run's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from clbench.data.audit import Audit, audit_stream
from clbench.data.probes import Probes, read_probes
from clbench.data.sources import (
    Selection,
    Source,
    complete,
    fingerprint,
    fingerprint_questions,
    make_tasks,
    open_source,
)
from clbench.data.streams import find_stream, split_order
from clbench.data.tasks import Stream, Task
from clbench.discovery import Method, Plugins
from clbench.errors import ClbenchError
from clbench.model.backbone_files import backbone_digest
from clbench.records.files import RunFiles
from clbench.records.record import Digests
from clbench.running.identity import identity_of, plugin_digest
from clbench.settings import Settings
from clbench.spec import RunSpec

KEPT = 16  # streams whose tasks are kept, each with a seed of its own


@dataclass(frozen=True)
class OpenedRun:
    """A spec and what it names, read and built. `instance` is the method, to be run once."""

    spec: RunSpec
    plugins: Plugins
    method: Method
    instance: object
    stream: Stream
    tasks: Sequence[Task]
    digests: Digests
    probes: Probes
    identity: str
    files: RunFiles

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        return self.spec.settings


class RunOpener:
    """Opens runs in one process and keeps what they share: data, verdicts on them, digests of backbones."""

    def __init__(self, plugins: Plugins, results: Path) -> None:
        self.plugins = plugins
        self.results = results
        self._stream, self._source, self._read = cache(_find_stream), cache(open_source), lru_cache(KEPT)(_read)
        self._probes = cache(read_probes)
        self._audit, self._backbone_digest = cache(audit_stream), cache(backbone_digest)

    def open(self, spec: RunSpec) -> OpenedRun:
        """Return a run with all that it needs but the backbone.

        Raises:
            ClbenchError: the method refuses its options, or method, stream, data or backbone are not to be had.
        """
        method = self.plugins.method(spec.method)
        instance = method.build(spec.options)  # before the data: it is quick to refuse
        settings = spec.settings
        probes = self._probes(settings.probe, settings.probe_questions)
        stream = self._stream(settings.data, spec.stream)
        tasks, data, questions = self._read(
            self._source_of(settings), stream, Selection.of(settings), settings.superni_metric
        )
        digests = Digests(
            data=data,
            questions=questions,
            plugin=plugin_digest(self.plugins, method, tasks),
            backbone=self._backbone_digest(settings.backbone),
            probes=probes.digest,
        )
        identity = identity_of(spec, digests)
        files = RunFiles.of(self.results, spec, identity)
        whole = complete(stream, tasks)
        return OpenedRun(spec, self.plugins, method, instance, whole, tasks, digests, probes, identity, files)

    def audit(self, settings: Settings) -> Audit:
        """Return the audit of a run's data."""
        return self._audit(self._source_of(settings), self._stream(settings.data, settings.stream))

    def _source_of(self, settings: Settings) -> Source:
        stream = self._stream(settings.data, settings.stream)
        return self._source(settings.data, settings.layout, stream if stream.read else None)


def _read(source: Source, stream: Stream, selection: Selection, metric: str) -> tuple[Sequence[Task], str, str]:
    """Return the tasks with the digests of their data and of their questions."""
    tasks = make_tasks(source, stream, selection, metric)
    return tasks, fingerprint(tasks), fingerprint_questions(tasks)


def _find_stream(data: str, name: str) -> Stream:
    """Return the stream of a name; that of a user's file where the data is one."""
    if not data.endswith(".toml"):
        return find_stream(name)
    stream, (wanted, seed) = find_stream(data), split_order(name)
    if stream.name != wanted:
        raise ClbenchError(f"'{data}' is the file of stream '{stream.name}', not data for '{name}': --stream {data}")
    return stream if seed is None else stream.shuffled(seed)


def cut_short(opened: OpenedRun, spec: RunSpec, tasks: Sequence[Task], files: RunFiles) -> OpenedRun:
    """Return the run with another spec of the same method, other tasks, no probes, and files elsewhere, its method built anew."""
    instance = opened.method.build(spec.options)
    return replace(opened, spec=spec, instance=instance, tasks=tasks, probes=Probes(), files=files)

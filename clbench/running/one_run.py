"""One run by a call from Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clbench.data.own_streams import check_metrics, own_data
from clbench.data.streams import find_stream
from clbench.discovery import find_plugins
from clbench.errors import ClbenchError
from clbench.records.record import Record
from clbench.running.maker import RunMaker
from clbench.running.opening import RunOpener
from clbench.settings import Settings
from clbench.spec import make_spec
from clbench.terminal import Terminal


def run(
    method: str,
    order: int | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    plugins: Iterable[str | Path] = (),
    results: str | Path = "results",
    force: bool = False,
    save_adapter: bool = False,
    **settings: Any,
) -> Record:
    """Make one run, as `clbench run` does, and return its record; `run("rkif", order=4, epochs=1)`.

    A finished run is not repeated, a killed one goes on, if its method can, within a task. Progress is shown on stderr.

    Args:
        method: its name (`clbench methods`).
        order: the number of a stream's order, 1-9; in place of the setting `stream`.
        options: of the method, where they are not the defaults; `{"variant": NAME}` is a named set of them.
        preset: a named set of settings (`clbench presets`), or the file of `clbench tune`; none: the backbone's, if there is one.
        plugins: plugin files, beside clbench's own and those of installed packages.
        results: folder of the records, where answers and adapter lie beside them.
        force: repeat a finished run; do not go on from a checkpoint.
        save_adapter: keep what was trained, for `load_learner`.
        settings: those of `clbench run --help` by name: stream, seed, backbone, epochs, learning_rate (AdamW's peak) ...

    Raises:
        ClbenchError: a name or a value that there is not, data or backbone that cannot be had, a method that fails; the message
            is one line.
    """
    if order is not None and "stream" in settings:
        raise ClbenchError("order and stream both name a stream; give one")
    stream = find_stream(str(settings.get("stream", Settings.stream) if order is None else order))
    given = {**settings, **own_data(stream, settings), "stream": stream.name}
    found = find_plugins(plugins)
    check_metrics(stream, found.metrics)
    spec = make_spec(found.method(method), options or {}, given, preset)
    return RunMaker(Terminal(stderr=True), RunOpener(found, Path(results)), force, save_adapter).make(spec)

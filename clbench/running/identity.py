"""The identity of a run: what it is to do, and a digest of everything that it reads. Another identity is another run."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from clbench.data.answer_scores import METRICS
from clbench.data.tasks import Task
from clbench.discovery import Method, Plugins, imported_names, new_manager
from clbench.records.record import Digests
from clbench.spec import PROTOCOL_VERSION, RunSpec

KEPT = 256  # sources whose imports are kept
ACTING_HOOKS = ("run_stream", "attach", "evaluate")  # by which a plugin takes over a part of every run


# Settings that came after the first runs of this protocol version, with the values at which they change nothing: those runs are
# still the same then, so that they are not made again.
LATER_SETTINGS = {"overlap": 0.0, "probe": None, "probe_questions": None}


def identity_of(spec: RunSpec, digests: Digests) -> str:
    """Return the identity of a run, a hexadecimal digest; the one place that says what it is made of.

    Probes change no score, but a run with others leaves another record.
    """
    said = spec.as_dict()
    settings = {name: value for name, value in said["settings"].items() if (name, value) not in LATER_SETTINGS.items()}
    if digests.probes is None:
        settings.pop("probe_tokens")
    parts = {
        "spec": {**said, "settings": settings},
        "protocol_version": PROTOCOL_VERSION,
        "data": digests.data,
        "plugin": digests.plugin,
        "backbone": digests.backbone,
        **({} if digests.probes is None else {"probes": digests.probes}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def plugin_digest(plugins: Plugins, method: Method, tasks: Sequence[Task]) -> str:
    """Return a digest of the sources that a run's numbers come from, clbench's own rooms aside (`PROTOCOL_VERSION`).

    These are the sources of the method, of the metrics of the tasks, and of plugins that take over a part of every run; watchers
    do not count. Of an installed package all its modules are read. Of a plugin file, and of clbench's own plugins, the module and
    what it imports from its own folder. An import that is only made up while the module runs is not seen.
    """
    modules = [_module_of(method.factory), plugins.modules.get(method.origin)]
    used = {metric for task in tasks for metric in task.metrics if metric not in METRICS}
    modules += [_module_of(plugins.metrics[metric]) for metric in used]
    modules += [module for module in plugins.modules.values() if _takes_over(module)]
    found = {path for module in modules if module is not None for path in source_files(module)}
    digest = hashlib.sha256(method.name.encode())
    for content in sorted(hashlib.sha256(path.read_bytes()).digest() for path in found):  # wherever the files lie
        digest.update(content)
    return digest.hexdigest()


def _module_of(factory: Callable[..., Any]) -> ModuleType | None:
    while isinstance(factory, partial):
        factory = factory.func
    return inspect.getmodule(factory)


def _takes_over(module: ModuleType) -> bool:
    found = [new_manager().parse_hookimpl_opts(module, name) for name in ACTING_HOOKS if name in vars(module)]
    return any(options is not None and not options["wrapper"] and not options["hookwrapper"] for options in found)


def source_files(module: ModuleType) -> set[Path]:
    """Return the Python files that a plugin's module stands for (see `plugin_digest`); none where it has no file."""
    if module.__file__ is None:
        return set()
    file, package = Path(module.__file__), module.__package__ or ""
    top = package.split(".")[0]
    if top not in ("", "clbench"):
        return {path for place in sys.modules[top].__path__ for path in Path(place).rglob("*.py")}
    found, waiting = set(), [file]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported_files(path, file.parent, package)
    return found


@lru_cache(KEPT)
def _imports(source: bytes, package: str) -> frozenset[str]:
    return frozenset(imported_names(ast.parse(source), package))


def _imported_files(path: Path, folder: Path, package: str) -> Iterator[Path]:
    """Yield the files in a folder that a module imports; a package in it as a whole."""
    for name in _imports(path.read_bytes(), package):
        if package and not name.startswith(f"{package}."):
            continue
        first = name.removeprefix(f"{package}.").split(".")[0]
        if (folder / f"{first}.py").is_file():
            yield folder / f"{first}.py"
        elif first != "clbench" and (folder / first / "__init__.py").is_file():
            yield from (folder / first).rglob("*.py")

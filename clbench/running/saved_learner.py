"""Load a learner that `clbench run --save-adapter` wrote, of any method, ready to answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from clbench.discovery import find_plugins, run_manager
from clbench.errors import ClbenchError, one_line
from clbench.learning.learner import Learner
from clbench.model.backbone import load_backbone_of
from clbench.running.protocol import DefaultProtocol
from clbench.running.run import LEARNER_FILE
from clbench.spec import RunSpec


def load_learner(folder: str | Path, plugins: Iterable[str | Path] = (), **changes: Any) -> Learner:
    """Return the learner of a saved run, on a backbone loaded anew; `learner.answer(examples)` asks it.

    Args:
        folder: `results/NAME.adapter`.
        plugins: the plugin files that offer the method, unless clbench or an installed package does.
        changes: settings that differ here, such as `backbone="/where/it/is"`, `device="cpu"`.

    Raises:
        ClbenchError: the folder holds no saved run, or its method, its backbone or one of its settings is not available here.
    """
    folder = Path(folder)
    spec, stream_length = _read(folder)
    settings = replace(spec.settings, **changes)
    found = find_plugins(plugins)
    method = found.method(spec.method)
    instance = method.build(spec.options)
    backbone = load_backbone_of(settings)
    manager = run_manager(found, instance, method.name, [DefaultProtocol()])
    learner = Learner(backbone, settings, manager.hook, stream_length)
    manager.hook.attach(learner=learner)
    try:
        learner.attached.load(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ClbenchError(f"{folder}: does not fit method '{method.name}': {one_line(error)}") from error
    return learner


def _read(folder: Path) -> tuple[RunSpec, int]:
    file = folder / LEARNER_FILE
    try:
        saved = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ClbenchError(f"'{folder}' holds no saved run: it has no {LEARNER_FILE}") from None
    except (ValueError, OSError) as error:
        raise ClbenchError(f"{file}: cannot be read as JSON: {error}") from None
    try:
        return RunSpec.from_dict(saved["spec"]), int(saved["stream_length"])
    except ClbenchError as error:
        raise ClbenchError(f"{file}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ClbenchError(f"{file}: says nothing of a saved run, or one of clbench 0.1 ({error!r})") from None

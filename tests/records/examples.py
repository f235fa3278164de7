"""A record made up by hand, as far as a test cares."""

from dataclasses import asdict
from typing import Any

from clbench.records.record import Record, default_settings, make_record
from clbench.settings import Settings


def record(
    method: str = "rkif",
    stream: str = "long:1",
    seed: int = 1,
    op: float | None = 70.0,
    bwt: float | None = -5.0,
    options: dict[str, Any] | None = None,
    fields: dict[str, Any] | None = None,
    **settings: Any,
) -> Record:
    """Return a record of one task, agnews.

    Args:
        options: the method's, all of them changed from their defaults.
        fields: fields of the record as plain values, instead of those made up here; those of `method` are merged into it.
        settings: those that differ from the defaults.
    """
    values = asdict(Settings(**settings))
    content: dict[str, Any] = {
        "protocol_version": 1,
        "name": f"{stream}_{method}_s{seed}",
        "stream": {"name": stream, "family": stream.split(":")[0], "order": 4},
        "seed": seed,
        "settings": {name: values[name] for name in default_settings()},
        "tasks": [{"name": "agnews", "version": 1}],
        "scores": [[op]],
        "metrics": {"op": op, "bwt": bwt},
        "digests": {"questions": "t"},
        "finished": "2026-01-01",
        **(fields or {}),
    }
    given = (fields or {}).get("method", {})
    options = options or {}
    about = {
        "upper_bound": method == "mtl",
        "learns_plainly": method == "seqlora",
        "learning_rate": options.get("learning_rate"),
    }
    content["method"] = {"name": method, "options": options, "changed_options": options, "about": about, **given}
    return make_record(**content)

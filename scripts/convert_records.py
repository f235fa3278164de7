"""Convert the records of clbench 0.1 (schema 1) in a folder and its subfolders to schema 2, in place.

    python scripts/convert_records.py results

What a record of schema 1 does not say is null; its protocol version is 0 (from before there were versions), so that it is never
averaged with new runs. A note in each record says that it was converted. Answers, maps and adapters stay as they are; checkpoints
cannot be gone on from.
"""

import json
import sys
from pathlib import Path
from typing import Any

from clbench.atomic import write_atomically
from clbench.records.record import encode_record, make_record

SAME = (
    "name",
    "stream",
    "tasks",
    "scores",
    "metrics",
    "learned",
    "timings",
    "lora_targets",
    "audit",
    "started",
    "finished",
)


def converted(old: dict[str, Any]) -> bytes:
    """Return a record of schema 1 as one of schema 2."""
    settings, versions = dict(old["settings"]), dict(old.get("versions", {}))
    method = {name: old[name] for name in ("options", "changed_options") if name in old}
    plugin = old.get("plugin", {})
    del settings["stream"]
    about = {  # what records did not say, and is known of the built-in methods
        "upper_bound": old["method"] == "mtl",
        "learns_plainly": old["method"] == "seqlora",
        "learning_rate": old["options"].get("learning_rate"),
    }
    record = make_record(
        protocol_version=0,
        **{name: old[name] for name in SAME if name in old},
        method={"name": old["method"], "origin": plugin.get("origin"), "about": about, **method},
        seed=settings.pop("seed"),
        settings=settings,
        costs=old.get("costs") or [],
        verified_answers=old.get("verified_answers") or [],
        trainable_weights=old.get("trainable_weights"),
        peak_memory={"bytes": old.get("peak_memory_bytes"), "of": "device" if on_gpu(old) else "process"},
        digests={"data": old.get("data_fingerprint"), "questions": old.get("test_fingerprint")},
        environment={
            "clbench": versions.pop("clbench", None),
            "git_commit": old.get("git_commit"),
            "device": old.get("device"),
            "precision": old.get("precision"),
            "versions": versions,
            "plugins": old.get("plugins") or [],
        },
        notes=[f"converted from schema 1 (digest of the method's module: {plugin.get('source_digest', 'not known')})"],
    )
    return encode_record(record)


def on_gpu(old: dict[str, Any]) -> bool:
    """Return whether a record is of a run on a GPU."""
    return not str(old.get("device")).startswith(("cpu", "mps", "None"))


def main() -> None:
    """Convert the folders named on the command line."""
    for folder in sys.argv[1:]:
        for path in sorted(Path(folder).rglob("*.json")):
            old = json.loads(path.read_text("utf-8"))
            if isinstance(old, dict) and old.get("schema_version") == 1 and "scores" in old:
                content = converted(old)
                write_atomically(path, lambda temporary, content=content: temporary.write_bytes(content))
                print(path)


if __name__ == "__main__":
    main()

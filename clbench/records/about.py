"""What a record says of its method, for those who compare records."""

from collections.abc import Mapping
from typing import Any


def about_method(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `upper_bound`, `learns_plainly` and `learning_rate` (none: the setting's) of a record's method.

    A record from before methods declared them has no "about"; there the built-in methods are known.
    """
    if "about" in record:
        about: Mapping[str, Any] = record["about"]
        return about
    return {
        "upper_bound": record["method"] == "mtl",
        "learns_plainly": record["method"] == "seqlora",
        "learning_rate": record["options"].get("learning_rate"),
    }

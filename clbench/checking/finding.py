"""What one check of a method found."""

from dataclasses import dataclass

from clbench.errors import ClbenchError


@dataclass(frozen=True)
class Finding:
    """The result of one check: passed, unless there is a `fault`; `note` says what was not applicable; `error` was raised."""

    check: str
    fault: str = ""
    note: str = ""
    error: ClbenchError | None = None

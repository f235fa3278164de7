"""What is to be run: a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clbench.data.tasks import Stream
from clbench.settings import Settings

if TYPE_CHECKING:
    from clbench.discovery import Method


@dataclass(frozen=True)
class Plan:
    """One run to be made: what `clbench run` would be given."""

    method: Method
    options: Mapping[str, Any]
    stream: Stream
    settings: Settings

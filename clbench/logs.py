"""Where log lines go: standard error and a file, as text or as JSON, one object a line."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from clbench.terminal import harmless, say

ROOT = "clbench"


@dataclass(frozen=True)
class LogSettings:
    """How much is logged (-1: warnings alone; 1: every question, too), in which form, and where beside standard error, which
    has warnings alone where something else is shown there.
    """

    verbosity: int = 0
    form: Literal["text", "json"] = "text"
    file: str | None = None
    on_standard_error: bool = True

    def apply(self) -> None:
        """Send clbench's log lines there from now on, and nowhere else."""
        logger = logging.getLogger(ROOT)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        handlers: list[logging.Handler] = [
            _StandardError(logging.NOTSET if self.on_standard_error else logging.WARNING)
        ]
        if self.file is not None:
            Path(self.file).parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(self.file, encoding="utf-8", delay=True))
        for handler in handlers:
            handler.setFormatter(_JsonLines() if self.form == "json" else _TextLines())
            logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(self.verbosity, logging.DEBUG))


class _StandardError(logging.Handler):
    """Writes to what is standard error at that moment, which a test or a notebook may have changed."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), err=True)


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return harmless(f"{datetime.fromtimestamp(record.created):%H:%M:%S} {record.getMessage()}")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **record.__dict__.get("fields", {}),
        }
        return json.dumps(line)

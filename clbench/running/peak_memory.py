"""The most memory that one run takes, not its whole process."""

from __future__ import annotations

import platform
import re
import resource
from pathlib import Path
from typing import Literal

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


class PeakMemoryMeter:
    """Measures from when it is made. `of` says what: PyTorch's memory on the GPU ('device'), else resident memory.

    On Linux that is of the 'run' (the kernel's high-water mark is reset at its start), elsewhere of the whole 'process'.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.of: Literal["device", "run", "process"] = "process"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.of = "device"
        elif _reset():
            self.of = "run"

    def read(self) -> int:
        """Return the peak so far in bytes."""
        if self.of == "device":
            return torch.cuda.max_memory_allocated(self._device)
        found = PEAK.search(STATUS.read_text()) if self.of == "run" else None
        if found is not None:
            return 1024 * int(found[1])
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _reset() -> bool:
    """Set the process's high-water mark of resident memory to what it holds now; return whether that can be done here."""
    try:
        RESET.write_text("5")
        return PEAK.search(STATUS.read_text()) is not None
    except OSError:
        return False

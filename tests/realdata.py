"""Where the real data lies, for tests that use it."""

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("CLBENCH_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (set CLBENCH_DATA)")

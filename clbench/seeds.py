"""Independent seeds for every purpose of a run, derived by hashing so that a resumed run needs no generator state."""

import hashlib


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else (no process, no platform)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

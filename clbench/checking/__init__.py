"""The battery that every method must pass."""
